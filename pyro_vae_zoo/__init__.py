"""A zoo of variational auto-encoders in Pyro.

Every system is a pair: `vae.model` is p(x, z), `vae.guide` is q(z|x).

    import pyro_vae_zoo as zoo

    data = zoo.load_dataset("digits")
    vae = zoo.create("iaf", data, latent_dim=8, num_flows=2)
    zoo.fit(vae, data, epochs=20)
    zoo.evaluate(vae, data.test, num_particles=1000).log_likelihood
"""

import lazy_loader

# The public names are those of `__init__.pyi`, each imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
