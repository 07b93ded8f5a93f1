"""A disk that is full, a folder that is gone: one clear line, and nothing lost."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pairs import nothing_drawn

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.files import written
from pyro_vae_zoo.training import loop
from pyro_vae_zoo.training.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--latent-dim", "2", "--hidden-dims", "16", "--eval-particles", "5", "--quiet"),
    *("--device", "cpu"),
]


def train(folder, *words):
    return ["train", "--out", str(folder), *SMALL, *words]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one epoch, to be copied."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with nothing_drawn():
        assert cli.main(train(folder, "--epochs", "1")) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def main_with_largest_file(size, argv):
    """The command line in a process that may write files of so many bytes."""
    return subprocess.run(
        [sys.executable, "-m", "pyro_vae_zoo", *argv],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_full_disk_keeps_the_last_good_checkpoint(run):
    checkpoint = run / "checkpoint.pt"
    before = checkpoint.read_bytes()
    longer = train(run, "--epochs", "3", "--resume")
    done = main_with_largest_file(len(before) // 2, longer)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"cannot write the checkpoint {checkpoint}" in done.stderr
    assert "the one before is whole" in done.stderr
    assert checkpoint.read_bytes() == before
    assert not list(run.glob("*.tmp"))
    assert cli.main(longer) == 0  # once there is room again
    assert load_checkpoint(checkpoint)["epoch"] == 3


@pytest.mark.slow
def test_a_full_disk_before_there_is_anything(tmp_path):
    done = main_with_largest_file(8000, train(tmp_path / "run", "--epochs", "1"))
    assert done.returncode == 2
    assert "there is none yet" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a read-only place")
def test_a_place_where_nothing_can_be_written(capsys):
    assert cli.main(train("/proc/run", "--epochs", "1")) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_may_not_be_written_to(run, monkeypatch, capsys):
    """As it is for a user who is not root, to whom everything is allowed."""

    def refuse(path, *_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pyro_vae_zoo.data.download.os.replace", refuse)
    before = (run / "checkpoint.pt").read_bytes()
    assert cli.main(train(run, "--epochs", "2", "--resume")) == 2
    assert "Permission denied" in capsys.readouterr().err
    assert (run / "checkpoint.pt").read_bytes() == before


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_is_removed_during_the_run(run, monkeypatch, capsys):
    step, seen = loop.Loop._step, []

    def removing(self, x):
        seen.append(1)
        if len(seen) == 3:
            shutil.rmtree(run)
        return step(self, x)

    monkeypatch.setattr(loop.Loop, "_step", removing)
    assert cli.main(train(run, "--epochs", "3", "--resume")) == 2
    error = capsys.readouterr().err
    assert f"cannot write {run / 'metrics.jsonl'} (No such file or directory)" in error
    assert "the folder gone?" in error


def test_what_was_half_written_is_named_and_swept_away(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def write():
        with written(path) as file:
            file.write(b"after")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device.*file"):
        write()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


def test_a_checkpoint_that_torch_cannot_write(tmp_path, monkeypatch):
    def fail(*_args):
        raise RuntimeError("PytorchStreamWriter failed writing file\nat line 7")

    monkeypatch.setattr("torch.save", fail)
    with pytest.raises(
        zoo.DataFileError, match=r"\(PytorchStreamWriter.*file at line 7\): is"
    ):
        save_checkpoint(tmp_path / "checkpoint.pt", {})
