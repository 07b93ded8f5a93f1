"""`python -m pyro_vae_zoo`."""

import sys

from pyro_vae_zoo.cli import main

sys.exit(main())
