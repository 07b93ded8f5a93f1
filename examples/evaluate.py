"""`python examples/evaluate.py --help`: the command `evaluate` of pyro_vae_zoo."""

import sys

from pyro_vae_zoo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
