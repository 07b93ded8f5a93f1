"""The command line from end to end, and every mistake that it must catch."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import interrupt_at

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.cli.arguments import guide_specs, typed
from pyro_vae_zoo.cli.config import parse
from pyro_vae_zoo.cli.parser import make_parser
from pyro_vae_zoo.training.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
FAST = [
    "--latent-dim", "2", "--hidden-dims", "16", "--epochs", "2",
    "--eval-particles", "30", "--device", "cpu", "--quiet",
]  # fmt: skip


def training(npz, folder):
    return ["train", "--guide", "iaf", "--data", npz, "--out", str(folder), *FAST]


@pytest.fixture(scope="session")
def trained(npz, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert cli.main(training(npz, folder)) == 0
    return folder


@pytest.fixture
def run(trained, npz, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    return training(npz, folder), folder


def error_of(argv, capsys, code=2):
    """The one line that a failing command prints."""
    try:
        got = cli.main([str(a) for a in argv])
    except SystemExit as exit_:  # argparse
        got = exit_.code
    assert got == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert sum("error:" in line for line in lines) == 1
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


def test_a_run_folder_holds_what_it_should(run):
    _, folder = run
    names = {p.name for p in folder.glob("[!.]*")}
    assert names == {
        "config.json", "metrics.jsonl", "checkpoint.pt", "model.safetensors",
        "result.json", "samples.png", "reconstructions.png", "training.png",
        "traversal.png", "posterior.png",
    }  # fmt: skip
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["epoch"] for r in records] == [1, 2]
    assert {"train_elbo", "valid_elbo", "kl", "seconds"} <= records[0].keys()
    result = json.loads((folder / "result.json").read_text())
    expected = {
        "guide", "data", "variant", "split", "elbo", "log_likelihood",
        "log_likelihood_std_error", "log_likelihood_mc_error", "num_particles", "khat",
        "weights", "num_parameters", "epochs", "seed", "seconds", "versions", "device",
        "num_processes",
        "num_threads",
    }  # fmt: skip
    assert expected <= result.keys()
    assert (result["guide"], result["split"]) == ("iaf", "test")
    assert result["num_particles"] == 30
    for name in names:
        if name.endswith(".png"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG")
    load_checkpoint(folder / "checkpoint.pt")  # with weights_only=True


def test_the_result_is_that_of_the_saved_model(run, npz):
    _, folder = run
    result = json.loads((folder / "result.json").read_text())
    vae = zoo.load(folder)
    data = zoo.load_dataset(npz)
    again = zoo.evaluate(vae, data.test, num_particles=30, seed=0)
    assert again.log_likelihood == pytest.approx(result["log_likelihood"], abs=1e-5)
    assert result["num_parameters"] == sum(p.numel() for p in vae.parameters())


def test_evaluate_prints_one_json_object(run, capsys):
    _, folder = run
    capsys.readouterr()
    argv = ["evaluate", str(folder), "--num-particles", "50", "--json"]
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["num_particles"] == 50
    assert result["split"] == "test"
    assert not err


def test_evaluate_of_another_split(run, capsys):
    _, folder = run
    assert cli.main(["evaluate", str(folder), "--split", "valid", "--quiet"]) == 0
    assert "valid split, 10 data" in capsys.readouterr().out


@pytest.mark.parametrize("content", ['{"guide": 3', "folder"])
def test_an_evaluation_is_not_lost_to_what_was_wrong_before(content, run, capsys):
    """It came to light when all was computed, and nothing was printed."""
    _, folder = run
    words = ["evaluate", str(folder), "--num-particles", "1000000000"]
    if content == "folder":
        words += ["--out", str(folder)]
    else:
        (folder / "result.json").write_text(content)
    line = error_of(words, capsys)
    assert ("--out: expected a file, got the folder" in line) == (content == "folder")


def test_the_summary_fits_80_columns(run, capsys):
    _, folder = run
    cli.main(["evaluate", str(folder), "--quiet"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.usefixtures("undrawn")
def test_resume_takes_from_the_run_what_is_not_typed(run, npz, tmp_path, monkeypatch):
    _, folder = run
    config = (folder / "config.json").read_text()
    assert cli.main(["train", "--out", str(folder), "--resume", "--quiet"]) == 0
    assert (folder / "config.json").read_text() == config
    words = ["train", "--guide", "iaf", "--data", npz, "--resume", "--quiet"]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "runs" / f"iaf-{Path(npz).stem}-s0")
    assert cli.main([*words, "--epochs", "3"]) == 0  # found by its name
    path = tmp_path / "runs" / f"iaf-{Path(npz).stem}-s0" / "config.json"
    now, before = json.loads(path.read_text()), json.loads(config)
    assert now["training"].pop("epochs") == 3
    assert before["training"].pop("epochs") == 2
    assert now == before


@pytest.mark.usefixtures("undrawn")
def test_resume_of_a_finished_run_is_no_error(run, capsys):
    argv, folder = run
    before = (folder / "model.safetensors").read_bytes()
    assert cli.main([*argv, "--resume"]) == 0
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.usefixtures("undrawn")
def test_resume_with_more_epochs_goes_on(run, npz, tmp_path):
    argv, folder = run
    longer = [*argv, "--epochs", "4"]
    assert cli.main([*longer, "--resume"]) == 0
    whole = [a if a != str(folder) else str(tmp_path / "whole") for a in longer]
    assert cli.main(whole) == 0
    results = [
        json.loads((f / "result.json").read_text())
        for f in (folder, tmp_path / "whole")
    ]
    assert results[0]["epochs"] == 4
    assert results[0]["log_likelihood"] == results[1]["log_likelihood"]


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_stopped_goes_on_as_its_summary_says(npz, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), "--quiet"]
    words = ["--guide", "mean_field", "--data", npz, "--lr", "0.3", "--epochs", "30"]
    assert cli.main(["train", *words, "--patience", "1", *out]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "was better on validation; --resume --patience 0 goes on" in said
    path = tmp_path / "run" / "metrics.jsonl"
    assert len(path.read_text().splitlines()) < 30
    assert cli.main(["train", "--resume", "--patience", "0", *out]) == 0
    assert len(path.read_text().splitlines()) == 30
    assert "goes on" not in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_resume_of_a_run_that_has_no_checkpoint_yet_starts_it(run):
    argv, folder = run
    before = json.loads((folder / "result.json").read_text())
    for name in ("checkpoint.pt", "result.json", "metrics.jsonl"):
        (folder / name).unlink()
    assert cli.main([*argv, "--resume"]) == 0
    after = json.loads((folder / "result.json").read_text())
    assert after["log_likelihood"] == before["log_likelihood"]


@pytest.mark.usefixtures("undrawn")
def test_a_taken_folder_names_the_ways_out(run, capsys):
    argv, folder = run
    line = error_of(argv, capsys)
    assert "--resume" in line
    assert "--overwrite" in line
    (folder / "diagnostics.json").write_text("{}")  # of the run that is lost
    assert cli.main([*argv, "--overwrite"]) == 0
    assert not (folder / "diagnostics.json").exists()


def test_resume_with_another_configuration(run, capsys):
    argv, _ = run
    line = error_of([*argv, "--resume", "--lr", "0.5"], capsys)
    assert "training.lr = 0.001, not 0.5" in line
    line = error_of([*argv, "--resume", "--num-flows", "3"], capsys)
    assert "num_flows" in line
    line = error_of([*argv, "--resume", "--guide", "planar"], capsys)
    assert "guide = 'iaf', not 'planar'" in line


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.glob("[!.]*")}


@pytest.mark.parametrize(
    "more",
    [
        ["--resume", "--epochs", "1"],
        ["--overwrite", "--bound", "iwae", "--free-bits", "1"],
        ["--overwrite", "--guide", "iaf", "--sticking-the-landing"],
        ["--overwrite", "--option", "gate_bias=abc"],
        ["--resume", "--overwrite"],
    ],
)
def test_a_refusal_leaves_a_run_as_it_was(run, more, capsys):
    argv, folder = run
    before = files_of(folder)
    error_of([*argv, *more], capsys)
    assert files_of(folder) == before


@pytest.mark.usefixtures("undrawn")
def test_a_refused_resume_leaves_a_finished_run_as_it_was(npz, tmp_path, capsys):
    """A cosine schedule depends on the total; a corrupt checkpoint is no way on."""
    folder = tmp_path / "run"
    argv = ["train", "--data", npz, "--out", str(folder), *FAST]
    argv += ["--schedule", "cosine"]
    assert cli.main(argv) == 0
    before = files_of(folder)
    line = error_of([*argv, "--resume", "--epochs", "3"], capsys)
    assert "epochs=2, now it is 3" in line
    assert files_of(folder) == before
    for content in (b"junk", b"", torch.zeros(2).numpy().tobytes()):
        (folder / "checkpoint.pt").write_bytes(content)
        before = files_of(folder)
        line = error_of([*argv, "--resume", "--eval-particles", "31"], capsys)
        assert "checkpoint.pt" in line
        assert files_of(folder) == before


@pytest.mark.parametrize("content", ["{}", "[]", "{half", "3"])
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_broken_json_in_a_run_is_named(run, name, content, capsys):
    argv, folder = run
    (folder / name).write_text(content)
    assert name in error_of([*argv, "--resume"], capsys)


@pytest.mark.parametrize(
    "state", [{}, [1], {"options": {}, "epoch": 1, "vae": {}, "optimizer": {}}]
)
def test_a_checkpoint_with_other_things_in_it(run, state, capsys):
    argv, folder = run
    (folder / "result.json").unlink()
    torch.save(state, folder / "checkpoint.pt")
    assert "is no checkpoint" in error_of([*argv, "--resume"], capsys)


@pytest.mark.usefixtures("undrawn")
def test_one_particle_has_no_error_bar(npz, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = ["train", "--data", npz, "--out", str(folder), *FAST]
    assert cli.main([*argv, "--eval-particles", "1"]) == 0
    assert "MC error ?" in capsys.readouterr().out
    assert cli.main([*argv, "--eval-particles", "1", "--resume"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(folder), "--num-particles", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert result["log_likelihood_mc_error"] is None
    assert cli.main(["compare", str(folder), "--out", str(tmp_path / "report")]) == 0


def test_evaluate_names_the_data_it_was_given(run, tmp_path, capsys):
    _, folder = run
    other = tmp_path / "other.npz"
    bits = torch.rand(30, 2, 3).lt(0.5).numpy()
    np.savez(other, train=bits[:20], test=bits[20:])
    out = tmp_path / "result.json"
    capsys.readouterr()
    argv = ["evaluate", str(folder), "--data", str(other), "--out", str(out), "--quiet"]
    assert cli.main(argv) == 0
    result = json.loads(out.read_text())
    assert (result["data"], result["num_data"]) == ("other", 10)
    assert "other.npz" in result["variant"]
    assert cli.main(["compare", str(out), "--out", str(tmp_path / "report")]) == 0
    np.savez(other, train=np.float32(bits[:20]), test=np.float32(bits[20:]))
    assert "likelihood is bernoulli" in error_of(argv, capsys)
    np.savez(other, train=bits[:20, :1], test=bits[20:, :1])
    assert "shape" in error_of(argv, capsys)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--guide", "planar"], "--guide: expected iaf, as when the run was trained, got"),
        (["--prior", "vamp"], "--prior: expected nothing, as when the run was trained"),
        (["--encoder", "convv"], "got convv; leave --encoder out"),
        (["--model", "no/file.py:f"], "got no/file.py:f; leave --model out"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_parts_that_are_not_the_runs_are_refused(
    command, words, expected, trained, capsys
):
    assert expected in error_of([command, trained, *words], capsys)


def test_the_name_of_the_runs_own_guide_is_no_error(trained, tmp_path):
    argv = ["sample", str(trained), "--guide", "iaf", "--out", str(tmp_path / "x.npz")]
    assert cli.main(argv) == 0


def test_images_that_cannot_be_drawn_do_not_cost_the_run(tmp_path, capsys):
    path, folder = tmp_path / "two.npz", tmp_path / "run"
    bits = torch.rand(30, 2, 4, 4).lt(0.5).numpy()  # two channels
    np.savez(path, train=bits[:20], test=bits[20:])
    argv = ["train", "--data", str(path), "--out", str(folder), *FAST]
    assert cli.main(argv) == 0
    assert "samples.png was not drawn" in capsys.readouterr().err
    assert (folder / "result.json").exists()


def test_a_folder_is_no_data_file(tmp_path, capsys):
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    line = error_of(["train", "--data", folder, "--out", tmp_path / "run"], capsys)
    assert "is a folder" in line


def test_double_precision_is_no_special_case(npz):
    data = zoo.load_dataset(npz)
    vae = zoo.create("iaf", data, latent_dim=2, hidden_dims=(8,)).double()
    zoo.fit(vae, data, epochs=1, progress=False)
    assert zoo.evaluate(vae, data.test.numpy(), num_particles=5).num_data == 10


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            ["--epoches", 3],
            "unrecognized arguments: --epoches 3; did you mean --epochs?",
        ),
        (
            ["--epoches=3"],
            "unrecognized arguments: --epoches=3; did you mean --epochs?",
        ),
        (["--wombat"], "unrecognized arguments: --wombat"),
        ([""], "unrecognized arguments: "),
        (["--epochs", "three"], "argument --epochs: invalid int value: 'three'"),
    ],
)
def test_a_mistyped_flag_is_one_line(typed, said, capsys):
    """Of the command, not the program, and without a screen of usage."""
    line = error_of(["train", *typed], capsys)
    assert line == f"error: {said} (see pyro-vae-zoo train --help)"


def test_resume_where_there_is_nothing(npz, tmp_path, capsys):
    folder = tmp_path / "nothing"
    line = error_of(
        ["train", "--data", npz, "--out", folder, "--resume", *FAST], capsys
    )
    assert "nothing to resume" in line
    assert not folder.exists()


def test_a_folder_that_is_no_run(npz, tmp_path, capsys):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("words")
    for flag in ([], ["--resume"], ["--overwrite"]):
        line = error_of(["train", "--data", npz, "--out", folder, *flag, *FAST], capsys)
        assert "is not a run" in line
    assert [p.name for p in folder.iterdir()] == ["chapter.txt"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--guide", "iaff"], ["unknown guide 'iaff'", "did you mean 'iaf'", "planar"]),
        (["--data", "mnits_static"], ["mnits_static", "mnist_static"]),
        (["--data", "missing.npz"], ["missing.npz"]),
        (["--option", "gate=1"], ["unknown option", "'gate'", "hidden_dims"]),
        (["--guide", "mean_field", "--num-flows", "2"], ["num_flows", "latent_dim"]),
        (["--guide", "affine_coupling", "--latent-dim", "1"], ["latent_dim >= 2, got 1"]),
        (["--latent-dim", "0"], ["latent_dim must be at least 1, got 0"]),
        (["--guide", "iaf", "--num-flows", "-1"], ["num_flows must not be negative"]),
        (["--epochs", "0"], ["epochs must be positive, got 0"]),
        (["--batch-size", "0"], ["batch_size must be positive, got 0"]),
        (["--batch-size", "-3"], ["batch_size must be positive, got -3"]),
        (["--hidden-dims", "0"], ["hidden_dims must be positive, one or more, got (0,)"]),
        (["--hidden-dims", "a,b"], ["whole numbers"]),
        (["--eval-particles", "0"], ["eval_particles must be at least 1, got 0"]),
        (["--num-particles", "0"], ["num_particles must be positive, got 0"]),
        (["--network", "vit"], ["--network", "mlp", "gated_mlp", "conv"]),
        (["--guide", "nowhere.py:Guide"], ["file nowhere.py not found"]),
        (["--guide", "examples/my_guide.py"], ["FILE.py:Name"]),
        (["--colour", "red"], ["--colour"]),
        (["--model", "mine.py:make"], ["--model: not allowed with argument --guide"]),
        (
            ["--guide", "gated_dag", "--option", "structure=full"]
            + ["--option", "structure_share=0.5"],
            ["structure_share is for structure='learned', got structure='full'"],
        ),
        (["--option", "num_flows=2.5"], ["num_flows: expected a whole number, got 2.5"]),
        (["--seed", str(2**70)], ["seed must fit in 64 bits"]),
        (["--option", "gate_bias=abc"], ["option gate_bias: expected a number, got 'abc'"]),
        (["--option", "flow_hidden_dims=8"], ["takes a list of", "'flow_hidden_dims=8,'"]),
        (["--option", "hidden_dims=8"], ["takes a list of", "'hidden_dims=8,'"]),
        (["--option", "gate_bias=None"], ["gate_bias: expected a number, got None"]),
        (["--option", "flow_hidden_dims=abc"], ["'iaf' cannot be built"]),
        (["--option", "num_flows=two"], ["option num_flows: expected a number, got 'two'"]),
        (["--option", "no_equals_sign"], ["KEY=VALUE"]),
        (["--bound", "iwae", "--free-bits", "1"], ["free bits have no meaning"]),
        (["--bound", "iwae", "--sticking-the-landing"], ["biases the bound"]),
        (["--sticking-the-landing"], ["cannot do at an affordable cost"]),
        (["--analytic-kl", "--bound", "iwae"], ["an analytic KL has no particles"]),
        (["--analytic-kl", "--tempering-steps", "5"], ["choose one of them"]),
    ],
)  # fmt: skip
def test_mistakes(argv, expected, npz, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    base = ["train", "--guide", "iaf", "--data", npz, "--out", folder, *FAST]
    line = error_of([*base, *argv], capsys)
    for part in expected:
        assert part in line, line
    assert not folder.exists()  # nothing half-written


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none(npz, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = ["train", "--data", npz, "--out", folder, *FAST, "--device", "cuda"]
    assert "has no CUDA device; choose cpu" in error_of(argv, capsys)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"train": np.full((20, 2, 3), np.nan), "test": np.zeros((5, 2, 3))}, "NaN"),
        ({"train": np.zeros((20, 2, 3)), "test": np.zeros((5, 3, 2))}, "shape"),
        ({"train": np.zeros((0, 2, 3)), "test": np.zeros((5, 2, 3))}, "empty"),
        ({"test": np.zeros((5, 2, 3)), "x": np.zeros((5, 2, 3))}, "train"),
        ({"train": np.zeros((20, 2, 3), dtype=complex), "test": np.zeros((5, 2, 3))}, ""),
        ({"train": np.array(["a"] * 9), "test": np.array(["b"] * 9)}, ""),
    ],
)  # fmt: skip
def test_bad_data(arrays, expected, tmp_path, capsys):
    path, folder = tmp_path / "bad.npz", tmp_path / "run"
    np.savez(path, **arrays)
    line = error_of(["train", "--data", path, "--out", folder, *FAST], capsys)
    assert expected in line
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"text"])
def test_a_corrupt_data_file_is_named(content, tmp_path, capsys):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    line = error_of(["train", "--data", path, "--out", tmp_path / "run", *FAST], capsys)
    assert "broken.npz" in line


def test_a_malicious_checkpoint_is_refused(run, tmp_path, capsys):
    argv, folder = run
    witness = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {witness}",)

    (folder / "result.json").unlink()
    torch.save(Malicious(), folder / "checkpoint.pt")
    assert "nothing in it was run" in error_of([*argv, "--resume"], capsys)
    assert not witness.exists()


def test_a_corrupt_model_is_named(run, capsys):
    _, folder = run
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    assert "model.safetensors" in error_of(["evaluate", folder], capsys)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in error_of(["evaluate", folder], capsys)
    (folder / "config.json").write_text("{half")
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    assert "config.json is not valid JSON" in error_of(["evaluate", folder], capsys)


def test_evaluate_of_what_is_no_run(tmp_path, capsys):
    assert "is not a run" in error_of(["evaluate", tmp_path], capsys)
    assert "at least 1" in error_of(
        ["train", "--eval-particles", "-1", "--out", tmp_path / "x"], capsys
    )


@pytest.mark.usefixtures("undrawn")
def test_a_full_disk_is_one_line(run, capsys, monkeypatch):
    argv, folder = run
    before = load_checkpoint(folder / "checkpoint.pt")

    def full(state, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert "No space left" in error_of([*argv, "--resume", "--epochs", "3"], capsys)
    monkeypatch.undo()
    after = load_checkpoint(folder / "checkpoint.pt")
    assert after["epoch"] == before["epoch"] == 2
    assert cli.main([*argv, "--resume", "--epochs", "3"]) == 0


def test_a_loss_that_is_not_finite_exits_with_1(npz, tmp_path, capsys):
    argv = ["train", "--data", npz, "--out", tmp_path / "run", *FAST, "--lr", "1e38"]
    assert "not finite at epoch" in error_of(argv, capsys, code=1)


@pytest.mark.usefixtures("undrawn")
def test_a_guide_of_the_users_own(npz, tmp_path, capsys):
    guide = f"{ROOT / 'examples' / 'my_guide.py'}:MyGuide"
    folder = tmp_path / "run"
    argv = ["train", "--guide", guide, "--data", npz, "--out", str(folder), *FAST]
    assert cli.main([*argv, "--option", "df=4"]) == 0
    assert json.loads((folder / "config.json").read_text())["vae"]["options"]["df"] == 4
    # Neither `load` nor `evaluate` runs code that a folder names.
    with pytest.raises(zoo.UserError, match="pass its class"):
        zoo.load(folder)
    for words in ([], ["--guide", "mean_field"]):
        assert "add --guide" in error_of(["evaluate", folder, *words], capsys)
    assert cli.main(["evaluate", str(folder), "--guide", guide, "--quiet"]) == 0
    line = error_of([*argv, "--overwrite", "--option", "dof=4"], capsys)
    assert "'dof'" in line
    assert "df" in line


def test_a_guide_that_does_not_import(npz, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("import no_such_module\n")
    line = error_of(
        ["train", "--guide", f"{tmp_path / 'mine.py'}:G", "--data", npz, *FAST], capsys
    )
    assert "cannot be imported" in line
    (tmp_path / "mine.py").write_text("class Other: pass\n")
    line = error_of(
        ["train", "--guide", f"{tmp_path / 'mine.py'}:G", "--data", npz, *FAST], capsys
    )
    assert "has no 'G'; it has Other" in line


@pytest.mark.usefixtures("undrawn")
def test_compare_trains_all_else_equal(npz, tmp_path, capsys):
    folder = tmp_path / "all"
    argv = [
        "compare", "--guides", "mean_field", "planar:num_flows=1", "iaf",
        "--data", npz, "--seeds", "0,1", "--out", str(folder), *FAST,
    ]  # fmt: skip
    assert cli.main(argv) == 0
    table = capsys.readouterr().out
    for guide in ("mean_field", "planar", "iaf"):
        assert guide in table
    assert {"comparison.md", "comparison.csv", "comparison.png"} <= {
        p.name for p in folder.iterdir()
    }
    runs = sorted(p.name for p in folder.iterdir() if p.is_dir())
    assert runs == [
        "iaf-s0", "iaf-s1", "mean_field-s0", "mean_field-s1",
        "planar-num_flows=1-s0", "planar-num_flows=1-s1",
    ]  # fmt: skip
    # Once more: nothing is trained again.
    stamp = (folder / "iaf-s0" / "model.safetensors").stat().st_mtime_ns
    assert cli.main(argv) == 0
    assert (folder / "iaf-s0" / "model.safetensors").stat().st_mtime_ns == stamp
    # Finished runs by name.
    capsys.readouterr()
    paths = [str(folder / name) for name in ("iaf-s0", "mean_field-s0")]
    assert cli.main(["compare", *paths, "--out", str(tmp_path / "two")]) == 0


@pytest.mark.parametrize(
    ("guides", "expected"),
    [
        (["iaf", "nope"], "unknown guide 'nope'"),
        (["mean_field", "iaf:foo=1"], "unknown option of guide 'iaf': 'foo'"),
        (
            ["mean_field", "iaf:a=1,b"],
            "if 'b' is part of an option's value, put that in brackets",
        ),
        (["mean_field,iff"], "unknown guide 'iff'; did you mean 'iaf'?"),
        (["mean_field,iaf:foo=1"], "unknown option of guide 'iaf': 'foo'"),
        (["mean_field,,iaf"], "got an empty part; is there a comma too many?"),
        (["mean_field,"], "got an empty part; is there a comma too many?"),
        (["num_flows=2,iaf"], "got 'num_flows=2' before any guide; put it after one"),
        (
            ["iaf,nowhere.py:MyGuide"],
            "file nowhere.py not found; expected the guide 'MyGuide'",
        ),
        (
            ["planar:num_flows=4,", "iaf"],
            "got an empty part; is there a comma too many?",
        ),
        (["planar:num_flows=(4,)", "iaf"], "num_flows: expected a number, got (4,)"),
        (["mean_field", "affine_coupling:latent_dim=1"], "latent_dim >= 2, got 1"),
        (["mean_field", "ladder:prior=flow"], "for guides of one latent vector only"),
        (["mean_field", "iaf", "--sticking-the-landing"], "at an affordable cost"),
        (["mean_field", "iaf", "--option", "typo=3"], "unknown option 'typo'"),
        (["mean_field", "--seeds", "x"], "whole numbers"),
    ],
)
def test_compare_checks_every_guide_before_it_trains_one(
    guides, expected, npz, tmp_path, capsys
):
    folder = tmp_path / "all"
    argv = ["compare", "--guides", *guides, "--data", npz, "--out", folder]
    assert expected in error_of([*argv, *FAST], capsys)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["mean_field", "iaf"], [("mean_field", {}), ("iaf", {})]),
        (["mean_field,iaf"], [("mean_field", {}), ("iaf", {})]),
        (["iaf,mine.py:MyGuide"], [("iaf", {}), ("mine.py:MyGuide", {})]),
        (
            ["planar:num_flows=4,iaf,radial", "mine.py:MyGuide:df=5,mean_field"],
            [("planar", {"num_flows": 4}), ("iaf", {}), ("radial", {})]
            + [("mine.py:MyGuide", {"df": 5}), ("mean_field", {})],
        ),
        (
            ["iaf:num_flows=4,gate_bias=-1,planar:num_flows=2,network=conv"],
            [("iaf", {"num_flows": 4, "gate_bias": -1})]
            + [("planar", {"num_flows": 2, "network": "conv"})],
        ),
        (
            ["iaf:flow_hidden_dims=(8,8),num_flows=1,planar"],
            [("iaf", {"flow_hidden_dims": (8, 8), "num_flows": 1}), ("planar", {})],
        ),
        (["iaf:flow_hidden_dims=(8,)"], [("iaf", {"flow_hidden_dims": (8,)})]),
        (["runs/a=b/mine.py:G:x=1"], [("runs/a=b/mine.py:G", {"x": 1})]),
    ],
)  # fmt: skip
def test_commas_part_guides_and_their_options(texts, expected):
    assert guide_specs(texts) == expected


@pytest.mark.usefixtures("undrawn")
def test_compare_takes_a_guide_of_the_users_own_after_a_comma(npz, tmp_path):
    folder = tmp_path / "all"
    guides = f"iaf,{ROOT / 'examples' / 'my_guide.py'}:MyGuide"
    argv = ["compare", "--guides", guides, "--data", npz, "--out", str(folder), *FAST]
    assert cli.main(argv) == 0
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"iaf-s0", "MyGuide-s0"}
    assert "MyGuide" in (folder / "comparison.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_compare_takes_options_that_are_tuples(npz, tmp_path):
    folder = tmp_path / "all"
    guide = "iaf:flow_hidden_dims=(8,8),num_flows=1"
    argv = ["compare", "--guides", guide, "--data", npz, "--out", str(folder), *FAST]
    assert cli.main(argv) == 0
    (result,) = folder.glob("iaf*.json")
    options = json.loads(result.read_text())["options"]
    assert options["flow_hidden_dims"] == [8, 8]
    assert options["num_flows"] == 1


def test_a_checkpoint_of_another_shape_is_refused(run, capsys):
    argv, folder = run
    state = load_checkpoint(folder / "checkpoint.pt")
    state["vae"] = dict(list(state["vae"].items())[1:])
    save_checkpoint(folder / "checkpoint.pt", state)
    assert "do not fit" in error_of([*argv, "--resume", "--epochs", "3"], capsys)


READING = ["evaluate", "diagnose", "explore", "sample", "encode"]
COMMANDS = ["train", "density", "compare", *READING]


@pytest.mark.parametrize("command", [*COMMANDS, "list"])
def test_help_of_a_script_fits_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [f"examples/{command}.py"])
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("command", [*COMMANDS, "list"])
def test_help_reads_well_at_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(rf"[Ee]xamples?: pyro-vae-zoo {command} ", " ".join(out.split()))
    if command not in (*READING, "list"):
        for name in ("digits", "mnist_static", ".npz"):
            assert name in out


@pytest.mark.parametrize("script", COMMANDS)
def test_the_scripts_are_the_commands(script):
    path = ROOT / "examples" / f"{script}.py"
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, check=True
    )
    assert f"usage: python {path} [" in " ".join(done.stdout.split())


# ---------------------------------------------------------------- density models


@pytest.fixture
def real_npz(tmp_path):
    path = tmp_path / "real.npz"
    x = torch.randn(60, 2, 3).numpy()
    np.savez(path, train=x[:40], valid=x[40:50], test=x[50:])
    return str(path)


DENSITY = ["--epochs", "2", "--device", "cpu", "--quiet", "--option"]


def test_density_of_a_flow_is_exact(real_npz, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = ["density", "--data", real_npz, "--train-size", "30", "--out", str(folder)]
    argv += [*DENSITY, "flow_hidden_dims=8,"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "nats  (exact)" in out
    assert "30/10/10" in out
    assert "ELBO" not in out
    assert "active units" not in out
    result = json.loads((folder / "result.json").read_text())
    assert result["guide"] == "maf"
    assert result["num_particles"] == 1
    assert result["elbo"] == result["log_likelihood"]
    assert not (folder / "reconstructions.png").exists()
    assert (folder / "samples.png").exists()
    assert cli.main(["evaluate", str(folder), "--num-particles", "3"]) == 0
    again = capsys.readouterr().out
    assert f"{result['log_likelihood']:.3f}" in again


def test_density_of_a_hierarchy_draws_its_layers(real_npz, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = ["density", "--model", "self_reflective_maf", "--data", real_npz]
    argv += ["--out", str(folder), *DENSITY, "flow_hidden_dims=8,"]
    argv += ["--option", "num_layers=2", "--latent-dim", "2"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "(100 particles, MC error" in out
    for picture in ("growth.png", "layers.png", "samples.png", "reconstructions.png"):
        assert picture in out
        assert (folder / picture).stat().st_size > 1000


def test_a_hierarchy_of_bits_draws_its_layers(npz, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = ["train", "--guide", "self_reflective", "--option", "num_layers=3"]
    argv += ["--analytic-kl", "--data", npz, "--out", str(folder), *FAST]
    assert cli.main(argv) == 0
    for picture in ("growth.png", "layers.png"):
        assert picture in capsys.readouterr().out or (folder / picture).exists()
    result = json.loads((folder / "result.json").read_text())
    assert set(result["kl_per_site"]) == {"eps_1", "eps_2", "eps_3"}
    assert set(result["active_units"]) == {"eps_1", "eps_2", "eps_3"}
    assert result["training"]["analytic_kl"] is True


@pytest.mark.usefixtures("undrawn")
def test_a_graph_learns_its_structure_for_as_long_as_it_is_told(npz, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = ["train", "--guide", "gated_dag", "--option", "num_nodes=3", "--data", npz]
    argv += ["--out", str(folder), *FAST, "--epochs", "5"]
    argv += ["--option", "structure_share=0.6"]
    assert cli.main(argv) == 0
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert [r["phase"] for r in records] == ["structure"] * 3 + ["retrain"] * 2
    result = json.loads((folder / "result.json").read_text())
    assert list(result["gates"]) == ["z_3->z_2", "z_3->z_1", "z_2->z_1"]
    assert set(result["gates"].values()) <= {0.0, 1.0}
    assert zoo.load(folder).monitor(zoo.load(folder))["gates"] == result["gates"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["--data", "digits_binary"],
            [
                "maf is a density model of real numbers",
                "--data cifar10",
            ],
        ),
        (["--train-size", "41"], ["expected 1 to 40 training data", "got 41"]),
        (["--model", "self_reflective_maf", "--option", "num_layers=7"], ["7"]),
    ],
)
def test_mistakes_with_densities(argv, expected, real_npz, tmp_path, capsys):
    base = ["density", "--data", real_npz, "--out", tmp_path / "run", *DENSITY]
    line = error_of([*base, "flow_hidden_dims=8,", *argv], capsys)
    for part in expected:
        assert part in line, line


# ------------------------------------------------------------------ interruptions


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    number, npz, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "run"
    before = signal.getsignal(number)
    argv = ["train", "--data", npz, "--out", str(folder), *FAST, "--batch-size", "10"]
    interrupt_at(monkeypatch, 2, number=number)
    monkeypatch.setattr(sys, "argv", ["examples/train.py", "not these"])
    assert cli.main(argv) == 130
    words = shlex.join([*argv[1:], "--resume"])
    told = capsys.readouterr().err
    assert told == f"interrupted; to go on: python examples/train.py {words}\n"
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 3
    assert cli.main([*argv, "--resume"]) == 0
    assert (folder / "result.json").exists()
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(
    ("program", "argv", "told"),
    [
        (
            "examples/compare.py",
            ["compare", "--guides", "iaf", "--overwrite"],
            "python examples/compare.py --guides iaf",
        ),
        (
            "lib/pyro_vae_zoo/__main__.py",
            ["train", "--out", "a b", "--overwrite"],
            "python -m pyro_vae_zoo train --out 'a b' --resume",
        ),
        (
            "bin/pyro-vae-zoo",
            ["density", "--resume"],
            "pyro-vae-zoo density --resume",
        ),
    ],
)
def test_how_to_go_on(program, argv, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a b", "runs/maf-digits-s0"):  # that have begun
        Path(folder).mkdir(parents=True)
        Path(folder, "config.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", [program, *argv])
    given = None if "pyro" in program else argv
    args = parse(make_parser(), argv)
    assert cli._how_to_go_on(args, given, 0.0) == f"; to go on: {told}"


def test_what_has_not_begun_is_typed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bin/pyro-vae-zoo"])
    argv = ["train", "--out", str(tmp_path), "--overw"]
    (tmp_path / "config.json").write_text("{}")  # of the run before
    args = parse(make_parser(), argv)
    told = cli._how_to_go_on(args, argv, time.time() + 1)
    assert told == f"; to go on: pyro-vae-zoo train --out {tmp_path} --overw"


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (str(ROOT / "examples/train.py"), f"python {ROOT}/examples/explore.py a"),
        ("bin/pyro-vae-zoo", "pyro-vae-zoo explore a"),
        ("bin/pytest", "python -m pyro_vae_zoo explore a"),
    ],
)
def test_commands_are_said_as_they_are_typed(program, told, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    assert typed("explore", ["a"]) == told


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("pyro-vae-zoo ex", {"explore"}),
        ("pyro-vae-zoo train --guide ia", {"iaf"}),
        ("pyro-vae-zoo train --data digits_", {"digits_binary"}),
        ("pyro-vae-zoo train --prior va", {"vamp"}),
        ("pyro-vae-zoo evaluate iaf-mn", {"iaf-mnist_static"}),
        ("pyro-vae-zoo train --guide exam", {"examples"}),
    ],
)
def test_a_shell_completes_what_could_be_typed(line, found, tmp_path):
    code = "import sys; from pyro_vae_zoo.cli import main; sys.exit(main.main([]))"
    out = tmp_path / "completions"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line}
    asked |= {"COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(out)}
    subprocess.run([sys.executable, "-c", code], env=os.environ | asked, cwd=ROOT)
    assert {word.strip() for word in out.read_text().split("\n")} == found


def test_there_is_nothing_to_go_on_with():
    args = parse(make_parser(), ["evaluate", "run"])
    assert cli._how_to_go_on(args, ["evaluate", "run"], 0.0) == ""


def test_a_broken_pipe_of_another_is_an_error(monkeypatch, capsys):
    """Of a process that reads data, for one: it must not look like success."""

    def breaks(args):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(cli, "_run", breaks)
    assert cli.main(["list"]) == 2
    assert "Broken pipe" in capsys.readouterr().err


def test_who_has_read_enough_is_not_told_off():
    code = "from pyro_vae_zoo.cli.main import main; import sys; sys.exit(main())"
    words = [sys.executable, "-c", code, "list", "--json"]
    with subprocess.Popen(words, stdout=-1, stderr=-1, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("chosen", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "")],
)
def test_threads_wait_briefly_unless_told_otherwise(chosen, spins):
    """So that a training goes on beside other programs on all cores."""
    code = (
        "import os; from pyro_vae_zoo.cli.main import main; main(['list', 'guides']); "
        "print('spins', os.environ.get('GOMP_SPINCOUNT', ''))"
    )
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    kept = {k: v for k, v in os.environ.items() if k not in ours}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | chosen,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines()[-1].split() == ["spins", *spins.split()]


def test_nothing_is_set_once_threads_are_there(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    cli._wait_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ
