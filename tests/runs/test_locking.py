"""Two runs in one folder are refused; what a dead process left is no obstacle."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.files import LOCK_FILE, locked

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, pathlib
from pyro_vae_zoo.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def small():
    data = zoo.load_dataset("digits_binary").first(40)
    return zoo.create("mean_field", data, latent_dim=2, hidden_dims=(8,)), data


def fit(folder):
    vae, data = small()
    return zoo.fit(vae, data, epochs=1, out=folder, device="cpu", progress=False)


def test_a_folder_in_use_is_refused_and_a_killed_holder_lets_go(
    holder, tmp_path, capsys
):
    words = f"is in use by process {holder.pid} on .*: two runs"
    with pytest.raises(zoo.UserError, match=words):
        fit(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {LOCK_FILE}
    run = ["train", "--out", str(tmp_path), "--epochs", "1", "--quiet"]
    assert cli.main([*run, "--latent-dim", "2", "--hidden-dims", "8"]) == 2
    assert "is in use by process" in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {LOCK_FILE}

    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_FILE).read_text().startswith(f"process {holder.pid}")
    assert len(fit(tmp_path).epochs) == 1


def test_another_thread_is_refused(tmp_path):
    refused = []

    def enter():
        try:
            with locked(tmp_path):
                pass
        except zoo.UserError as error:
            refused.append(str(error))

    with locked(tmp_path), locked(tmp_path):  # the same thread may
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(refused) == 1
    enter()
    assert len(refused) == 1


@pytest.mark.parametrize("text", ["", "\x00\x1b[31m", "x" * 1000])
def test_whatever_stands_in_the_lock_is_printable(text, holder, tmp_path):
    (tmp_path / LOCK_FILE).write_text(text)
    with pytest.raises(zoo.UserError) as error, locked(tmp_path):
        pass
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400 + len(str(tmp_path))
