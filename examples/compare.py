"""`python examples/compare.py --help`: the command `compare` of pyro_vae_zoo."""

import sys

from pyro_vae_zoo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
