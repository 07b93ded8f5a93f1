"""`python examples/report.py --help`: the command `report` of pyro_vae_zoo."""

import sys

from pyro_vae_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
