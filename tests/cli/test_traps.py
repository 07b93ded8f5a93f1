"""What would be ignored, mixed up or lost without a word, and is not."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import nothing_drawn, small
from reports import result

import pyro_vae_zoo as zoo
from pyro_vae_zoo import plots, report
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.cli.config import parse
from pyro_vae_zoo.cli.parser import make_parser
from pyro_vae_zoo.cli.train import _next
from pyro_vae_zoo.plots.training import _best_epoch
from pyro_vae_zoo.runs import folder as run_folder
from pyro_vae_zoo.runs.cautions import cautions_of
from pyro_vae_zoo.runs.references import references_of
from pyro_vae_zoo.runs.run import result_of

FAST = [
    "--latent-dim", "2", "--hidden-dims", "8", "--epochs", "1",
    "--eval-particles", "5", "--device", "cpu", "--quiet",
]  # fmt: skip
MINE = """
number = 3

class Needs:
    def __init__(self, what):
        self.what = what
    def on_epoch_end(self, state):
        pass

def stops_in_the_second(state):
    if state.epoch["epoch"] == 2:
        raise ValueError("enough")

def breaks(epoch, epochs):
    return {}[epoch]
"""


OWN_PARTS = """
import torch
import pyro_vae_zoo as zoo
from pyro_vae_zoo.models.standard import AmortizedGuide, DiagonalGaussian
from pyro_vae_zoo.nn.networks import make_encoder

def Mine(event_shape, latent_dim, hidden_dims):
    encoder, size = make_encoder("mlp", event_shape, hidden_dims, "relu")
    return AmortizedGuide(encoder, DiagonalGaussian(size, latent_dim))

def make(event_shape):
    return zoo.create("mean_field", event_shape=event_shape, latent_dim=2)

def adam(params, lr):
    return torch.optim.Adam(params, lr=lr)
