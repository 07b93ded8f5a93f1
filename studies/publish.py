"""A finished run -> pretrained weights in 16 bits, and the number that they have.

    python -m studies.publish runs/iaf-mnist_static-s0 --commit HASH

leaves `iaf-mnist_static.safetensors` and `.json` in the package's folder of weights, for
`zoo.load("iaf-mnist_static")` and `python examples/evaluate.py iaf-mnist_static`.

`publish` rounds the weights, writes the file, loads it back and evaluates what was
loaded, so that the number in the JSON is that of the weights as they are stored. It
also says what the 16 bits cost: the number of the weights before they were rounded, by
the same draws.
"""

import argparse
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.loading import load_dataset
from pyro_vae_zoo.errors import UserError, unknown_name
from pyro_vae_zoo.evaluation.evaluate import evaluate
from pyro_vae_zoo.files import RESULT_FILE, read_json, write_atomically, write_json
from pyro_vae_zoo.models.registry import list_guides
from pyro_vae_zoo.nn.options import PairOptions
from pyro_vae_zoo.options import declared
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.report.summary import summary
from pyro_vae_zoo.runs.folder import open_run
from pyro_vae_zoo.runs.run import result_of
from pyro_vae_zoo.runtime import hardware, pick_device
from pyro_vae_zoo.saving import load, save
from pyro_vae_zoo.training.options import TrainOptions
from pyro_vae_zoo.weights.pretrained import sha256_of, weights_folder

__all__ = ["command_of", "publish", "rounded"]

MOST_BYTES = 3_000_000  # of one file
MOST_BYTES_TOGETHER = 70_000_000
# Test images whose number is stored too, so that a check is quick. It is taken on the
# CPU, whose draws are the same wherever it is checked.
FIRST = 100
_TRAINED = (
    *("epochs", "best_epoch", "weights", "seconds", "compiled"),
    *("device", "num_threads", "versions"),
)
_OF_THE_PAIR = (*(option.name for option in declared(PairOptions)), "num_flows")


