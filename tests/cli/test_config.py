"""A run that is repeated by its configuration, and files that say what cannot be."""

import json
import re
import shutil
from pathlib import Path

import pytest

from pyro_vae_zoo.cli import train
from pyro_vae_zoo.cli.config import parse
from pyro_vae_zoo.cli.main import main
from pyro_vae_zoo.cli.parser import make_parser
from pyro_vae_zoo.cli.train import options_of, training_of

ROOT = Path(__file__).parents[2]
SAVED = sorted((ROOT / "tests/saved").glob("*/*/config.json"))
WORDS = ["--guide", "iaf", "--latent-dim", "2", "--hidden-dims", "8", "--epochs", "1"]
WORDS += ["--option", "flow_hidden_dims=4,", "--option", "gate_bias=1.5", "--seed", "3"]
WORDS += ["--eval-particles", "5", "--no-compile", "--clip-norm", "9", "--analytic-kl"]


def run(*argv):
    return main([str(word) for word in argv])


def told(capsys, *argv):
    """The one line of a mistake."""
    assert run(*argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line.removeprefix("error: ")


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_vae_zoo.plots.run.draw", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def first(npz, tmp_path_factory):
    """A run; whose pictures, like those of all here, are left out: they take seconds."""
    folder = tmp_path_factory.mktemp("config") / "first"
    words = [w for w in WORDS if w != "--analytic-kl"]
    assert run("train", "--data", npz, "--out", folder, "--quiet", *words) == 0
    return folder


def record(folder, name="result.json"):
    return json.loads((folder / name).read_text())


def same(result):
    """What two runs of one configuration have in common: all but their time."""
    return {k: v for k, v in result.items() if k != "seconds"}


def test_a_run_is_repeated_bit_for_bit(first, tmp_path):
    again = tmp_path / "again"
    argv = ["train", "--config", first / "config.json", "--out", again, "--quiet"]
    assert run(*argv) == 0
    for name in ("config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (first / name).read_bytes()
    assert same(record(again)) == same(record(first))
    lines = [(f / "metrics.jsonl").read_text().splitlines() for f in (first, again)]
    one, two = ([same(json.loads(x)) for x in of] for of in lines)
    assert one == two != []
    # And so it is as one of a comparison.
    argv = ["compare", "--config", first / "config.json", "--out", tmp_path / "all"]
    assert run(*argv, "--quiet") == 0
    (folder,) = (p for p in (tmp_path / "all").iterdir() if p.is_dir())
    assert folder.name == "iaf-s3"
    assert same(record(folder)) == same(record(first))


def arguments(*argv):
    return parse(make_parser(), [str(word) for word in argv])


def test_what_is_typed_goes_first(first):
    config = ["train", "--config", first / "config.json"]
    args = arguments(*config)
    assert (args.seed, args.lr, args.clip_norm, args.compile) == (3, 1e-3, 9, False)
    more = ["--lr", "0.1", "--clip-norm", "none", "--guide", "planar", "--compile"]
    more += ["--option", "gate_bias=7", "--no-analytic-kl", "--latent-dim", "5"]
    args = arguments(*config, *more)
    assert (args.seed, args.lr, args.clip_norm, args.guide) == (3, 0.1, None, "planar")
    assert options_of(args) == {
        "network": "gated_mlp",
        "latent_dim": 5,
        "hidden_dims": (8,),
        "flow_hidden_dims": [4],
        "gate_bias": 7,
    }
    assert args.compile is True
    assert args.out is None


def test_a_yes_of_a_configuration_can_be_taken_back(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"training": {"analytic_kl": True}}))
    assert arguments("train", "--config", path).analytic_kl
    assert not arguments("train", "--config", path, "--no-analytic-kl").analytic_kl


@pytest.mark.parametrize("path", SAVED, ids=lambda p: p.parent.name)
def test_configurations_of_earlier_versions_are_read(path):
    old = json.loads(path.read_text())
    with pytest.warns(
        UserWarning, match="data set 'digits' is now called 'digits_binary'"
    ):
        args = arguments("train", "--config", path)
    training = training_of(args, args.seed)
    then = old["training"] | {"clip_norm": 0, "patience": 0}  # as it meant by null
    assert {k: getattr(training, k) for k in then} == then
    options = {
        k: list(v) if isinstance(v, tuple) else v for k, v in options_of(args).items()
    }
    assert options == {"network": "mlp"} | old["vae"]["options"]
    assert (args.guide, args.data) == (old["guide"], "digits_binary")
    assert args.eval_particles == old["eval_particles"]


