"""What the processes of `torchrun` do in test_distributed.py; each writes what it found.

torchrun --nproc-per-node 2 tests/ranks.py FOLDER WORDS_OF_THE_COMMAND_LINE
"""

import json
import sys
from pathlib import Path

import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.runtime import Ranks, joined
from pyro_vae_zoo.training.options import TrainOptions
from pyro_vae_zoo.training.steps import Steps

SHAPE = (8, 8)


def make():
    """The same pair in every process, whatever its random state."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return zoo.create(
            "iaf", event_shape=SHAPE, latent_dim=3, hidden_dims=(9,)
        ).double()


def images(num_data):
    generator = torch.Generator().manual_seed(2)
    return torch.rand(num_data, *SHAPE, generator=generator).round().double()


def gradients(vae):
    return torch.cat([p.grad.flatten() for p in vae.parameters()])


def steps_of(vae, ranks, size):
    options = TrainOptions(epochs=1)
    return Steps(vae, vae.phases[0], options, ranks, size)


class Alone(Ranks):
    """One process that does what a certain rank would."""

    def __init__(self):
        self.rank, self.size = 0, 1


def difference_of_gradients(ranks, num_data):
    """Between the sum over the ranks, and that which one process computes of the shares."""
    x, vae, expected, bound = images(num_data), make(), 0.0, 0.0
    torch.manual_seed(ranks.seed(5))
    share = ranks.share(x)
    elbo = steps_of(vae, ranks, len(share)).take(share, {}, 0.0, 0.0, 0)
    for rank, part in enumerate(x.tensor_split(ranks.size)):
        if len(part):
            alone, other = Alone(), make()
            ranks.rank, here = rank, ranks.rank
            torch.manual_seed(ranks.seed(5))
            ranks.rank = here
            bound += steps_of(other, alone, len(part)).take(part, {}, 0.0, 0.0, 0)
            expected = expected + gradients(other)
    largest = expected.abs().max()
    return {
        "gradient": ((gradients(vae) - expected).abs().max() / largest).item(),
        "elbo": abs(elbo - bound),
    }


def refused(ranks):
    """The error of the first process, in all of them."""

    def fail():
        raise zoo.UserError("only the first one looks")

    try:
        ranks.from_first(fail)
    except zoo.UserError as error:
        return str(error)


def exact_densities():
    """Of a model without latents, whose number has no luck: the order must be right."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        kind = {"event_shape": SHAPE, "likelihood": "gaussian"}
        vae = zoo.create("maf", **kind, flow_hidden_dims=(8,), num_flows=1)
        x = torch.randn(7, *SHAPE)
    return zoo.log_likelihood(vae, x, num_particles=1).log_prob.tolist()


def unused_parameter(ranks):
    """Gradients that only one of them has, and that none has."""
    both, one, none = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    both.grad = torch.ones(2)
    one.grad = torch.ones(2) if ranks.is_first else None
    ranks.add_gradients([both, one, none])
    return [both.grad.tolist(), one.grad.tolist(), none.grad]


def strides(ranks):
    """A gradient's, of a parameter with channels last: fused optimisers read as it lies."""
    weight = torch.zeros(3, 2, 2, 2).to(memory_format=torch.channels_last)
    parameter = torch.nn.Parameter(weight)
    parameter.grad = torch.arange(24.0).reshape(3, 2, 2, 2)
    ranks.add_gradients([parameter])
    expected = 2 * torch.arange(24.0).reshape(3, 2, 2, 2)
    alike = parameter.grad.stride() == parameter.stride()
    return [torch.equal(parameter.grad, expected), alike]


def differing_start(ranks):
    vae = torch.nn.Linear(2, 2)
    vae.register_buffer("rank", torch.tensor([float(ranks.rank)]))
    torch.nn.init.constant_(vae.weight, ranks.rank)
    other = torch.tensor([float(ranks.rank)])
    ranks.same(vae, [other])
    return [vae.weight.sum().item(), vae.rank.item(), other.item()]


def watched():
    """What callbacks saw in each process, of which the first evaluates and stops."""
    seen = []

    def look(state):
        seen.append(zoo.evaluate(state.vae, state.data.valid, 5, seed=0).elbo)
        if len(seen) == 2:
            state.stop()

    x = images(12).float()
    how = {"epochs": 5, "callbacks": [look], "device": "cpu", "progress": False}
    history = zoo.fit(make(), zoo.Dataset(x, x[:4], x[:4]), **how)
    return [len(seen), len(history.epochs), history.stopped_early]


def threads():
    """The names of this process's threads, where the system tells them."""
    return [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]


def main(folder, *words):
    with joined("cpu") as ranks:
        torch.manual_seed(0)
        ev = zoo.evaluate(make(), images(9), num_particles=40)
        found = {
            "size": ranks.size,
            "gradients": {n: difference_of_gradients(ranks, n) for n in (8, 7, 1)},
            "elbo": ev.elbo,
            "khat": ev.khat_median,
            "units": ev.active_units,
            "densities": exact_densities(),
            "refused": refused(ranks),
            "unused": unused_parameter(ranks),
            "strides": strides(ranks),
            "start": differing_start(ranks),
            "any": [ranks.any(False), ranks.any(ranks.rank == 1)],
            "gather": ranks.gather(ranks.rank),
            "watched": watched(),
        }
        Path(folder, f"{ranks.rank}.json").write_text(json.dumps(found))
        # In the same two: to start them takes longer than all that they do.
        assert cli.main(list(words)) == 0
    Path(folder, f"{ranks.rank}.threads").write_text("\n".join(threads()))


if __name__ == "__main__":
    main(*sys.argv[1:])
