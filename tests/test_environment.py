"""What the zoo takes for granted of a machine: no home, no account, names of its own."""

import os
import pathlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.data import download as _files
from pyro_vae_zoo.runtime import pick_device

ROOT = pathlib.Path(zoo.__file__).parent.parent
# What a container has whose user id is of its own: no entry in the list of accounts.
HOMELESS = """
import pwd
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
"""


def without_home(code, **environment):
    """Standard output of a program in a process without HOME and without an account."""
    names = ("PATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MPLBACKEND")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HOMELESS + code],
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_digits_need_no_home_and_other_data_say_what_they_need():
    code = """
import pyro_vae_zoo as zoo
print(zoo.load_dataset("digits_binary").name)
for name in ("mnist_static", "frey_faces", "cifar10"):
    try:
        zoo.load_dataset(name)
    except zoo.DataFileError as error:
        print(error)
try:
    zoo.load_dataset("~/mine.npz")
except zoo.UserError as error:
    print(error)
"""
    digits, *lines, last = without_home(code).splitlines()
    assert digits == "digits_binary"
    assert len(lines) == 3
    for line in lines:
        assert "no home folder for a cache" in line
        assert "--data-dir or $PYRO_VAE_ZOO_DATA" in line
    assert "~ stands for the home folder, but this user has none" in last


def test_a_data_folder_is_enough(tmp_path):
    faces = np.random.RandomState(0).randint(0, 256, (1965, 560), np.uint8)
    np.save(tmp_path / "freyfaces.npy", faces)
    code = f"""
import hashlib, dataclasses, os, pathlib
import pyro_vae_zoo as zoo
from pyro_vae_zoo.data import sources
path = pathlib.Path({str(tmp_path)!r}, "freyfaces.npy")
digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
source = sources.SOURCES["frey_faces"]
source = dataclasses.replace(source, files={{path.name: digest}})
sources.SOURCES["frey_faces"] = source
print(len(zoo.load_dataset("frey_faces", path.parent).train))
os.environ["PYRO_VAE_ZOO_DATA"] = str(path.parent)
print(len(zoo.load_dataset("frey_faces").train))
"""
    assert without_home(code).splitlines() == ["1565", "1565"]


@pytest.mark.slow
def test_a_run_needs_no_home(tmp_path):
    """Compiled, evaluated and drawn: each of them likes to keep something at home."""
    code = f"""
from pyro_vae_zoo.cli.main import main
main(["train", "--epochs", "1", "--latent-dim", "2", "--hidden-dims", "8", "--compile",
      "--batch-size", "600", "--eval-particles", "5", "--quiet",
      "--out", {str(tmp_path)!r}])
"""
    without_home(code)
    assert (tmp_path / "result.json").is_file()
    assert (tmp_path / "samples.png").is_file()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    """A file where the folder is to be."""
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("PYRO_VAE_ZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "source").write_text("data")
    bits = np.eye(3, dtype=bool)
    assert _files.cached_bits(tmp_path / "source", lambda: bits) is bits


# ------------------------------------------------------------------------------- names


def test_writers_of_one_process_do_not_take_each_others_files(tmp_path, monkeypatch):
    """Threads share the number of their process, and two containers may both be 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    start = threading.Barrier(8)

    def write(k):
        with _files.written(tmp_path / "file") as file:
            file.write(b"%d" % k * 1000)
            start.wait()
        return k

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(write, range(8))) == list(range(8))
    content = (tmp_path / "file").read_bytes()
    assert len(content) == 1000
    assert len(set(content)) == 1  # of one writer, whole
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_models_and_runs_are_written_side_by_side(tmp_path):
    vaes = [zoo.create("mean_field", event_shape=(4,), latent_dim=2) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda vae: zoo.save(vae, tmp_path), vaes * 3))
    found = zoo.load(tmp_path).state_dict()
    assert any(
        all(torch.equal(found[name], value) for name, value in vae.state_dict().items())
        for vae in vaes
    )


# ----------------------------------------------------------------------------- devices


@pytest.mark.parametrize("name", ["cpu", "cpu:0", torch.device("cpu"), "auto"])
def test_a_device_by_any_of_its_names(name):
    data = zoo.load_dataset("digits_binary").first(20)
    vae = zoo.create("mean_field", data, latent_dim=2, hidden_dims=(8,))
    if name != "auto":
        assert pick_device(name) == torch.device("cpu")
    zoo.fit(vae, data, epochs=1, device=name, progress=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tpu", "unknown device 'tpu'; known: auto, cpu, cuda, cuda:N"),
        ("cuda:x", "unknown device 'cuda:x'"),
        (None, "unknown device 'None'"),
        ("meta", "unknown device 'meta'"),
        ("cuda:99", "'cuda:99' was asked for, but this machine"),
        (torch.device("cuda", 99), "'cuda:99' was asked for, but this machine"),
    ],
)
def test_a_device_that_is_not_there_is_named(name, expected):
    with pytest.raises(zoo.UserError, match=expected):
        pick_device(name)
