"""A user's script, for a type checker: what it is told of the zoo's values is useful.

`test_types.py` and CI check it; it is not run.
"""

from torch import Tensor
from typing_extensions import assert_type

import pyro_vae_zoo as zoo

data = zoo.load_dataset("digits_binary")
vae = zoo.create("iaf", data, latent_dim=8, num_flows=2)
history = zoo.fit(vae, data, epochs=2, lr=1e-3, kl_warmup=1, progress=False)
assert_type(history, zoo.History)
assert_type(history.epochs[0]["valid_elbo"], float | None)
assert_type(vae.sample(3), Tensor)
assert_type(vae.encode(data.test), Tensor)
assert_type(zoo.evaluate(vae, data.test, num_particles=10).log_likelihood, float)
assert_type(zoo.log_likelihood(vae, data.test, 10).log_prob, Tensor)
assert_type(zoo.load(zoo.save(vae, "runs/iaf")).event_shape, tuple[int, ...])
logger = zoo.callbacks.CSV("epochs.csv")
zoo.fit(
    vae, data, beta=2.0, schedule=lambda epoch, epochs: 1.0, callbacks=[print, logger]
)

zoo.fit(vae, data, epochs="two")  # type: ignore[arg-type]
zoo.fit(vae, data, epoch=2)  # type: ignore[call-arg]
zoo.fit(vae, data, callbacks=[3])  # type: ignore[list-item]
zoo.evaluate(vae, data.test, num_particle=10)  # type: ignore[call-arg]
