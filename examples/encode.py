"""`python examples/encode.py --help`: the command `encode` of pyro_vae_zoo."""

import sys

from pyro_vae_zoo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["encode", *sys.argv[1:]]))
