"""Says what a measurement on a GPU was made with: the card, versions, and which data.

    python benchmarks/gpu_machine.py --work /tmp/gpu --out results/gpu/machine.json

Nothing is downloaded. `data_of_rows` and `small_data` are what to train on in place of the
flows' table's own and of `digits`, where these are not there: null where they are. Images
that are made up lie in the folder `--work`, and their file is named so.
"""

import argparse
import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch

from pyro_vae_zoo.data.sources import SOURCES, data_folders
from pyro_vae_zoo.files import write_json
from pyro_vae_zoo.runtime import hardware

OPTIONAL = ("sklearn", "torchvision", "numpyro", "jax", "lightning", "triton", "pytest")


def card() -> dict:
    """The properties of the first CUDA device; says so where there is none."""
    if not torch.cuda.is_available():
        return {"cuda": False}
    properties = torch.cuda.get_device_properties(0)
    x = torch.ones(256, 256, device="cuda")
    assert (x @ x).sum().item() == 256**3, "a product on the GPU is wrong"
    return {
        "cuda": True,
        "card": properties.name,
        "gigabytes": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda_version": torch.version.cuda,
        "driver": driver(),
    }


def driver() -> str | None:
    """The driver's version; None without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def is_there(name: str) -> bool:
    """True where the files of static MNIST are, so that nothing need be downloaded."""
    keys = [f"{name}/{split}" for split in ("train", "valid", "test")]
    return all(
        any((folder / file).is_file() for folder in data_folders())
        for key in keys
        for file in SOURCES[key].files
    )


def made_up(folder: Path) -> str:
    """Random images of digits' number and size, as the path of their file."""
    random, path = np.random.RandomState(0), folder / "made_up.npz"
    sizes = {"train": 1297, "valid": 250, "test": 250}
    np.savez(path, **{s: random.rand(n, 8, 8) < 0.3 for s, n in sizes.items()})
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    installed = {name: importlib.util.find_spec(name) is not None for name in OPTIONAL}
    small = None if installed["sklearn"] else made_up(args.work)
    full = None if is_there("binarized_mnist") else small or "digits"
    report = card() | {
        "installed": installed,
        "small_data": small,
        "data_of_rows": full,
        "hardware": hardware(torch.device("cpu")),
    }
    write_json(args.out, report)
    for key, value in report.items():
        print(f"{key}: {value}")
    if args.device == "cuda" and not report["cuda"]:
        raise SystemExit("PyTorch finds no CUDA device")


if __name__ == "__main__":
    main()
