"""Is a known graph found? Learned gates on data whose dependencies are known.

    python -m studies.structure [--seeds 0,1,2,3,4] [--out results/structure.json]

The truth is a chain z_3 -> z_2 -> z_1 of linear Gaussians, each seen through a block of
its own, x_n = z_n + noise, which the decoder knows. The edge z_3 -> z_1 is absent: given
z_2 it says nothing. Trained are the gates, the priors and the guide, for each seed with
and without a penalty on open gates; then the absent edge is closed, to see what it is
worth.
"""

import argparse
import copy
import math
import sys
from pathlib import Path

import torch
from torch import nn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.files import write_json
from pyro_vae_zoo.models.gated_dag import (
    GatedDAGGuide,
    GatedDAGModel,
    NodePosterior,
    TopDown,
)
from pyro_vae_zoo.models.gates import Gates, monitor, structure_phases
from pyro_vae_zoo.models.ladder import GaussianLayer
from pyro_vae_zoo.nn.likelihoods import MIN_SCALE, GaussianLikelihood
from pyro_vae_zoo.runtime import hardware

TRUE_EDGES, ABSENT_EDGE = ("z_3->z_2", "z_2->z_1"), "z_3->z_1"
SIZE = 2  # of each node and each block
NOISE = 0.5  # scale of x given z
INNOVATION = 1.0  # scale of z_n given its parent


def chain(num_data: int, seed: int) -> torch.Tensor:
    """Data of the true model, shape `(num_data, 3 * SIZE)`, the root's block first."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    blocks = [draw(num_data, SIZE)]
    for _ in range(2):
        rotation, _ = torch.linalg.qr(draw(SIZE, SIZE))
        blocks.append(blocks[-1] @ rotation + INNOVATION * draw(num_data, SIZE))
    z = torch.cat(blocks, -1)
    return z + NOISE * draw(*z.shape)


def chain_data() -> zoo.Dataset:
    """4,000 data to train with and 500 each to validate and to test."""
    x = chain(5000, seed=0)
    return zoo.Dataset(x[:4000], x[4000:4500], x[4500:], likelihood="gaussian")


def make_vae(seed: int, penalty: float) -> zoo.VAE:
    """Linear priors and evidence; a decoder that is the truth and is not trained."""
    torch.manual_seed(seed)
    top_down = TopDown(
        Gates(3, penalty=penalty),
        [GaussianLayer(nn.Linear(k * SIZE, 2 * SIZE)) for k in (1, 2)],
    )
    likelihood = GaussianLikelihood((3 * SIZE,))
    with torch.no_grad():
        likelihood.raw_scale.fill_(math.log(math.expm1(NOISE - MIN_SCALE)))
    model = GatedDAGModel(top_down, nn.Identity(), likelihood, SIZE)
    nodes = [NodePosterior(nn.Linear(3 * SIZE, 2 * SIZE)) for _ in range(3)]
    guide = GatedDAGGuide(nn.Identity(), nodes, top_down)
    phases = structure_phases(0.5, modules=(guide,), penalty=top_down.gates.penalty)
    return zoo.VAE(model, guide, (3 * SIZE,), phases=phases, monitor=monitor)


def learn(data: zoo.Dataset, seed: int, penalty: float, epochs: int) -> dict:
    """Train the gates, and close the absent edge to see what it is worth."""
    vae = make_vae(seed, penalty)
    history = zoo.fit(
        vae,
        data,
        epochs=epochs,
        lr=1e-2,
        schedule="cosine",
        kl_warmup=0,
        seed=seed,
        analytic_kl=True,
        keep="last",
        progress=False,
    )
    learned = [r["gates"] for r in history.epochs if r["phase"] == "structure"][-1]
    without = {}
    for edge in (*TRUE_EDGES, ABSENT_EDGE):
        closed = copy.deepcopy(vae)
        closed.model.top_down.gates.set(edge, False)
        without[edge] = zoo.evaluate(closed, data.test, 200).elbo
    return {
        "seed": seed,
        "penalty": penalty,
        "probabilities": learned,
        "frozen": vae.monitor(vae)["gates"],
        "elbo": zoo.evaluate(vae, data.test, 200).elbo,
        "elbo_without": without,
    }


def main() -> int:
    """Learn the structure for each seed and penalty, print and write what came out."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.structure", description=__doc__.split("\n")[0]
    )
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2, 3, 4])
    parser.add_argument("--penalty", type=float, default=0.03, help="in nats")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, help="a JSON file")
    args = parser.parse_args()
    data = chain_data()
    rows = []
    for penalty in (0.0, args.penalty):
        for seed in args.seeds:
            rows.append(learn(data, seed, penalty, args.epochs))
            show(rows[-1])
    if args.out:
        command = " ".join(["python -m studies.structure", *sys.argv[1:]])
        report = {"rows": rows, "command": command}
        write_json(args.out, report | {"hardware": hardware(torch.device("cpu"))})
    return 0


def show(row: dict) -> None:
    """A line of at most 80 columns."""
    gates = "  ".join(f"{e} {p:.2f}" for e, p in row["probabilities"].items())
    change = row["elbo_without"][ABSENT_EDGE] - row["elbo"]
    print(
        f"seed {row['seed']} penalty {row['penalty']:g}: {gates}  closing {change:+.4f}"
    )


if __name__ == "__main__":
    sys.exit(main())
