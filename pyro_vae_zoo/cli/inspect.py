"""The commands for a finished run: `evaluate`, `diagnose` and `explore`."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from pyro_vae_zoo.cli.train import source_of
from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.loading import load_dataset, reading_options
from pyro_vae_zoo.data.streamed.rows import part
from pyro_vae_zoo.errors import UserError
from pyro_vae_zoo.evaluation.diagnose import (
    DIAGNOSTICS_FILE,
    diagnose,
    findings,
    subset,
)
from pyro_vae_zoo.evaluation.evaluate import evaluate
from pyro_vae_zoo.evaluation.options import DiagnoseOptions
from pyro_vae_zoo.evaluation.probe import probe_scores
from pyro_vae_zoo.explorer.page import explore
from pyro_vae_zoo.files import (
    RESULT_FILE,
    checked,
    finite,
    read_json,
    resolve,
    write_json,
)
from pyro_vae_zoo.models.create import find_guide
from pyro_vae_zoo.models.parts import PLACES
from pyro_vae_zoo.options import declared
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.report.summary import describe, filled, summary
from pyro_vae_zoo.runs.cautions import OF_TRAINING, cautions_of
from pyro_vae_zoo.runs.folder import fingerprint_of, open_run
from pyro_vae_zoo.runs.records import Result, RunConfig
from pyro_vae_zoo.runs.references import references_of
from pyro_vae_zoo.runs.run import result_of
from pyro_vae_zoo.runtime import Ranks, hardware, pick_device
from pyro_vae_zoo.saving import load
from pyro_vae_zoo.weights.pretrained import (
    against_published,
    pretrained_info,
    pretrained_name,
)

__all__ = [
    "data_of",
    "found_data",
    "diagnose_command",
    "evaluate_command",
    "explore_command",
    "images_of",
    "pair_of",
]


def evaluate_command(args: argparse.Namespace) -> None:
    """Importance sampling, beside the published number where there is one."""
    vae, config, data, published = _read(args)
    particles, seed = args.num_particles, args.seed
    particles = published.get("num_particles", 1000) if particles is None else particles
    seed = published.get("eval_seed", 0) if seed is None else seed
    x = _first(images_of(data, args.split, seed), args, data)
    known = _known_of(args.run_folder, published)
    _check_file(args.out)
    progress = not (args.quiet or args.json)
    ev = evaluate(
        vae,
        data.judged_on(x),
        particles,
        seed=seed,
        progress=progress,
        compile=getattr(args, "compile", "auto"),
    )
    result = known | result_of(vae, ev, config, data, args.split, x)
    result["eval_seed"] = seed
    result["references"] = references_of(result, data, x)
    of_training = {
        k: v for k, v in known.get("cautions", {}).items() if k in OF_TRAINING
    }
    result["cautions"] = cautions_of(result, data=data) | of_training
    result.pop("probe", None)  # of other data, it may be
    if Ranks().is_first and (probe := probe_scores(vae, data, seed)):
        result["probe"] = probe
    if published:
        result["pretrained"] = against_published(published, result)
    result = finite(result)
    if not Ranks().is_first:
        return
    is_part = args.num_data is not None
    text = summary(result, which="first" if is_part else "")
    try:
        if args.out:
            write_json(args.out, result)
    finally:  # what took long is not lost to a full disk
        print(json.dumps(result, indent=2) if args.json else text)


def diagnose_command(args: argparse.Namespace) -> None:
    """Everything of `diagnose`, written and drawn in the folder of the run."""
    from pyro_vae_zoo.plots.run import PICTURES, draw_diagnosis

    vae, config, data, published = _read(args)
    x = subset(images_of(data, args.split, args.seed), args.num_data, args.seed)
    names = [option.name for option in declared(DiagnoseOptions)]
    options = DiagnoseOptions(**{name: getattr(args, name) for name in names})
    out = args.out or Path("runs" if published else "", args.run_folder)
    out.mkdir(parents=True, exist_ok=True)
    progress = not (args.quiet or args.json)
    found = diagnose(vae, data.judged_on(x), options, progress=progress)
    guide = find_guide(config["guide"])
    result = finite(
        {
            "guide": guide,
            "data": data.name,
            "variant": data.variant,
            "split": args.split,
            "num_data": len(x),
            "seed": config["training"]["seed"],
            "settings": asdict(options),
            **findings(found),
            "options": config["vae"]["options"],
            **hardware(vae.device),
        }
    )
    write_json(out / DIAGNOSTICS_FILE, result)
    draw_diagnosis(out, found, vae, data, guide)
    print(json.dumps(result, indent=2) if args.json else describe(result))
    if not args.json:
        names = sorted(f"{name}.png" for name in PICTURES)
        there = [name for name in names if (out / name).exists()]
        print(filled(f"in {out}: {DIAGNOSTICS_FILE}, {', '.join(there)}"))


def explore_command(args: argparse.Namespace) -> None:
    """The page of a run, with the classes of its data where they are known."""
    vae, _, data, published = _read(args)
    folder = Path("runs" if published else "", args.run_folder)
    _check_file(args.out)
    page = explore(
        vae,
        images_of(data, args.split, args.seed),
        args.out or folder / "explore.html",
        data=data,
        split=args.split,
        num_data=args.num_data,
        num_samples=args.num_samples,
        seed=args.seed,
        progress=not args.quiet,
    )
    size = page.stat().st_size / 1e6
    print(filled(f"in {page}: {size:.1f} MB; open it in a browser"))


def _read(args: argparse.Namespace) -> tuple[VAE, RunConfig, Dataset, dict]:
    """A pair on its device, its configuration, its data; what was published of it."""
    vae, config, published = pair_of(args)
    return vae, config, data_of(args, vae, config), published


def pair_of(args: argparse.Namespace) -> tuple[VAE, RunConfig, dict]:
    """A pair on its device, its configuration, and what was published of it.

    Raises:
        UserError: for a part of the user's own that is not given, and for one that is
            given but is not the run's.
    """
    name = pretrained_name(args.run_folder)
    published = pretrained_info(name) if name else {}
    config = published or open_run(args.run_folder)
    asked = {"guide": config["guide"], **config.get("places", {})}
    if "model" in asked:
        del asked["guide"]
    parts = {
        place: _own(place, getattr(args, place, None), asked.get(place, ""))
        for place in ("guide", "model", *PLACES)
    }
    vae = load(args.run_folder, **parts)
    whole = cast(RunConfig, {**config, "vae": vae.config})
    return vae.to(pick_device(args.device)), whole, published


def data_of(args: argparse.Namespace, vae: VAE, config: RunConfig) -> Dataset:
    """The data of a run, or those that were given in their place.

    Raises:
        UserError: for data of another kind than the pair's.
    """
    data = found_data(args, config)
    own = {"likelihood", "model"} & {*config.get("places", {})}
    if data.likelihood != vae.likelihood and not own:
        raise UserError(
            f"the run's likelihood is {vae.likelihood}, but that of the data "
            f"{data.name} is {data.likelihood}; use data for the run's likelihood"
        )
    return data


def found_data(args: argparse.Namespace, config: RunConfig) -> Dataset:
    """The data of a run, where they lie now, or others, read as those of the run were.

    Its own data have its `train_size`. What is standardised has the mean and the scale of
    the data that the run was trained on. Where these are gone, data of their variant (the
    name of the file, the sizes of the splits) are taken for them.

    Raises:
        UserError: where they are gone, and data of another variant were given; and where
            they have changed.
    """
    source, read_as = config["source"], config.get("data_options", {})
    name, options = args.data or source, read_as
    if args.data:  # of another format, it may be
        takes = reading_options(name)
        options = {k: v for k, v in read_as.items() if k in takes}
    options = options | dict(args.data_options)
    data = load_dataset(name, args.data_dir, options).read_by(args.num_workers)
    is_own = source_of(name) == source_of(source) and options == read_as
    if is_own and config.get("train_size"):
        data = data.first(config["train_size"])
    if is_own and config.get("fingerprint") not in (None, fingerprint_of(data)):
        raise UserError(
            f"{name} has changed since the run was trained; put the data back, or give "
            "others under another name, by --data"
        )
    if data.standardisation is None:
        return data
    if is_own:
        then, now = (v.rpartition(", ")[2] for v in (config["variant"], data.variant))
        if then != now:
            raise UserError(
                f"{name} has changed since the run was trained: it had {then} data, and "
                f"has {now}; the mean and scale of the run's data are lost with them"
            )
        return data
    try:
        own = load_dataset(source, args.data_dir, read_as)
    except (UserError, OSError) as error:
        if data.variant == config["variant"]:  # they have moved
            return data
        raise UserError(
            f"{name} is not the run's data, so it has to be standardised by the mean "
            f"and scale of the run's data, which cannot be read: {error}"
        ) from error
    return data.standardised_as(own)


def _own(place: str, given: str | None, recorded: str) -> Any:
    """What stands in a run's place, where it is the user's own; None where it is not.

    Raises:
        UserError: where it is not given, and where another part than the run's is.
    """
    if ".py:" in recorded:
        found = resolve(given, place) if given else None
        if not callable(found):
            raise UserError(
                f"the run's {place} is {recorded}, code of your own, which is only run "
                f"when you name it: add --{place} {recorded}"
            )
        return found
    if given not in (None, recorded):
        raise UserError(
            f"--{place}: expected {recorded or 'nothing'}, as when the run was trained, "
            f"got {given}; leave --{place} out"
        )
    return None


def _check_file(out: Path | None) -> None:
    """Refuse a folder where a file is written, before hours of work and not after."""
    if out is not None and out.is_dir():
        raise UserError(f"--out: expected a file, got the folder {out}")


def images_of(data: Dataset, split: str, seed: int) -> Tensor:
    """Those of a split; the training images of a dynamic set are one draw of them."""
    return data.epoch(seed, 0) if split == "train" else getattr(data, split)


def _first(x: Tensor, args: argparse.Namespace, data: Dataset) -> Tensor:
    """The first so many, as `--num-data` asks."""
    if args.num_data is not None and not 1 <= args.num_data <= len(x):
        raise UserError(
            f"--num-data: expected 1 to {len(x)}, the size of the {args.split} split "
            f"of {data.name}, got {args.num_data}"
        )
    return part(x, slice(args.num_data))


def _known_of(folder: Path, published: dict) -> dict:
    """The part of a result that is of the training, not of an evaluation."""
    if published:
        keys = ("name", "recipe", "commit")
        return {key: published[key] for key in keys} | published["trained"]
    path = folder / RESULT_FILE
    if not path.exists():
        return {}
    return {**checked(read_json(path), Result, path, "result of a run")}
