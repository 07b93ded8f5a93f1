"""Times a training step with each prior, and a flow's against its networks alone.

    python benchmarks/priors.py [--compiled] [--out results/benchmark_priors.json]

Steps (forward, backward, Adam) of `mean_field`, gated networks of 300-300, 40 latents, in
alternation. "its networks alone" is the step of `standard` and what a prior's networks
compute, without any density: the couplings' once for the batch, the encoder once for the
pseudo-inputs.
"""

import sys
from functools import partial

import pyro
import torch
from timing import images, in_turn, main, make, ratio, step, summary

import pyro_vae_zoo as zoo
from pyro_vae_zoo.transforms import CouplingNet

PAIR = {"latent_dim": 40, "hidden_dims": (300, 300), "network": "gated_mlp"}


def loss_of(vae, x, compiled):
    loss = (zoo.CompiledTrace_ELBO if compiled else zoo.AnnealedELBO)()
    return partial(loss.differentiable_loss, vae.model, vae.guide, x)


def networks_alone(kind, prior, encoder, z):
    """A function of what the networks of a learned prior compute in a step."""
    if kind == "vamp":
        return lambda: encoder(prior.pseudo_inputs).sum()
    nets = [net for net in prior.modules() if isinstance(net, CouplingNet)]
    halves = z[:, : z.shape[1] // 2]
    return lambda: sum(part.sum() for net in nets for part in net(halves))


def contestants(batch_size, device, compiled):
    x = images(batch_size, device)
    vaes = {p: make("mean_field", device, prior=p, **PAIR) for p in PRIORS}
    losses = {p: (vae, loss_of(vae, x, compiled)) for p, vae in vaes.items()}
    z = torch.randn(batch_size, 40, device=device, requires_grad=True)
    for kind in ("vamp", "flow"):
        plain = make("mean_field", device, **PAIR)
        prior = make("mean_field", device, prior=kind, **PAIR).model.prior
        loss = loss_of(plain, x, compiled)
        alone = networks_alone(kind, prior, plain.guide.encoder, z)
        both = torch.nn.ModuleList([plain, prior])
        losses[f"{kind}{ALONE}"] = both, lambda a=loss, b=alone: a() + b()
    return {
        name: partial(step, torch.optim.Adam(modules.parameters(), lr=1e-4), loss)
        for name, (modules, loss) in losses.items()
    }


PRIORS = ("standard", "mixture", "vamp", "flow")
ALONE = ", its networks alone"


def time_steps(batch_size, device, repeats, compiled=False):
    with (
        pyro.validation_enabled(False),  # as `fit` does
        pyro.settings.context(module_local_params=True),
    ):
        times = in_turn(contestants(batch_size, device, compiled), device, repeats)
    alone = {p: times.get(f"{p}{ALONE}", times["standard"]) for p in PRIORS}
    return [
        {
            "what": name,
            "batch_size": batch_size,
            "device": device,
            "compiled": compiled,
            **summary(values, digits=2),
            "over_standard": ratio(values, times["standard"]),
            "over_its_networks": ratio(values, alone[name]) if name in alone else None,
        }
        for name, values in times.items()
    ]


def show(rows):
    print(f"{'':27}{'ms':>8}{'/ standard':>13}{'/ networks':>13}")
    for row in rows:
        over = row["over_its_networks"]
        own = f"{over:13.2f}" if over else ""
        print(
            f"{row['what']:27}{row['milliseconds']:8.1f}{row['over_standard']:13.2f}{own}"
        )


if __name__ == "__main__":
    compiled = "--compiled" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--compiled"]
    run = partial(time_steps, compiled=compiled)
    main(__doc__, run, show, batch_size=100, repeats=50)
