"""Figures 1 to 4 of Henrion & Welleck, drawn anew from our runs of their table.

    python -m studies.flow_figures results/flows_long [--seed 0]

writes into the folder: `training_curves.png` (their figures 1 and 2: training curves of
the methods, whole and near the end), `planar_prior.png` (figure 3: the log-density under
the prior of what a planar guide draws, theirs and ours) and `iaf_densities.png` (figure
4: the log-densities before and after the steps of IAF). All are of validation data, but
for the training ELBO.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.files import read_json
from pyro_vae_zoo.plots import save_figure
from pyro_vae_zoo.plots.style import (
    COLOURS,
    NATS,
    add_legend,
    dress,
    key_of,
    make_figure,
)

_Curve = Sequence[Mapping[str, Any]]  # of a row: a record for each epoch

METHODS = (
    "mean_field",
    "iaf_2",
    "householder_10",
    "planar_10",
    "planar_as_published_10",
)
_LENGTHS = (1, 2, 10)


def main() -> int:
    """Draw the three pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.flow_figures", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="results of the table `flows`")
    parser.add_argument("--seed", type=int, default=0, help="of the runs (default: 0)")
    args = parser.parse_args()
    try:
        for name, fig in figures(args.folder, args.seed).items():
            print(f"written: {save_figure(fig, args.folder / f'{name}.png')}")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def figures(folder: Path, seed: int) -> dict[str, Figure]:
    """The pictures, by the names of their files.

    Raises:
        UserError: where a row that they need is not in the folder, or is without what
            they show.
    """

    def read(name: str) -> _Curve:
        path = folder / f"{name}-s{seed}.json"
        if not path.exists():
            raise UserError(f"expected a result {path}; run the row {name} first")
        return read_json(path)["curve"]

    methods = {name: read(name) for name in METHODS}
    planar = {
        title: {f"K = {k}": read(f"{row}_{k}") for k in _LENGTHS}
        for title, row in (
            ("planar", "planar"),
            ("as published", "planar_as_published"),
        )
    }
    iaf = {f"K = {k}": read(f"iaf_{k}") for k in _LENGTHS}
    densities = {
        "log q(z_0), before the steps": "initial_log_density",
        "log q(z_K), after them": "final_log_density",
        "sum of log-determinants": "log_det",
    }
    of_iaf = {title: (iaf, _term(key)) for title, key in densities.items()}
    of_planar = {title: (by, _log_prior) for title, by in planar.items()}
    return {
        "training_curves": _training(methods),
        "planar_prior": _panels(
            of_planar, "log p(z) of draws from q(z|x)", shared=True
        ),
        "iaf_densities": _panels(of_iaf, "IAF over the training", shared=False),
    }


def _term(key: str) -> Callable[[Mapping[str, Any]], float]:
    def value(record: Mapping[str, Any]) -> float:
        if record.get(key) is None:
            raise UserError(f"expected records with {key}; run the row anew")
        return record[key]

    return value


def _log_prior(record: Mapping[str, Any]) -> float:
    """E_q log p(z): the log-density of q less the KL."""
    return _term("final_log_density")(record) - _term("kl")(record)


def _training(methods: Mapping[str, _Curve]) -> Figure:
    """The training ELBO over steps: the whole of it, and the last eighth."""
    fig = make_figure(8, 3.4, "Training ELBO")
    whole, end = fig.subplots(1, 2)
    train = _term("train_elbo")
    for ax, title in ((whole, "all epochs"), (end, "the last eighth")):
        _lines(ax, methods, train)
        dress(ax, title, "step", NATS)
    last = [curve[-max(len(curve) // 8, 2) :] for curve in methods.values()]
    end.set_xlim(last[0][0]["step"], last[0][-1]["step"])
    near = [train(record) for curve in last for record in curve]
    end.set_ylim(min(near) - 0.5, max(near) + 0.5)
    whole.set_ylim(min(near) - 20, max(near) + 2)
    _legend(fig, methods)
    return fig


def _panels(
    panels: Mapping[str, tuple[Mapping[str, _Curve], Callable]],
    title: str,
    *,
    shared: bool,
) -> Figure:
    fig = make_figure(3.4 * len(panels), 3.2, title)
    axes = fig.subplots(1, len(panels), sharey=shared, squeeze=False)[0]
    for ax, (name, (curves, value)) in zip(axes, panels.items(), strict=True):
        _lines(ax, curves, value)
        dress(ax, name, "step", NATS if ax is axes[0] or not shared else "")
    _legend(fig, next(iter(panels.values()))[0])
    return fig


def _lines(ax: Axes, curves: Mapping[str, _Curve], value: Callable) -> None:
    for colour, curve in zip(COLOURS, curves.values(), strict=False):
        ax.plot(
            [r["step"] for r in curve], [value(r) for r in curve], color=colour, lw=1
        )


def _legend(fig: Figure, labels: Mapping[str, Any]) -> None:
    keys = [key_of(n, color=c) for n, c in zip(labels, COLOURS, strict=False)]
    add_legend(fig, keys, ncols=3)


if __name__ == "__main__":
    sys.exit(main())
