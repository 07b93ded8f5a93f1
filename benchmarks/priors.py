"""Times a training step with each prior, and a flow's against its networks alone.

    python benchmarks/priors.py [--compiled] [--out results/benchmark_priors.json]

Steps (forward, backward, Adam) of `mean_field`, gated networks of 300-300, 40 latents, in
alternation. "flow, its networks alone" is the step of `standard` and one pass of the
couplings' networks without any density: what a flow prior is made of.
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


def networks_alone(plain, prior, x, z, compiled):
    """The step of a pair with N(0, I), and each coupling's network once."""
    nets = [net for net in prior.modules() if isinstance(net, CouplingNet)]
    loss = loss_of(plain, x, compiled)

    def run():
        outputs = (net(z[:, : z.shape[1] // 2]) for net in nets)
        return loss() + sum(part.sum() for parts in outputs for part in parts)

    return run


def contestants(batch_size, device, compiled):
    x = images(batch_size, device)
    vaes = {p: make("mean_field", device, prior=p, **PAIR) for p in PRIORS}
    losses = {p: (vae, loss_of(vae, x, compiled)) for p, vae in vaes.items()}
    z = torch.randn(batch_size, 40, device=device, requires_grad=True)
    plain = make("mean_field", device, **PAIR)
    prior = make("mean_field", device, prior="flow", **PAIR).model.prior
    both = torch.nn.ModuleList([plain, prior])
    alone = networks_alone(plain, prior, x, z, compiled)
    losses["flow, its networks alone"] = both, alone
    return {
        name: partial(step, torch.optim.Adam(modules.parameters(), lr=1e-4), loss)
        for name, (modules, loss) in losses.items()
    }


PRIORS = ("standard", "mixture", "vamp", "flow")


def time_steps(batch_size, device, repeats, compiled=False):
    with (
        pyro.validation_enabled(False),  # as `fit` does
        pyro.settings.context(module_local_params=True),
    ):
        times = in_turn(contestants(batch_size, device, compiled), device, repeats)
    bases = ("standard", "flow, its networks alone")
    return [
        {
            "what": name,
            "batch_size": batch_size,
            "device": device,
            "compiled": compiled,
            **summary(values, digits=2),
            "over": {base: ratio(values, times[base]) for base in bases},
        }
        for name, values in times.items()
    ]


def show(rows):
    print(f"{'':27}{'ms':>8}{'/ standard':>13}{'/ networks':>13}")
    for row in rows:
        ratios = "".join(f"{value:13.2f}" for value in row["over"].values())
        print(f"{row['what']:27}{row['milliseconds']:8.1f}{ratios}")


if __name__ == "__main__":
    compiled = "--compiled" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--compiled"]
    run = partial(time_steps, compiled=compiled)
    main(__doc__, run, show, batch_size=100, repeats=50)
