"""Draws the picture of the page `explore`: a planar flow on digits, one datum picked.

    python docs/exploring.py

Trains a minute or two on one core, seed 0, and needs Chromium.
"""

import subprocess
import tempfile
from pathlib import Path

import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.data.labels import labels_of

PICTURE = Path(__file__).parent / "pictures" / "explore.png"
SIZE = 1200, 860


def write_page(folder: Path) -> Path:
    """The page of a pair of two latents."""
    data, labels = zoo.load_dataset("digits_binary"), labels_of("digits_binary", "test")
    torch.manual_seed(0)
    options = {"latent_dim": 2, "hidden_dims": (100, 100), "num_flows": 4}
    options |= {"network": "mlp"}
    vae = zoo.create("planar", data, **options)
    how = {"lr": 2e-3, "schedule": "cosine", "kl_warmup": 0, "ema": 0}
    zoo.fit(vae, data, epochs=150, device="cpu", **how)
    classes = {"labels": labels.values, "classes": labels.names}
    return zoo.explore(vae, data.test, folder / "page.html", data=data, **classes)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        page = write_page(Path(name))
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"]
        flags += [f"--user-data-dir={name}/profile", f"--screenshot={PICTURE}"]
        flags += ["--window-size={},{}".format(*SIZE), "--virtual-time-budget=2000"]
        address = page.resolve().as_uri() + "#datum=7"
        subprocess.run(["chromium", *flags, address], check=True)
