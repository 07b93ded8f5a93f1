"""`python -m pyro_vae_zoo`."""

import sys

from pyro_vae_zoo.cli.main import main

sys.exit(main())
