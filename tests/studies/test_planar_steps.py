"""`studies/planar_steps.py`, which counts the steps of planar flows that only shift."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyro_vae_zoo as zoo
from studies.planar_steps import main

ROOT = Path(__file__).parents[2]


def save_run(folder, guide="planar"):
    """Of two steps, the first with a bias of 20, the second as it begins."""
    sizes = {"event_shape": (8, 8), "latent_dim": 2, "hidden_dims": (4,)}
    torch.manual_seed(0)
    vae = zoo.create(guide, **sizes, num_flows=2)
    if guide == "planar":
        with torch.no_grad():
            vae.guide.posterior.flows[0].nn.bias[0] = 20.0
    zoo.save(vae, folder / f"{guide}.safetensors")
    return folder / f"{guide}.safetensors"


def count(*words, cwd):
    words = [str(word) for word in words]
    command = [
        sys.executable,
        "-m",
        "studies.planar_steps",
        "--data",
        "digits_binary",
        *words,
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)


def test_a_step_with_a_large_bias_is_flat_and_one_at_its_beginning_is_not(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    argv = ["planar_steps", "--data", "digits_binary", str(save_run(tmp_path))]
    monkeypatch.setattr(sys, "argv", [*argv, "--out", "steps.json"])
    assert main() == 0
    assert "planar.safetensors: 1 of 2 steps flat" in capsys.readouterr().out
    written = json.loads((tmp_path / "steps.json").read_text())
    first, second = written["runs"]["planar.safetensors"]
    assert first["flat"] == 1
    assert abs(first["abs_bias"] - 20) < 1
    assert abs(first["log_det"]) < 1e-4
    assert second["flat"] == 0
    assert second["abs_bias"] < 1


@pytest.mark.slow
def test_another_flow_is_refused(tmp_path):
    run = count(save_run(tmp_path, "householder"), cwd=tmp_path)
    assert run.returncode == 2
    assert "householder.safetensors: expected planar steps, got" in run.stderr
    assert "Traceback" not in run.stderr
