"""`python examples/density.py --help`: the command `density` of pyro_vae_zoo."""

import sys

from pyro_vae_zoo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["density", *sys.argv[1:]]))