"""


def told(capsys, *argv):
    """The line by which a command refuses."""
    assert cli.main([*map(str, argv)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    return next(line for line in lines if line.startswith("error: "))


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "my.py").write_text(MINE)
    return tmp_path / "my.py"


def train(npz, folder, *more):
    with nothing_drawn():
        words = ["train", "--guide", "mean_field", "--data", npz, "--out", folder]
        return cli.main([*map(str, [*words, *FAST, *more])])


# ----------------------------------------------------------------- mixed up or lost


def test_data_that_have_changed_are_not_evaluated(tmp_path, capsys):
    path, run = tmp_path / "x.npy", tmp_path / "run"
    np.save(path, np.random.default_rng(0).normal(size=(40, 3)))
    assert train(path, run) == 0
    assert cli.main(["evaluate", str(run), "--num-particles", "5", "--quiet"]) == 0
    np.save(path, np.random.default_rng(1).normal(size=(40, 3)))
    line = told(capsys, "evaluate", run, "--num-particles", "5", "--quiet")
    assert "x.npy has changed since the run was trained" in line


def test_a_copy_of_data_on_disk_is_not_taken_for_others(tmp_path, capsys):
    """Its time of writing is another, and nothing else."""
    path, run = tmp_path / "x.npy", tmp_path / "run"
    np.save(path, np.random.default_rng(0).normal(size=(40, 3)))
    assert train(path, run, "--data-option", "in_memory=false") == 0
    os.utime(path, ns=(1, 1))
    assert cli.main(["evaluate", str(run), "--num-particles", "5", "--quiet"]) == 0
    np.save(path, np.random.default_rng(1).normal(size=(40, 3)))
    assert "has changed" in told(capsys, "evaluate", run, "--quiet")


def test_a_result_without_a_finite_number_is_written_down():
    data = zoo.load_dataset("digits_binary").first(20)
    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(4,))
    found = replace(zoo.evaluate(vae, data, 5), log_likelihood=float("nan"))
    config = {"guide": "mean_field", "training": {"seed": 0}, "vae": vae.config}
    values = result_of(vae, found, config, data, "test", data.test)
    assert values["log_likelihood"] is values["bits_per_dim"] is None
    values["references"] = references_of(values, data, data.test)
    assert "not finite" in cautions_of(values)["absurd"]


def test_an_interrupted_resumption_has_no_model_of_other_settings(npz, mine, capsys):
    run = mine.parent / "run"
    assert train(npz, run) == 0
    (run / "explore.html").write_text("of the run as it was")
    stop = ["--resume", "--epochs", "3", "--callbacks", f"{mine}:stops_in_the_second"]
    assert train(npz, run, *stop) == 2
    capsys.readouterr()
    line = told(capsys, "evaluate", run)
    assert "has no model.safetensors yet; --resume finishes it" in line
    assert "(model.before.safetensors is of before it was resumed)" in line
    assert zoo.load(run / "model.before.safetensors").event_shape  # nothing is lost
    assert train(npz, run, "--resume", "--epochs", "3") == 0
    assert not (run / "model.before.safetensors").exists()
    assert not (run / "explore.html").exists()  # which is of the other model
    assert cli.main(["evaluate", str(run), "--num-particles", "5", "--quiet"]) == 0


def test_equal_settings_are_one_row_however_they_were_given():
    rows = [result("mean_field", seed=0), result("mean_field", seed=1)]
    rows[1]["options"] = {**rows[1]["options"], "hidden_dims": [300, 300]}
    assert [row["num_seeds"] for row in report.summarise(rows)] == [2]


def test_an_exact_number_may_be_bold():
    exact = result("maf", log_likelihood=-1.0) | {
        "log_likelihood_std_error": 0.01,
        "log_likelihood_mc_error": None,
        "active_units": {},
        "khat": None,
    }
    rows = [exact, result("mean_field", log_likelihood=-100.0)]
    assert "**maf**" in report.markdown_table(rows)
    alone = report.markdown_table([exact])
    assert "the log-likelihood exact. Budget" in alone


def test_dollars_in_a_users_names_are_no_formulas(tmp_path):
    data = zoo.Dataset(torch.eye(6), name="pri$e_$", labels=["$10^$20", "b"] * 3)
    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(4,))
    names, labels = data.label_names, data.labels["train"]
    fig = plots.plot_embedding(vae, data.train, labels, names=names, data=data)
    plots.save_figure(fig, tmp_path / "embedding.png")
    assert "pri$e_$" in fig.get_suptitle()


def test_the_best_epoch_is_of_the_phase_whose_weights_are_kept():
    records = [
        {"epoch": n, "phase": phase, "valid_elbo": value}
        for n, (phase, value) in enumerate(
            [("structure", -12.5), ("retrain", -12.8), ("retrain", -12.6)], start=1
        )
    ]
    assert _best_epoch(records) == 3


def test_plans_of_the_same_settings_are_refused_before_a_training(
    npz, tmp_path, capsys
):
    words = [
        "compare",
        "--data",
        npz,
        "--guides",
        "mean_field",
        "mean_field:latent_dim=2",
    ]
    line = told(capsys, *words, *FAST, "--out", tmp_path / "all")
    assert (
        "mean_field-s0 and mean_field-latent_dim=2-s0 come to the same settings" in line
    )
    assert not (tmp_path / "all").exists()


def test_a_comparison_goes_on_where_a_process_was_killed_early(npz, tmp_path):
    (tmp_path / "all" / "mean_field-s0").mkdir(parents=True)
    half = tmp_path / "all" / "mean_field-s0" / f"config.json.{'a1' * 8}.tmp"
    half.write_text("{")
    words = ["compare", "--data", npz, "--guides", "mean_field", *FAST]
    with nothing_drawn():
        assert cli.main([*map(str, [*words, "--out", tmp_path / "all"])]) == 0
    assert not half.exists()


def test_a_users_own_temporary_files_stay(tmp_path):
    (tmp_path / "notes.tmp").write_text("mine")
    run_folder.begin(tmp_path, {}, resume=True)
    assert (tmp_path / "notes.tmp").exists()


def test_a_folder_may_be_called_like_a_file_of_weights(tmp_path):
    folder = tmp_path / "best.safetensors"
    folder.mkdir()
    assert zoo.save(small("mean_field"), folder).parent == folder


# ------------------------------------------------------------------------- ignored


@pytest.mark.parametrize(
    "flags",
    [["--epochs", "7"], ["--data", "nosuch"], ["--overwrite"], ["--seeds", "0,1"]],
)
def test_flags_of_a_training_beside_finished_runs(flags, npz, tmp_path, capsys):
    assert train(npz, tmp_path / "run") == 0
    line = told(capsys, "compare", tmp_path / "run", *flags, "--out", tmp_path / "all")
    assert f"{flags[0]} would be ignored: the RUNs are finished" in line


def test_a_flag_that_is_ignored_is_called_as_it_is_typed(npz, tmp_path, capsys):
    assert train(npz, tmp_path / "run") == 0
    line = told(capsys, "compare", tmp_path / "run", "--data-option", "size=3")
    assert "--data-option would be ignored" in line


def test_what_cannot_be_swept_is_not_proposed(npz, tmp_path, capsys):
    words = ["compare", "--data", npz, "--guides", "iaf", "--out", tmp_path]
    line = told(capsys, *words, "--sweep", "epoch=1,2")
    assert "unknown option 'epoch'" in line
    assert "'epochs'" not in line


def test_data_beside_samples_that_need_none(npz, tmp_path, capsys):
    assert train(npz, tmp_path / "run") == 0
    line = told(capsys, "sample", tmp_path / "run", "--data", "nosuch")
    assert "--data and --data-option would be ignored: samples of a bernoulli" in line


@pytest.mark.parametrize("name", ["guide", "data", "event_shape"])
def test_options_that_are_none_of_a_guide(name, npz, tmp_path, capsys):
    words = ["train", "--data", npz, "--out", tmp_path / "run", *FAST]
    line = told(capsys, *words, "--option", f"{name}=3")
    assert f"--option {name}: it is no option of a guide" in line


# -------------------------------------------------------------- code of the user's


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--schedule", "a.pyx"], "unknown schedule 'a.pyx'"),
        (["--optimizer", "foo.pyx"], "unknown optimizer 'foo.pyx'"),
        (["--callbacks", "MY:Needs"], "MY:Needs failed: TypeError: Needs.__init__()"),
        (["--schedule", "MY:breaks"], "breaks, at epoch 0 failed: KeyError: 0"),
        (["--guide", "MY:number"], "MY:number: expected a guide, got int"),
        (["--prior", "MY:number"], "MY:number: expected a prior, got int"),
    ],
)
def test_mistakes_in_a_users_code(flags, expected, npz, mine, capsys):
    flags = [flag.replace("MY", str(mine)) for flag in flags]
    words = ["train", "--data", npz, "--out", mine.parent / "run", *FAST]
    assert expected.replace("MY", str(mine)) in told(capsys, *words, *flags)
    assert not (mine.parent / "run").exists()


# --------------------------------------------------------------- seeds, and places


@pytest.mark.parametrize("command", ["explore", "diagnose"])
def test_seeds_beyond_64_bits(command, npz, tmp_path, capsys):
    assert train(npz, tmp_path / "run") == 0
    line = told(capsys, command, tmp_path / "run", "--seed", str(2**70))
    assert "seed" in line


@pytest.mark.parametrize(
    ("size", "missing"), [("2", "RANK, MASTER_ADDR"), ("x", "RANK, MASTER_ADDR")]
)
def test_half_of_what_torchrun_sets(size, missing, npz, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", size)
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    line = told(capsys, "train", "--data", npz, "--out", tmp_path / "run", *FAST)
    assert f"WORLD_SIZE is {size}, but {missing}" in line
    assert cli.main(["list", "priors"]) == 0


def test_what_is_next_is_possible(npz, tmp_path, capsys):
    words = ["train", "--guide", "gated_dag", "--data", npz, "--out", tmp_path / "run"]
    with nothing_drawn():
        assert cli.main([*map(str, [*words, *FAST])]) == 0
    said = capsys.readouterr().out.rpartition("next, ")[2]
    assert "explore" not in said


KHAT = {"median": 0.3, "above_0.7": 0.0}


@pytest.mark.parametrize(
    ("flags", "khat"),
    [
        ([], KHAT),
        (["--optimizer", "MY:adam"], KHAT),
        (["--guide", "MY:Mine"], KHAT),
        (["--guide", "MY:Mine"], {**KHAT, "above_0.7": 1.0}),
        (["--model", "MY:make"], KHAT),
    ],
)
def test_what_is_next_can_be_typed(flags, khat, npz, tmp_path, capsys):
    """With the settings of the run, and with the code that its command asks for."""
    (tmp_path / "my.py").write_text(OWN_PARTS)
    flags = [flag.replace("MY", str(tmp_path / "my.py")) for flag in flags]
    run = tmp_path / "run"
    sizes = 0 if "--model" not in flags else 4  # which are those of its function
    words = ["train", "--data", npz, "--out", run, *FAST[sizes:], *flags]
    with nothing_drawn():
        assert cli.main([*map(str, words)]) == 0
    args = parse(make_parser(), [*map(str, words)])
    args.guide = args.model or args.guide  # as the command does
    result = {"khat": khat, "active_units": {"z": "1/2"}}
    said = _next(args, run, result)
    command = next(c for c in ("compare", "diagnose", "explore") if f" {c} " in said)
    argv = [command, *shlex.split(said.partition(f" {command} ")[2])]
    small = {
        "compare": ["--out", str(tmp_path / "all"), "--quiet"],
        "diagnose": [
            "--num-data",
            "1",
            "--temps",
            "2",
            "--chains",
            "1",
            "--steps",
            "1",
        ],
        "explore": ["--num-data", "2", "--num-samples", "5"],
    }
    with nothing_drawn():
        assert cli.main([*argv, *small[command]]) == 0


def test_a_configuration_is_read_in_its_own_encoding(npz, tmp_path):
    """Not in the machine's, which may be another."""
    out = tmp_path / "schön"
    config = tmp_path / "mine.yaml"
    config.write_bytes("guide: mean_field\nlatent_dim: 3  # schön\n".encode())
    words = ["train", "--config", config, "--data", npz, "--out", out, *FAST[2:]]
    code = "import sys; from pyro_vae_zoo.cli.main import main; sys.exit(main())"
    own = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    root = Path(zoo.__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=os.environ | own | {"PYTHONPATH": str(root), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr.decode()
    assert (
        json.loads((out / "config.json").read_text())["vae"]["options"]["latent_dim"]
        == 3
    )
