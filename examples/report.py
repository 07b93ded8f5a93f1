"""`python examples/report.py --help`: the command `report` of pyro_vae_zoo.

The results, and the README beside them, are by default those of this script's checkout.
"""

import os
import sys
from pathlib import Path

from pyro_vae_zoo.cli.main.main import main

if __name__ == "__main__":
    results = os.path.relpath(Path(__file__).resolve().parent.parent / "results")
    sys.exit(main(["report", "--results", results, *sys.argv[1:]]))
