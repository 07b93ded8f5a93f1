"""Times a training step of the hierarchy against its own networks called alone.

    python benchmarks/train_step.py [--out results/benchmark_train_step.json]

Times, side by side in one process and in alternation, steps (forward, backward, Adam)
of `self_reflective` with its 10 x 10 latents, of its networks without any density, and
of `mean_field`. The networks are called once each, and as often as the definition of
the pair calls them: a bijector stands in the model and in the guide.
"""

from functools import partial

import pyro
import torch
from timing import images, in_turn, main, make, ratio, step, summary

import pyro_vae_zoo as zoo

# The rows of `studies/reproduce.py --table self_reflective`.
ONE_LAYER = {"latent_dim": 100, "hidden_dims": (1000, 1000), "activation": "elu"}


def pair_loss(vae, x, analytic_kl):
    """The negative bound, as `fit` takes it."""
    loss = zoo.AnnealedELBO(analytic_kl=analytic_kl)
    return loss.loss_and_elbo(vae.model, vae.guide, x)[0]


def networks_loss(vae, x, z, once):
    """The sum of all outputs of the networks, each on inputs of its own."""
    model, guide = vae.model, vae.guide
    blocks = [None, *model.partition.split(x)]
    total = 0.0
    for l, bijector in enumerate(model.bijectors.layers):
        above = z[l - 1] if l else None
        data, posterior = model.data_layers[l], guide.posteriors[l]
        outputs = [bijector.net(above), model.priors[l].net(above), data.gamma(z[l])]
        if l:
            outputs += [data.delta(blocks[l], z[l]), posterior.estimate(above)]
        h = posterior.encoder(x)
        outputs.append(posterior.correction(h, above) if l else posterior.correction(h))
        if not once and l + 1 < len(z):
            outputs.append(bijector.net(above))
        total = total + sum(output.sum() for output in outputs)
    return total


def contestants(batch_size, device):
    """Name -> a training step."""
    x = images(batch_size, device)
    deep = make("self_reflective", device)
    # As in the step, each network hands a gradient on to the z above it.
    z = torch.randn(10, batch_size, 10, device=device, requires_grad=True)
    losses = {
        "networks, each once": (deep, partial(networks_loss, deep, x, z, True)),
        "networks, as called": (deep, partial(networks_loss, deep, x, z, False)),
    }
    rows = {
        "self_reflective": (make("self_reflective", device), True),
        "self_reflective, one draw": (make("self_reflective", device), False),
        "bottom_up": (make("bottom_up", device), True),
        "ladder": (make("ladder", device), True),
        "mean_field": (make("mean_field", device, **ONE_LAYER), True),
    }
    losses |= {
        name: (vae, partial(pair_loss, vae, x, analytic))
        for name, (vae, analytic) in rows.items()
    }
    return {
        name: partial(step, torch.optim.Adam(vae.parameters(), lr=1e-4), loss)
        for name, (vae, loss) in losses.items()
    }


def time_steps(batch_size, device, repeats):
    with (
        pyro.validation_enabled(False),  # as `fit` does
        pyro.settings.context(module_local_params=True),
    ):
        times = in_turn(contestants(batch_size, device), device, repeats)
    bases = ("networks, each once", "networks, as called", "mean_field")
    return [
        {
            "what": name,
            "batch_size": batch_size,
            "device": device,
            **summary(values, digits=2),
            "over": {base: ratio(values, times[base]) for base in bases},
        }
        for name, values in times.items()
    ]


def show(rows):
    print(f"{'':27}{'ms':>8}{'/ each once':>13}{'/ as called':>13}{'/ mean_field':>14}")
    for row in rows:
        ratios = zip(row["over"].values(), (13, 13, 14), strict=True)
        print(
            f"{row['what']:27}{row['milliseconds']:8.1f}"
            + "".join(f"{ratio:{width}.2f}" for ratio, width in ratios)
        )


if __name__ == "__main__":
    main(__doc__, time_steps, show, batch_size=128, repeats=50)