def test_data_that_have_changed_are_said_to_have(first, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text((first / "config.json").read_text().replace("40/10/10", "30/10/10"))
    line = told(capsys, "train", "--config", path, "--out", tmp_path / "run")
    assert f"the data of {path} have changed" in line
    assert "30/10/10" in line
    assert "40/10/10" in line


def test_the_size_of_a_densitys_training_part_is_repeated(tmp_path):
    path = tmp_path / "density.json"
    path.write_text(json.dumps({"model": "maf", "train_size": 30}))
    args = arguments("density", "--config", path)
    assert (args.guide, args.train_size, args.lr) == ("maf", 30, None)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"latent_dims": 8}, "key of FILE: 'latent_dims'; did you mean 'latent_dim'?"),
        ({"training": {"lrr": 1}}, "key of FILE, training: 'lrr'; did you mean 'lr'?"),
        ({"vae": {"opptions": {}}}, "FILE, vae: 'opptions'; did you mean 'options'?"),
        ({"places": {"priors": "flow"}}, "FILE, places: 'priors'; did you mean 'prior'?"),
        ({"training": {"lr": "fast"}}, "FILE: lr: expected a number, got 'fast'"),
        ({"latent_dim": [2, 3]}, "FILE: latent_dim: expected a whole number, got [2, 3]"),
        ({"hidden_dims": "wide"}, "FILE: hidden_dims: expected whole numbers, got 'wide'"),
        ({"epochs": None, "batch_size": None}, "FILE: batch_size: expected a whole number"),
        ({"sticking_the_landing": "yes"}, "expected true or false, got 'yes'"),
        ({"bound": "iwa"}, "bound: unknown value 'iwa'; did you mean 'iwae'?"),
        ({"out": "runs/x"}, "FILE: out cannot be set in a file; give it on the command"),
        ({"training": [1]}, "FILE, training: expected names and their values, got [1]"),
        ([1], "FILE: expected names and their values, got [1]"),
        ({"options": {"gatebias": 1}}, "unknown option of guide 'iaf': 'gatebias'"),
        ({"options": {"gate_bias": "x"}}, "option gate_bias: expected a number, got 'x'"),
        ({"lr": -1}, "lr must be positive, got -1"),
        ({"places": {"prior": "vampp"}}, "unknown prior 'vampp'; did you mean 'vamp'?"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file(record, expected, npz, tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(record))
    argv = ["train", "--guide", "iaf", "--data", npz, "--out", tmp_path / "x"]
    line = told(capsys, *argv, "--config", path)
    assert expected.replace("FILE", str(path)) in line
    assert not (tmp_path / "x").exists()


def test_files_that_are_none(tmp_path, capsys):
    (tmp_path / "half.json").write_text("{half")
    for name, expected in {
        "half.json": "is not valid JSON",
        "none.json": "not found",
        "none.yaml": "not found",
        ".": "is a folder; expected",
    }.items():
        assert expected in told(capsys, "train", "--config", tmp_path / name)


def test_yaml_is_read_where_there_is_a_reader(tmp_path, capsys, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text("guides: [mean_field, iaf]\nlr: 1e-3\nseeds: [0, 1]\nhidden_dims: 8\n"
                    "sweep: {latent_dim: [2, 8]}\noptions: {gate_bias: 1.5}\n")  # fmt: skip
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    assert "pip install pyyaml" in told(capsys, "compare", "--config", path)
    monkeypatch.undo()
    pytest.importorskip("yaml")
    args = arguments("compare", "--config", path)
    assert (args.guides, args.lr, args.seeds) == (["mean_field", "iaf"], 1e-3, (0, 1))
    assert (args.hidden_dims, args.sweep) == ((8,), [("latent_dim", [2, 8])])
    assert args.option == [("gate_bias", 1.5)]
    path.write_text("sweep: {lr: [1e-3, 3e-4]}\noptions: {gate_bias: 1e-3}\n"
                    "data_options: {logit: 1e-3}\n")  # fmt: skip
    args = arguments("compare", "--config", path)  # which YAML reads as words
    assert args.sweep == [("lr", [1e-3, 3e-4])]
    assert args.option == [("gate_bias", 1e-3)]
    assert args.data_options == [("logit", 1e-3)]
    path.write_text("a: [")
    assert "is not valid YAML" in told(capsys, "compare", "--config", path)


def test_the_file_of_the_documentation_is_understood(tmp_path):
    pytest.importorskip("yaml")
    page = (ROOT / "docs/how_to/sweeps.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.+?)^```", page, re.M | re.S)
    (tmp_path / "mine.yml").write_text(text)
    args = arguments("compare", "--config", tmp_path / "mine.yml")
    assert (args.guides, args.epochs, args.schedule) == (
        ["mean_field", "iaf"],
        50,
        "cosine",
    )
    assert args.seeds == (0, 1, 2)
    assert args.option == [("flow_hidden_dims", [64])]
    assert args.sweep == [("num_flows", [1, 2, 4])]


def test_code_of_ones_own_is_only_run_when_it_is_asked_for(tmp_path, capsys):
    witness, mine = tmp_path / "ran", tmp_path / "mine.py"
    text = (ROOT / "examples/my_guide.py").read_text()
    mine.write_text(f"open({str(witness)!r}, 'w').close()\n{text}")
    path, out = tmp_path / "config.json", tmp_path / "run"
    prior = f"{ROOT}/examples/my_prior.py:MyPrior"
    config = {"guide": f"{mine}:MyGuide", "places": {"prior": prior}, "latent_dim": 2}
    path.write_text(json.dumps(config))
    line = told(capsys, "train", "--config", path, "--out", out)
    assert line.endswith(f"add --guide {mine}:MyGuide --prior {prior}")
    words = line.partition("add ")[2].split()
    line = told(capsys, "train", "--config", path, "--out", out, *words[:2])
    assert line.endswith(f"add --prior {prior}")
    line = told(capsys, "compare", "--config", path, "--out", out)
    assert line.endswith(f"add --guides {mine}:MyGuide --prior {prior}")
    args = arguments("train", "--config", path, *words)
    assert (args.guide, args.prior) == (words[1], words[3])
    for command, record, added in (
        ("density", {"options": {"prior": words[1]}}, f"add --option prior={words[1]}"),
        (
            "compare",
            {"guides": [f"iaf:prior={words[1]}"]},
            f"--guides iaf:prior={words[1]}",
        ),
        (
            "compare",
            {"sweep": {"prior": [words[1]]}},
            "give code of your own on the command line",
        ),
        ("train", {"model": words[1]}, f"add --model {words[1]}"),
        ("train", {"optimizer": words[1]}, f"add --optimizer {words[1]}"),
        ("train", {"callbacks": [words[1]]}, f"add --callbacks {words[1]}"),
    ):
        path.write_text(json.dumps(record))
        assert told(capsys, command, "--config", path, "--out", out).endswith(added)
    assert not witness.exists()


def test_a_run_is_not_written_over_by_its_own_configuration(
    first, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    default = shutil.copytree(first, tmp_path / "runs/iaf-six-s3")
    before = {p.name: p.read_bytes() for p in default.iterdir()}
    line = told(capsys, "train", "--config", default / "config.json")
    assert "--resume" in line
    assert "another --out leaves it alone" in line
    assert {p.name: p.read_bytes() for p in default.iterdir()} == before


def test_other_data_are_not_read_as_those_of_the_file(tmp_path):
    path = tmp_path / "mine.json"
    record = {"data": "a.csv", "data_options": {"labels": "kind", "drop": "id"}}
    path.write_text(json.dumps(record))
    config = ["train", "--config", path]
    assert dict(arguments(*config).data_options) == record["data_options"]
    assert arguments(*config, "--data", "b.csv").data_options == []
    own = arguments(*config, "--data", "b.csv", "--data-option", "labels=sex")
    assert own.data_options == [("labels", "sex")]
    same = arguments(*config, "--data", "b.csv", "--data-option", "labels=kind")
    assert same.data_options == [("labels", "kind")]


@pytest.fixture
def resumed(tmp_path, monkeypatch):
    """A function that writes what a run recorded, and reads the line that resumes it."""
    monkeypatch.chdir(tmp_path)

    def read(record, *words):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text(json.dumps(record))
        return arguments("train", "--out", "run", "--resume", *words)

    return read


@pytest.mark.parametrize(
    "words",
    [["a.csv"], ["moved/a.csv"], ["a.csv", "--data-option", "standardise=true"], []],
)
def test_a_run_goes_on_with_its_data_wherever_they_are(words, resumed, tmp_path):
    record = {"source": f"{tmp_path}/a.csv", "guide": "mean_field"}
    record["data_options"] = {"standardise": True}
    args = resumed(record, *(["--data"] if words else []), *words)
    assert args.data == (words[0] if words else record["source"])
    assert dict(args.data_options) == record["data_options"]


def test_a_path_to_the_data_of_a_file_may_be_written_in_other_ways(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    record = {"source": f"{tmp_path}/a.csv", "data_options": {"labels": "kind"}}
    Path("config.json").write_text(json.dumps(record))
    args = arguments("train", "--config", "config.json", "--data", "a.csv")
    assert dict(args.data_options) == record["data_options"]


PRIOR = {"guide": "iaf", "places": {"prior": "mine.py:P"}}
MODEL = {"guide": "mine.py:make", "places": {"model": "mine.py:make"}}


@pytest.mark.parametrize(
    ("record", "words", "latent_dim"),
    [
        ({"guide": "iaf"}, [], 3),
        ({"guide": "iaf"}, ["--guide", "planar"], None),
        ({"guide": "mine.py:G"}, ["--guide", "moved/mine.py:G"], 3),
        ({"guide": "mine.py:G"}, ["--guide", "mine.py:Other"], None),
        (PRIOR, ["--prior", "./mine.py:P"], 3),
        (MODEL, ["--model", "mine.py:make"], 3),
        (MODEL, ["--model", "moved/mine.py:make"], 3),
        (MODEL, ["--model", "mine.py:other"], None),
        (MODEL, ["--guide", "iaf"], None),
    ],
)
def test_a_run_goes_on_with_its_options_unless_another_pair_is_typed(
    record, words, latent_dim, resumed
):
    assert resumed(record | {"latent_dim": 3}, *words).latent_dim == latent_dim


def test_a_guide_that_is_typed_stands_in_place_of_a_models_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MODEL))
    args = arguments("train", "--config", path, "--guide", "iaf")
    assert (args.guide, args.model) == ("iaf", None)


def test_a_sweep_over_nothing_is_refused_as_a_word_is(npz, tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"sweep": {"prior": [None]}}))
    argv = ["compare", "--config", path, "--data", npz, "--guides", "mean_field"]
    assert "unknown prior 'none'" in told(capsys, *argv, "--out", tmp_path / "all")


