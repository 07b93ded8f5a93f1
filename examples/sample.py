"""`python examples/sample.py --help`: the command `sample` of pyro_vae_zoo."""

import sys

from pyro_vae_zoo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))
