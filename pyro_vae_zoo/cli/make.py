"""The commands that make arrays of a finished run: `sample` and `encode`."""

import argparse
import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae_zoo.cli.inspect import data_of, found_data, images_of, pair_of
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.files import write_atomically, written
from pyro_vae_zoo.nn.names import COUNTS
from pyro_vae_zoo.pair.draws import means_of
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runtime import check_seed

__all__ = ["encode_command", "sample_command"]

# Likelihoods whose data are as they were given, without a scale to be put back.
_AS_GIVEN = ("bernoulli", "discretized_logistic", *COUNTS)


def sample_command(args: argparse.Namespace) -> None:
    """Draws of x from the model, or means of p(x|z), on the scale of the data."""
    vae, config, published = pair_of(args)
    out = _file(args, published, "samples.npz", (".npz", ".csv", ".png"))
    if args.mean and not means_of(vae)[1]:
        raise UserError(
            "--mean: p(x|z) has no mean in closed form; leave it out for draws of x"
        )
    data = None
    if vae.likelihood not in _AS_GIVEN:
        data = found_data(args, config)
    elif args.data or args.data_options:
        raise UserError(
            f"--data and --data-option would be ignored: samples of a {vae.likelihood} "
            "have no scale to be put back; leave them out"
        )
    with _seeded(args.seed):
        x = vae.sample(args.num_samples, mean=args.mean)
    x = x if data is None else data.pixels(x)
    if out.suffix == ".png":
        from pyro_vae_zoo import plots

        what = "means of p(x|z)" if args.mean else "samples of p(x)"
        title = f"{len(x)} {what}: {plots.figure_title(vae, data)}, seed {args.seed}"
        plots.save_figure(plots.plot_images(x, title=title), out)
    else:
        _write(out, {"x": x})
    _say(args, out, {"num_samples": len(x), "mean": args.mean}, {"x": x})


def encode_command(args: argparse.Namespace) -> None:
    """Codes z of the data of a split, with their labels where there are some."""
    vae, config, published = pair_of(args)
    out = _file(args, published, "codes.npz", (".npz", ".csv"))
    data = data_of(args, vae, config)
    x = images_of(data, args.split, args.seed)
    arrays: dict[str, Any] = dict(_codes(vae, x, args.num_samples, args.seed))
    labels = (data.labels or {}).get(args.split)
    if labels is not None:
        arrays |= {"label": labels, "label_names": list(data.label_names or ())}
    _write(out, arrays)
    said = {"data": data.name, "variant": data.variant, "split": args.split}
    _say(args, out, said | {"num_samples": args.num_samples}, arrays)


def _codes(vae: VAE, x: Tensor, num_samples: int, seed: int) -> dict[str, Tensor]:
    """Posterior means `(len(x), latent_dim)`, or draws with one more dimension before."""
    if num_samples < 0:
        raise UserError(f"num_samples must not be negative, got {num_samples}")
    x = vae.check_data(x)
    if isinstance(sites := vae.encode(x[:1]), dict):
        if not sites:
            raise UserError("a density model has no latents to encode data to")
        if not num_samples:
            raise UserError(
                "the mean of q(z|x) needs a guide of one latent vector, got latents "
                f"{', '.join(sites)}; give --num-samples 1 for draws of q(z|x)"
            )
    with _seeded(seed):
        found = vae.encode(x, num_samples) if num_samples else vae.embed(x)
    return {"z": found} if isinstance(found, Tensor) else found


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """PyTorch's random state of a seed, and afterwards as it was."""
    check_seed(seed)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        yield


def _file(
    args: argparse.Namespace, published: Mapping, name: str, kinds: tuple[str, ...]
) -> Path:
    """Where the result goes, known to be of a kind before anything is drawn."""
    out = args.out or Path("runs" if published else "", args.run_folder, name)
    if out.suffix not in kinds:
        known = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        raise UserError(f"--out: expected a file that ends in {known}, got {out}")
    return out


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Arrays as they are, or as a table with a line for each datum and draw."""
    plain = {
        k: v.cpu().numpy() if isinstance(v, Tensor) else v for k, v in arrays.items()
    }
    if path.suffix == ".npz":
        with written(path) as file:
            stored: dict[str, Any] = {k: np.asarray(v) for k, v in plain.items()}
            np.savez_compressed(file, **stored)
        return
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(_table(plain))
    write_atomically(path, out.getvalue().encode())


def _table(arrays: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Rows of text, the first of them the names of the columns."""
    names, label = arrays.get("label_names"), arrays.get("label")
    values = {k: v for k, v in arrays.items() if k not in ("label", "label_names")}
    drawn = "x" not in values and next(iter(values.values())).ndim > 2
    columns = {k: v if drawn else v[None] for k, v in values.items()}  # draws first
    draws, rows = next(iter(columns.values())).shape[:2]
    flat = {k: v.reshape(draws, rows, -1) for k, v in columns.items()}
    head = [f"{k}_{i}" for k, v in flat.items() for i in range(v.shape[-1])]
    first = ["datum", "draw"] if drawn else []
    yield first + head + ([] if label is None else ["label"])
    for row in range(rows):
        last = [] if label is None else [names[label[row]] if names else label[row]]
        for draw in range(draws):
            # Nine digits are what a number in 32 bits takes to come back as it was.
            cells = [f"{v:.9g}" for part in flat.values() for v in part[draw, row]]
            yield ([row, draw] if drawn else []) + cells + last


def _say(
    args: argparse.Namespace,
    out: Path,
    what: dict[str, Any],
    arrays: Mapping[str, Any],
) -> None:
    """What was written, in a line or as JSON."""
    shapes = {k: list(v.shape) for k, v in arrays.items() if isinstance(v, Tensor)}
    if args.json:
        record = {"run": str(args.run_folder), "file": str(out), "seed": args.seed}
        print(json.dumps(record | what | {"arrays": shapes}, indent=2))
        return
    shown = ", ".join(f"{k} {tuple(shape)}" for k, shape in shapes.items())
    print(f"in {out}: {shown}; seed {args.seed}")
