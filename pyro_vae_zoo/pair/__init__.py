"""`VAE`, its contract, and all that is asked of any pair."""
