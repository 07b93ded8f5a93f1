"""The command line: `python -m pyro_vae_zoo`, and the scripts in `examples/`."""
