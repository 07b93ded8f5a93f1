"""The pairs of `svi_step.py` in NumPyro, with the weights of the zoo's.

Apart from `by_hand.py` because NumPyro and JAX need not be installed.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import torch
from by_hand import MIN_SCALE, SOFTPLUS_OF_ONE
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform
from numpyro.infer.util import log_density
from pyro import poutine
from torch import nn

from pyro_vae_zoo.transforms.planar import LIMIT


def array(tensor):
    return jnp.array(tensor.detach().cpu().numpy())


def linear(layer):
    """Weight and bias of a linear layer, the weight as `x @ weight` wants it."""
    return {"weight": array(layer.weight.T), "bias": array(layer.bias)}


def linears(net):
    return [linear(layer) for layer in net if isinstance(layer, nn.Linear)]


def affine(layer, x):
    return x @ layer["weight"] + layer["bias"]


class Step(Transform):
    """A map of a flow: a function from z to where it goes and the log-determinant."""

    domain = codomain = constraints.real_vector

    def __init__(self, forward):
        self.forward = forward

    def __call__(self, x):
        """The image of z."""
        return self.forward(x)[0]

    def call_with_intermediates(self, x):
        """The image of z, and what `log_abs_det_jacobian` is later given."""
        return self.forward(x)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """The log-determinant, kept or computed."""
        return self.forward(x)[1] if intermediates is None else intermediates

    def tree_flatten(self):
        """The parts that NumPyro asks of every transform."""
        return (), ((), {"forward": self.forward})


def gated(step):
    """The parameters of a gated autoregressive step, and it as a function of them."""
    made = step.nn
    hidden_mask, out_mask = array(made.mask_0.T), array(made.mask_1.T)
    parameters = {
        "hidden": linear(made.layers[0]),
        "context": array(made.context_layer.weight.T),
        "out": linear(made.layers[1]),
    }

    def forward(p, h, z):
        a = z @ (p["hidden"]["weight"] * hidden_mask) + p["hidden"]["bias"]
        a = jax.nn.elu(a + h @ p["context"])
        out = a @ (p["out"]["weight"] * out_mask) + p["out"]["bias"]
        mean, logit = jnp.split(out, 2, axis=-1)
        logit = logit + step.kwargs["sigmoid_bias"]
        gate = jax.nn.sigmoid(logit)
        return gate * z + (1 - gate) * mean, jax.nn.log_sigmoid(logit).sum(-1)

    return parameters, forward


def unit(v):
    tiny = jnp.finfo(v.dtype).tiny
    largest = jax.lax.stop_gradient(jnp.abs(v).max(-1, keepdims=True))
    v = v / jnp.maximum(largest, tiny)
    square = jnp.square(v).sum(-1, keepdims=True)
    return v * jax.lax.rsqrt(jnp.maximum(square, tiny))


def planar(step):
    """The parameters of an amortised planar step, and it as a function of them."""

    def forward(p, h, z):
        dim = z.shape[-1]
        b, u, w = jnp.split(affine(p, h), [1, 1 + dim], axis=-1)
        direction = unit(w)
        a = (w * u).sum(-1, keepdims=True)
        excess = jax.nn.relu(-a) / LIMIT
        along = (direction * u).sum(-1, keepdims=True) * direction
        u = u - excess / (1 + excess) * along
        bend = jnp.tanh((w * z).sum(-1, keepdims=True) + b)
        log_det = jnp.log1p((1 - jnp.square(bend)) * (a / (1 + excess)))
        return z + u * bend, log_det.squeeze(-1)

    return linear(step.nn), forward


STEPS = {"iaf": gated, "planar": planar}


def translate(vae):
    """A model and a guide that begin with the weights of the zoo's pair."""
    posterior = vae.guide.posterior
    steps = []
    if hasattr(posterior, "flows"):
        steps = [STEPS[vae.config["guide"]](step) for step in posterior.flows]
    forwards = [forward for _, forward in steps]
    at_first = {
        "encoder": linears(vae.guide.encoder),
        "base": linear(getattr(posterior, "base", posterior).linear),
        "flows": [parameters for parameters, _ in steps],
    }
    decoder, latent_dim = linears(vae.model.decoder), vae.model.latent_dim

    def model(x):
        layers = numpyro.param("model", decoder)
        with numpyro.plate("data", len(x)):
            prior = dist.Normal(0, 1).expand((len(x), latent_dim))
            h = numpyro.sample("z", prior.to_event(1))
            for layer in layers[:-1]:
                h = jax.nn.relu(affine(layer, h))
            logits = affine(layers[-1], h).reshape(x.shape)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(2), obs=x)

    def guide(x):
        p = numpyro.param("guide", at_first)
        h = x.reshape(len(x), -1)
        for layer in p["encoder"]:
            h = jax.nn.relu(affine(layer, h))
        loc, raw = jnp.split(affine(p["base"], h), 2, axis=-1)
        scale = jax.nn.softplus(raw + SOFTPLUS_OF_ONE) + MIN_SCALE
        q = dist.Normal(loc, scale).to_event(1)
        flow = [
            Step(lambda z, p=p, forward=forward: forward(p, h, z))
            for p, forward in zip(p["flows"], forwards, strict=True)
        ]
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.TransformedDistribution(q, flow) if flow else q)

    return model, guide


def inference(vae, lr):
    model, guide = translate(vae)
    return numpyro.infer.SVI(
        model, guide, numpyro.optim.Adam(lr), numpyro.infer.Trace_ELBO()
    )


def train(vae, data, epochs, lr, scan):
    """Train in a loop of jitted updates, or by a jitted scan over an epoch's updates."""
    svi, data = inference(vae, lr), array(data)
    state = svi.init(jax.random.key(0), data[: epochs.batch_size])
    update = lambda state, index, data: svi.update(state, data[index])  # noqa: E731
    one = jax.jit(update)
    every = jax.jit(
        lambda state, order, data: jax.lax.scan(
            lambda state, index: update(state, index, data), state, order
        )
    )
    epochs.judge = lambda x: -float(svi.evaluate(state, array(x))) / len(x)
    for order in epochs:
        order = jnp.array(order.cpu().numpy())
        if scan:
            state, losses = every(state, order, data)
        else:
            losses = []
            for index in order:
                state, loss = one(state, index, data)
                losses.append(loss)
        epochs.loss += float(jnp.sum(jnp.asarray(losses)))


def check(vae, x, lr, tolerance):
    """Score a draw of NumPyro's by the zoo's pair: the bounds have to agree.

    Raises:
        AssertionError: where they do not, or where the parameters are not as many.
    """
    svi, data = inference(vae, lr), array(x)
    params = svi.get_params(svi.init(jax.random.key(0), data))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    expected = sum(p.numel() for p in vae.parameters())
    assert count == expected, f"NumPyro trains {count} parameters, not {expected}"
    guide = numpyro.handlers.seed(svi.guide, jax.random.key(0))
    log_q, trace = log_density(guide, (data,), {}, params)
    model = numpyro.handlers.replay(svi.model, trace)
    log_p, _ = log_density(model, (data,), {}, params)
    z = torch.tensor(trace["z"]["value"].tolist(), device=x.device)
    with torch.no_grad():
        q = vae.guide.posterior(vae.guide.encoder(x)).log_prob(z).sum()
        p = poutine.trace(poutine.condition(vae.model, {"z": z})).get_trace(x)
        elbo = (p.log_prob_sum() - q).item()
    gap = abs(float(log_p - log_q) / elbo - 1)
    assert gap < tolerance, f"NumPyro's bound is off by {gap:.1e}"