def test_a_density_has_a_small_rate_unless_its_optimiser_has_one(monkeypatch):
    rates = []
    monkeypatch.setattr(train, "checked_data", lambda args: None)
    monkeypatch.setattr(train, "_train_on", lambda *of: rates.append(of[-1].lr))
    for words in ([], ["--optimizer", "mine.py:make"], ["--lr", "0.5"]):
        train.density_command(arguments("density", *words))
    assert rates == [1e-4, 1e-3, 0.5]


@pytest.mark.parametrize(
    "typed", [["--data", "digits_binary"], ["--likelihood", "poisson"]]
)
def test_what_was_read_off_the_data_is_not_for_others(typed, tmp_path, capsys):
    path = tmp_path / "config.json"
    vae = {"guide": "iaf", "event_shape": [8, 8], "likelihood": "binomial"}
    vae["options"] = {"total_count": 16, "gate_bias": 1.5}
    words = {"guide": "iaf", "data": "digits", "source": "digits", "vae": vae}
    path.write_text(json.dumps(words))
    assert dict(arguments("train", "--config", path).option)["total_count"] == 16
    args = arguments("train", "--config", path, *typed)
    assert dict(args.option) == {"gate_bias": 1.5}
    args = arguments("train", "--config", path, *typed, "--option", "total_count=9")
    assert dict(args.option) == {"gate_bias": 1.5, "total_count": 9}
