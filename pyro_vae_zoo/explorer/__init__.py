"""A latent space as a page for the browser, with the decoder in it."""
