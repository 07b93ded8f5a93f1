"""Grids of settings: their rows, their folders, and what validation chooses."""

import json
from pathlib import Path

import pytest
from pairs import interrupt_at

from pyro_vae_zoo import report
from pyro_vae_zoo.cli.main import main
from pyro_vae_zoo.plots import plot_sweep

FAST = ["--hidden-dims", "8", "--epochs", "1", "--eval-particles", "5", "--no-compile"]
FAST += ["--quiet", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr("pyro_vae_zoo.plots.run.draw", lambda *args: None)
    monkeypatch.setattr(
        "pyro_vae_zoo.plots.save_figure", lambda fig, path: path.touch()
    )


@pytest.fixture
def argv(npz, tmp_path):
    return ["compare", "--data", npz, "--out", str(tmp_path / "all"), *FAST]


def folders(tmp_path):
    return {p.name: p for p in (tmp_path / "all").iterdir() if p.is_dir()}


def test_a_sweep_goes_on_where_it_was_interrupted(argv, tmp_path, capsys, monkeypatch):
    argv += ["--guides", "mean_field", "iaf", "--sweep", "num_flows=1,2"]
    argv += [
        "--sweep",
        "lr=1e-2,1e-3",
        "--option",
        "flow_hidden_dims=4,",
        "--latent-dim",
        "2",
    ]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)  # steps
        assert main(argv) == 130
    said = capsys.readouterr().err
    assert "6 runs: 2 guides, num_flows over 1, 2; lr over 0.01, 0.001; seeds 0" in said
    begun = {name: p / "result.json" for name, p in folders(tmp_path).items()}
    assert not all(path.exists() for path in begun.values())
    assert main(argv) == 0
    there = folders(tmp_path)
    assert sorted(there) == [
        "iaf-num_flows=1-lr=0.001-s0", "iaf-num_flows=1-lr=0.01-s0",
        "iaf-num_flows=2-lr=0.001-s0", "iaf-num_flows=2-lr=0.01-s0",
        "mean_field-lr=0.001-s0", "mean_field-lr=0.01-s0",
    ]  # fmt: skip
    result = json.loads(
        (there["iaf-num_flows=2-lr=0.01-s0"] / "result.json").read_text()
    )
    assert (result["options"]["num_flows"], result["training"]["lr"]) == (2, 0.01)
    out = capsys.readouterr().out
    for label in (
        "iaf (K = 1, lr = 0.01)",
        "iaf (K = 2, lr = 0.001)",
        "mean_field (lr = 0.01)",
    ):
        assert f"| {label}" in out
    # Validation chooses, by the records of the runs themselves.
    valid = {}
    for path in there.values():
        (record,) = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
        valid[record["valid_elbo"]] = path.name
    best = valid[max(valid)]
    sentence = report.choice(report.collect([tmp_path / "all"]))
    for part in best.removesuffix("-s0").replace("num_flows", "K").split("-"):
        assert part.replace("=", " = ") in sentence.partition(", with")[0]
    assert f"with ELBO {max(valid):.2f} nats" in sentence
    assert "chosen by its test score is too high" in sentence
    assert sentence in (tmp_path / "all/comparison.md").read_text()
    assert " ".join(sentence.split()) in " ".join(out.split())


def test_a_comparison_without_records_chooses_nothing(argv, tmp_path, capsys):
    assert main([*argv, "--guides", "mean_field", "--sweep", "latent_dim=1,2"]) == 0
    assert "Best on the validation data" in capsys.readouterr().out
    results = report.collect(sorted((tmp_path / "all").glob("*.json")))
    assert len(results) == 2
    assert report.choice(results) == ""
    assert (
        report.choice(report.collect([folders(tmp_path)["mean_field-latent_dim=1-s0"]]))
        == ""
    )


def test_each_swept_number_has_a_picture(argv, tmp_path, capsys, monkeypatch):
    drawn = {}

    def plot(lines, name, *, title):
        drawn[name] = lines
        return plot_sweep(lines, name, title=title)

    monkeypatch.setattr("pyro_vae_zoo.plots.plot_sweep", plot)
    argv += ["--guides", "mean_field", "planar", "--latent-dim", "2", "--seeds", "0,1"]
    grid = ["--sweep", "num_flows=1,2", "--sweep", "prior=standard,mixture"]
    assert main([*argv, *grid]) == 0
    # Words are no axis, but lines of their own; and one guide has no such number.
    assert list(drawn) == ["num_flows"]
    lines = drawn["num_flows"]
    assert list(lines) == ["planar-prior=standard", "planar-prior=mixture"]
    for label, by_number in lines.items():
        prior = label.partition("=")[2]
        for number, results in by_number.items():
            names = {result["run"] for result in results}
            run = f"planar-num_flows={number}-prior={prior}"
            assert names == {f"{run}-s0", f"{run}-s1"}
    assert (tmp_path / "all" / "sweep_num_flows.png").exists()
    assert "sweep_num_flows.png" in capsys.readouterr().out


