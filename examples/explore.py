"""`python examples/explore.py --help`: the command `explore` of pyro_vae_zoo."""

import sys

from pyro_vae_zoo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["explore", *sys.argv[1:]]))