def publish(
    run_folder: Path,
    data: Dataset,
    *,
    name: str | None = None,
    commit: str,
    recipe: str | None = None,
    folder: Path | None = None,
    num_particles: int = 500,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write `<name>.safetensors` in 16 bits and `<name>.json`, which is returned.

    Args:
        run_folder: a finished run of one of the zoo's guides.
        data: the data set that it was trained on; its test split is evaluated.
        name: `<guide>-<data>`, and more after it if need be; None for just that.
        commit: of this project, that trained it.
        recipe: the command that trains it again; made of the run's configuration if
            there is none.
        folder: where to; by default the package's own `weights`.
        num_particles: draws for each datum.
        seed: of the draws.
        device: `auto`, `cpu` or `cuda`.
        overwrite: whether weights of this name may be replaced.
        progress: show progress bars.

    Raises:
        UserError: for a run that is not finished, a guide of the user's own, data or a
            name that are not the run's, a name that is taken, weights that are not
            finite in 16 bits, and files over 3 MB, or over 70 MB together.
        DataFileError: for files of the run that are missing or broken.
    """
    folder = weights_folder() if folder is None else Path(folder)
    config, trained = _finished_run(Path(run_folder), data)
    name = _checked_name(name, config)
    path = folder / f"{name}.safetensors"
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already; --overwrite replaces it")
    original = load(run_folder)
    errors = rounded(original)
    x, where = data.test, pick_device(device)
    how = {"num_particles": num_particles, "seed": seed, "progress": progress}
    with tempfile.TemporaryDirectory() as temporary:
        stored = save(original, Path(temporary) / path.name, dtype=torch.float16)
        _check_size(stored, path)
        vae = load(stored)
        first = asdict(evaluate(vae, x[:FIRST], **how))
        vae, before = vae.to(where), trained
        if not _is_by(trained, num_particles, seed, where):
            before = asdict(evaluate(original.to(where), x, **how))
        info = {
            "name": name,
            "recipe": recipe or command_of(config),
            "commit": commit,
            "source": config["source"],
            **result_of(vae, evaluate(vae, x, **how), config, data, "test", x),
            "eval_seed": seed,
            "first": {"device": "cpu", **_numbers(first)},
            "float32": _numbers(before),
            "rounding": errors,
            "trained": {key: trained.get(key) for key in _TRAINED},
            "sha256": sha256_of(stored),
            "bytes": stored.stat().st_size,
        }
        write_atomically(path, stored.read_bytes())
    write_json(path.with_suffix(".json"), info)
    return info


def rounded(vae: VAE) -> dict[str, Any]:
    """The cost of 16 bits for the weights: the largest error, and how many become zero.

    Raises:
        UserError: for weights that are not finite in 16 bits, which end at 65504.

    >>> import pyro_vae_zoo as zoo
    >>> vae = zoo.create("mean_field", event_shape=(8, 8), latent_dim=2)
    >>> rounded(vae)["largest_error"] < 1e-3
    True
    """
    largest, to_zero = 0.0, 0
    for name, weight in vae.state_dict().items():
        if not weight.is_floating_point() or weight.numel() == 0:
            continue
        half = weight.half()
        if not half.isfinite().all():
            raise UserError(
                f"weights {name}: expected finite ones of at most 65504 in size, which "
                f"is where 16 bits end; got {weight.abs().max().item():.6g}"
            )
        largest = max(largest, (half.double() - weight.double()).abs().max().item())
        to_zero += int(((half == 0) & (weight != 0)).sum())
    return {"dtype": "float16", "largest_error": largest, "to_zero": to_zero}


def command_of(config: dict[str, Any]) -> str:
    """The command line that trains a run again, from its `config.json`.

    >>> config = {"guide": "iaf", "source": "digits", "eval_particles": 1000,
    ...           "vae": {"options": {"hidden_dims": [80, 80], "gate_bias": 1.0}},
    ...           "training": asdict(TrainOptions(epochs=60, analytic_kl=True))}
    >>> print(command_of(config))  # doctest: +NORMALIZE_WHITESPACE
    python examples/train.py --guide iaf --data digits --hidden-dims 80,80
        --option gate_bias=1.0 --epochs 60 --analytic-kl
    """
    words = ["--guide", config["guide"], "--data", config["source"]]
    for key, value in config["vae"]["options"].items():
        if key in _OF_THE_PAIR:
            words += [_flag(key), _text(value).rstrip(",")]
        else:
            words += ["--option", f"{key}={_text(value)}"]
    for option in declared(TrainOptions):
        value = config["training"].get(option.name, option.default)
        # The command line has a default of its own for the epochs.
        if option.name == "epochs" or value != option.default:
            words += _training_words(option.name, value)
    if config["eval_particles"] != 1000:
        words += ["--eval-particles", str(config["eval_particles"])]
    return shlex.join(["python", "examples/train.py", *words])


def _training_words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [_flag(name) if value else _flag(f"no_{name}")]
    return [_flag(name), _text(value)]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(value: Any) -> str:
    """As `--option` reads it, where a tuple of one number ends in a comma."""
    if isinstance(value, list | tuple):
        return f"{value[0]}," if len(value) == 1 else ",".join(map(str, value))
    return str(value)


def _finished_run(folder: Path, data: Dataset) -> tuple[dict, dict]:
    """Configuration and result of a run that may be published."""
    config = open_run(folder)
    if not (folder / RESULT_FILE).is_file():
        raise UserError(f"the run in {folder} is not finished; --resume finishes it")
    if config["guide"] not in list_guides():
        raise unknown_name("guide to publish", config["guide"], list_guides())
    for key, got in (("data", data.name), ("variant", data.variant)):
        if config.get(key) != got:
            raise UserError(
                f"the run in {folder} was trained on {key} {config.get(key)!r}, "
                f"got {got!r}"
            )
    return config, read_json(folder / RESULT_FILE)


def _checked_name(name: str | None, config: dict) -> str:
    proper = f"{config['guide']}-{config['data']}"
    if name is None:
        return proper
    if name != proper and not name.startswith(proper + "-") or Path(name).name != name:
        raise UserError(f"expected the name {proper}, or {proper}-..., got {name!r}")
    return name


def _check_size(stored: Path, path: Path) -> None:
    """Refuse a file that is too large, alone or with what is in its folder."""
    size = stored.stat().st_size
    others = [p for p in path.parent.glob("*.safetensors") if p.name != path.name]
    together = size + sum(p.stat().st_size for p in others)
    for what, got, most in (
        (f"{path.name} is", size, MOST_BYTES),
        (f"with {path.name} the {1 + len(others)} files are", together,
         MOST_BYTES_TOGETHER),
    ):  # fmt: skip
        if got > most:
            raise UserError(
                f"{what} {got / 1e6:.3f} MB in size, {(got - most) / 1e6:.3f} MB more "
                f"than the {most / 1e6:.0f} MB that there may be; train a smaller pair"
            )


def _is_by(result: dict, num_particles: int, seed: int, device: torch.device) -> bool:
    """True for a result of the same draws, which compares free of noise."""
    asked = (num_particles, seed, hardware(device)["device"])
    return tuple(map(result.get, ("num_particles", "seed", "device"))) == asked


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    keys = ("num_data", "elbo", "log_likelihood", "log_likelihood_mc_error")
    return {key: values[key] for key in keys}


def main() -> int:
    """Publish a run and print what it came to."""
    args = _parse()
    try:
        info = publish(
            args.run_folder,
            load_dataset(open_run(args.run_folder)["source"], args.data_dir),
            name=args.name,
            commit=args.commit,
            recipe=args.recipe,
            folder=args.folder,
            num_particles=args.num_particles,
            seed=args.seed,
            device=args.device,
            overwrite=args.overwrite,
            progress=not args.quiet,
        )
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was published", file=sys.stderr)
        return 130
    cost = info["log_likelihood"] - info["float32"]["log_likelihood"]
    rounding = info["rounding"]
    print(summary(info))
    print(f"  16 bits         {cost:+9.4f} nats against the weights in 32")
    print(
        f"                  (off by {rounding['largest_error']:.1e} at most, "
        f"{rounding['to_zero']} became zero)"
    )
    print(f"  size            {info['bytes'] / 1e6:9.3f} MB")
    print(f"  in {args.folder / info['name']}.safetensors, .json")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies.publish",
        description="Publish a finished run as pretrained weights: round them to 16 bits, "
        "evaluate them as they are stored, write <NAME>.safetensors and <NAME>.json.",
        epilog=f"Refused are files over {MOST_BYTES / 1e6:.0f} MB, or over "
        f"{MOST_BYTES_TOGETHER / 1e6:.0f} MB together, weights beyond 65504, guides that "
        "are not the zoo's, and runs on other data than those that are found now.",
    )
    add = parser.add_argument
    add("run_folder", type=Path, metavar="RUN", help="a finished run folder")
    add(
        "name",
        nargs="?",
        metavar="NAME",
        help="default: <guide>-<data>; another must begin like that, as in "
        "iaf-mnist_static-wide",
    )
    add(
        "--commit",
        required=True,
        metavar="HASH",
        help="commit of the project that trained it",
    )
    add(
        "--recipe",
        metavar="COMMAND",
        help="command that trains it again (default: made of the run's config.json)",
    )
    add(
        "--num-particles",
        type=int,
        default=500,
        metavar="N",
        help="particles per datum (default: 500; as many as the run's own evaluation "
        "took save a second one)",
    )
    add("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    add(
        "--folder",
        type=Path,
        default=weights_folder(),
        metavar="DIR",
        help="folder to write to (default: the package's weights)",
    )
    add("--data-dir", type=Path, metavar="DIR", help="folder of the data sets")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device to evaluate on (default: auto); the number is reproduced exactly "
        "only on the same kind of device",
    )
    add("--overwrite", action="store_true", help="replace weights of this name")
    add("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