def test_none_is_swept_as_a_flag_takes_it(argv, tmp_path):
    argv += ["--guides", "mean_field", "--latent-dim", "2"]
    assert main([*argv, "--sweep", "clip_norm=none,10"]) == 0
    config = folders(tmp_path)["mean_field-clip_norm=None-s0"] / "config.json"
    assert json.loads(config.read_text())["training"]["clip_norm"] == 0


def test_places_and_objectives_are_swept(argv, tmp_path):
    argv += ["--guides", "mean_field", "--latent-dim", "2"]
    assert (
        main([*argv, "--sweep", "beta=1,4", "--runs-dir", str(tmp_path / "beta")]) == 0
    )
    # Trained by different bounds, the rows are chosen among by their ELBO.
    assert ", with ELBO " in (tmp_path / "all/comparison.md").read_text()
    assert main([*argv, "--sweep", "prior=standard,mixture"]) == 0
    assert {"mean_field-prior=standard-s0", "mean_field-prior=mixture-s0"} == {
        *folders(tmp_path)
    }


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        (["latent_dims=2,8"], "unknown option 'latent_dims'; did you mean 'latent_dim'?"),
        (["epochs=1,2"], "--sweep epochs: all rows of a table have the same number"),
        (["seed=1,2"], "it has a flag of its own; use --seeds"),
        (["lr=0.1,1e-1"], "--sweep lr: the value 0.1 comes twice"),
        (["lr=0.1", "lr=1"], "--sweep lr is given twice"),
        (["latent_dim"], "expected KEY=A,B,..., got 'latent_dim'"),
        (["latent_dim=2,"], "expected KEY=A,B,..., got 'latent_dim=2,'"),
        (["latent_dim=2,0"], "latent_dim must be at least 1, got 0"),
        (["latent_dim=2,big"], "option latent_dim: expected a number, got 'big'"),
        (["lr=1e-3,-1"], "lr must be positive, got -1"),
        (["gate_bias=1,2"], "--sweep gate_bias and iaf:gate_bias=... set the same option"),
        (["hidden_dims=(8,),(4,)"], "--sweep hidden_dims and --hidden-dims set the same"),
        (["prior_components=1,2"], "and --option prior_components=... set the same opt"),
    ],
)  # fmt: skip
def test_all_of_a_grid_is_checked_before_the_first_run(
    sweep, expected, argv, tmp_path, capsys
):
    argv += ["--guides", "mean_field", "iaf:gate_bias=1"]
    argv += ["--prior", "mixture", "--option", "prior_components=3"]
    argv += [word for text in sweep for word in ("--sweep", text)]
    try:
        code = main(argv)
    except SystemExit as exit_:  # argparse
        code = exit_.code
    assert code == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "all").exists()


def test_of_all_guides_those_that_cannot_be_trained_are_left_out(
    argv, tmp_path, capsys, monkeypatch
):
    guides = ["affine_coupling", "mean_field"]
    monkeypatch.setattr("pyro_vae_zoo.cli.compare.list_guides", lambda: guides)
    assert main([*argv, "--latent-dim", "1"]) == 0
    said = capsys.readouterr().err
    assert "left out affine_coupling: " in said
    assert "latent_dim >= 2, got 1" in said
    assert [*folders(tmp_path)] == ["mean_field-s0"]
    assert main([*argv, "--latent-dim", "0"]) == 2
    assert "latent_dim must be at least 1, got 0" in capsys.readouterr().err


def test_two_guides_of_one_name_are_told_apart(argv, tmp_path, capsys):
    text = (Path(__file__).parents[2] / "examples/my_guide.py").read_text()
    guides = [f"{tmp_path / name}.py:MyGuide" for name in ("one", "two")]
    for guide in guides:
        Path(guide.partition(":")[0]).write_text(text)
    assert main([*argv, "--guides", *guides]) == 2
    assert (
        f"{guides[0]} and {guides[1]} would share the run folder"
        in capsys.readouterr().err
    )


def test_finished_runs_are_not_swept(argv, tmp_path, capsys):
    assert main([*argv, str(tmp_path), "--sweep", "lr=1,2"]) == 2
    assert "got both" in capsys.readouterr().err
