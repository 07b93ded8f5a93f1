"""Files that anybody may have written end in one clear error, whatever is in them."""

import gzip
import io
import json
import math
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import hostile
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pairs import nothing_drawn
from safetensors.torch import save as to_safetensors
from scipy.io import savemat

import pyro_vae_zoo as zoo
from pyro_vae_zoo.cli import main as cli
from pyro_vae_zoo.data import sources as _sources
from pyro_vae_zoo.data.formats import read_mat, read_npy, unpack_gzip
from pyro_vae_zoo.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
IN_CI = 30  # cases of each of five kinds of file
JSON_IN_CI = 8  # of which each evaluates, and draws
SECONDS = 60  # until a case hangs


def data():
    generator = torch.Generator().manual_seed(0)
    bits = torch.rand(40, 2, 3, generator=generator).lt(0.3)
    return zoo.Dataset(bits[:30], bits[30:35], bits[35:], name="six")


def npz_bytes():
    out = io.BytesIO()
    np.savez(out, **{k: getattr(data(), k).bool().numpy() for k in ("train", "test")})
    return out.getvalue()


def made():
    sizes = {"latent_dim": 2, "hidden_dims": (4,), "num_flows": 1}
    return zoo.create("iaf", data(), **sizes)


def fit(folder, epochs, vae=None):
    how = {"device": "cpu", "progress": False, "resume": True, "batch_size": 15}
    return zoo.fit(vae or made(), data(), epochs=epochs, out=folder, **how)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A run folder, with the data that it was trained on."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "six.npz").write_bytes(npz_bytes())
    words = ["--latent-dim", "2", "--hidden-dims", "4", "--epochs", "1", "--quiet"]
    words += ["--data", str(folder / "six.npz"), "--eval-particles", "2"]
    words += ["--out", str(folder / "run"), "--guide", "iaf", "--device", "cpu"]
    with nothing_drawn():
        assert cli.main(["train", *words]) == 0
    fit(folder / "bare", 1)
    return folder


@contextmanager
def refused_or_fine():
    """What the code inside may do: work, or raise what the caller can mend; soon."""

    def hang(*_args):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        yield
    except (zoo.UserError, zoo.DivergedError):
        pass  # a sentence that says what is wrong
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def load_npz(path, content):
    path.write_bytes(content)
    with refused_or_fine():
        loaded = zoo.load_dataset(path)
        assert loaded.train.isfinite().all()


def load_model(path, content):
    path.write_bytes(content)
    with refused_or_fine():
        vae = zoo.load(path)
        assert all(p.isfinite().all() for p in vae.parameters())


def go_on(folder, content):
    (folder / "checkpoint.pt").write_bytes(content)
    with refused_or_fine():
        fit(folder, 2)


def check_npz(draw, files, folder):
    change = draw(st.sampled_from((hostile.changed_bytes, hostile.changed_zip)))
    load_npz(folder / "a.npz", draw(change((files / "six.npz").read_bytes())))


def check_model(draw, files, folder):
    content = (files / "run/model.safetensors").read_bytes()
    load_model(folder / "a.safetensors", draw(hostile.changed_safetensors(content)))


def check_checkpoint(draw, files, folder):
    content = (files / "bare/checkpoint.pt").read_bytes()
    if draw(st.booleans()):
        change = draw(st.sampled_from((hostile.changed_bytes, hostile.changed_zip)))
        content = draw(change(content))
    else:
        state = draw(
            hostile.changed_value(load_checkpoint(files / "bare/checkpoint.pt"))
        )
        out = io.BytesIO()
        torch.save(state, out)
        content = out.getvalue()
    go_on(folder, content)


def check_json(draw, files, folder):
    """Of a run folder that is evaluated, or compared with itself."""
    name = draw(st.sampled_from(("config.json", "result.json", "metrics.jsonl")))
    text = (files / "run" / name).read_text()
    if draw(st.booleans()):
        content = draw(hostile.changed_bytes(text.encode()))
    else:
        content = json.dumps(draw(hostile.changed_value(json.loads(text)))).encode()
    run = folder / "run"
    run.mkdir(exist_ok=True)
    for path in (files / "run").glob("*.*"):
        if path.suffix != ".png":
            (run / path.name).write_bytes(path.read_bytes())
    (run / name).write_bytes(content)
    words = ["--num-particles", "2", "--num-data", "2", "--quiet", "--device", "cpu"]
    with refused_or_fine():
        assert cli.main(["evaluate", str(run), *words]) in (0, 1, 2)
        assert cli.main(["compare", str(run), "--out", str(folder / "out")]) in (
            0,
            1,
            2,
        )


def check_mat_file(draw, files, folder):
    out = io.BytesIO()
    packed = draw(st.booleans())
    savemat(
        out, {"ff": np.arange(60, dtype=np.uint8).reshape(6, 10)}, do_compression=packed
    )
    path = folder / "frey_rawface.mat"
    path.write_bytes(draw(hostile.changed_bytes(out.getvalue())))
    with refused_or_fine():
        _sources.frey(folder)


CHECKS = {  # how many cases by hand: 10,000
    check_npz: 2500,
    check_model: 2500,
    check_checkpoint: 2500,
    check_mat_file: 2000,
    check_json: 500,  # which evaluates, and draws
}


def run_cases(check, files, folder, number):
    @settings(
        max_examples=number,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(st.data())
    def cases(case):
        check(case.draw, files, folder)

    cases()


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_a_changed_file_is_refused_or_fine(check, files, tmp_path):
    run_cases(check, files, tmp_path, JSON_IN_CI if check is check_json else IN_CI)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_many_changed_files_are_refused_or_fine(check, files, tmp_path):
    run_cases(check, files, tmp_path, CHECKS[check])


# ---------------------------------------------------------- values of another kind

WRONG = [
    ("result.json", "elbo", [1], "elbo: expected float | null, got array;"),
    ("result.json", "guide", None, "guide: expected str, got null;"),
    ("result.json", "epochs", 0, "epochs: expected int >= 1;"),
    ("result.json", "seconds", None, "seconds: expected float, got null;"),
    ("result.json", "kl", True, "kl: expected float | null, got bool;"),
    ("result.json", "khat", {"median": "x"}, "khat[...]: expected float | null, got"),
    (
        "result.json",
        "active_units",
        {"z": 3},
        "active_units[...]: expected str, got int",
    ),
    (
        "result.json",
        "training",
        {"epochs": "5"},
        "training.epochs: expected int, got str",
    ),
    ("result.json", "options", "x" * 99, "options: expected object, got str; was it"),
    ("config.json", "source", None, "source: expected str, got null;"),
    ("config.json", "training", [], "training: expected object, got array;"),
]


@pytest.mark.parametrize(("name", "key", "value", "said"), WRONG)
def test_a_value_of_another_kind_is_named(
    name, key, value, said, files, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(files / "run", run)
    content = json.loads((run / name).read_text()) | {key: value}
    (run / name).write_text(json.dumps(content))
    command = "compare" if name == "result.json" else "evaluate"
    words = ["--out", str(tmp_path / "out")] if command == "compare" else ["--quiet"]
    assert cli.main([command, str(run), *words]) == 2
    error = capsys.readouterr().err
    assert f"{name} is no " in error
    assert said in error


# ------------------------------------------------------------------- single wicked ones


class Runs:
    """Code that runs where a pickle of it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("was_run",)


def test_a_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(Runs())
    torch.save({"vae": Runs()}, tmp_path / "checkpoint.pt")
    array = np.empty(1, object)
    array[0] = Runs()
    np.savez("objects.npz", train=array, test=array)
    for name in ("plain.npz", "plain.safetensors", "plain.pt"):
        (tmp_path / name).write_bytes(pickled)
    for load, name in [
        (load_checkpoint, "checkpoint.pt"),
        (load_checkpoint, "plain.pt"),
        (zoo.load, "plain.safetensors"),
        (zoo.load_dataset, "plain.npz"),
        (zoo.load_dataset, "objects.npz"),
    ]:
        with pytest.raises(zoo.DataFileError, match=name):
            load(tmp_path / name)
    assert not (tmp_path / "was_run").exists()


def npy_with(shape, dtype="|b1", content=b"\x00"):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def wicked_npz(path, content, packed=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name in ("train.npy", "test.npy", "../../outside.npy"):
            archive.writestr(name, content)
    return path


LOAD_ALL = """
import sys
from pathlib import Path
import pyro_vae_zoo as zoo
from pyro_vae_zoo.training.checkpoint import load_checkpoint
import resource, torch
torch.ones(3).exp()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 700 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in map(Path, sys.argv[1:]):
    load = {".npz": zoo.load_dataset, ".pt": load_checkpoint}.get(path.suffix, zoo.load)
    try:
        load(path)
        print(path.name, "was loaded")
    except zoo.UserError as error:
        print(path.name, "was refused")
    except MemoryError:
        print(path.name, "took memory")
"""


@pytest.mark.slow
def test_absurd_sizes_are_refused_before_they_are_allocated(tmp_path):
    """In a process that may have 700 MB more than it begins with."""
    shapes = {
        "large": "(1000000000000,)",
        "deep": "(1000000, 1000000, 1000000)",
        "minus": "(-1, 5)",
    }
    paths = [
        wicked_npz(tmp_path / f"{name}.npz", npy_with(shape))
        for name, shape in shapes.items()
    ]
    bomb = npy_with("(3000000000,)", content=bytes(3_000_000_00))
    paths.append(wicked_npz(tmp_path / "bomb.npz", bomb, zipfile.ZIP_DEFLATED))
    zoo.save(made(), tmp_path / "good.safetensors")
    good = (tmp_path / "good.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", good)
    for name, option in {
        "wide": {"hidden_dims": [10**6, 10**6]},
        "many": {"num_flows": 10**9},
        "latent": {"latent_dim": 10**9},
        "beyond": {"latent_dim": 10**30},
    }.items():
        header = json.loads(good[8 : 8 + length])
        config = json.loads(header["__metadata__"]["pyro_vae_zoo"])
        config["options"] |= option
        header["__metadata__"]["pyro_vae_zoo"] = json.dumps(config)
        text = json.dumps(header).encode()
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + good[8 + length :])
        paths.append(path)
    header = struct.pack("<Q", 2**40)
    (tmp_path / "header.safetensors").write_bytes(header + b"{}")
    torch.save({"x": torch.zeros(10)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            content = plain.read(entry)
            if "/data/" in entry.filename:
                content = bytes(300_000_000)
            packed.writestr(entry.filename, content)
    paths += [tmp_path / "header.safetensors", tmp_path / "packed.pt"]
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ALL, *map(str, paths)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{p.name} was refused" for p in paths]


def test_a_name_that_leads_out_of_the_archive_writes_nothing(tmp_path):
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)
    path = wicked_npz(inside / "a.npz", npy_with("(4, 2)", content=bytes(8)))
    with pytest.warns(UserWarning, match="not used: '../../outside'"):
        assert len(zoo.load_dataset(path).train) == 3
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.npz"]


def test_a_tensor_that_is_larger_than_its_data(tmp_path):
    """Which would read what lies behind it in memory."""
    path, out = tmp_path / "small.pt", tmp_path / "large.pt"
    torch.save({"x": torch.zeros(10)}, path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w") as other:
        for entry in archive.infolist():
            content = archive.read(entry)
            if "/data/" in entry.filename:
                content = content[:8]
            other.writestr(entry.filename, content)
    with pytest.raises(zoo.DataFileError, match="is corrupt"):
        load_checkpoint(out)


def test_weights_that_are_not_finite(tmp_path):
    path = zoo.save(made(), tmp_path)
    vae = zoo.load(path)
    vae.model.decoder[0].linear.weight.data[0, 0] = float("nan")
    zoo.save(vae, path)
    with pytest.raises(zoo.UserError, match="are not finite: model.decoder"):
        zoo.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_are_not_finite(value, tmp_path):
    x = np.zeros((20, 4), np.float32)
    x[3, 2] = value
    np.savez(tmp_path / "a.npz", train=x, test=x)
    with pytest.raises(zoo.DataFileError, match=r"a\.npz"):
        zoo.load_dataset(tmp_path / "a.npz")


def test_weights_of_other_shapes(tmp_path):
    config = {"pyro_vae_zoo": json.dumps(made().config)}
    tensors = {k: torch.zeros(3) for k in made().state_dict()}
    (tmp_path / "a.safetensors").write_bytes(to_safetensors(tensors, config))
    with pytest.raises(zoo.UserError, match="do not fit"):
        zoo.load(tmp_path / "a.safetensors")


def test_what_unpacks_to_too_much():
    with pytest.raises(ValueError, match="more than 100 bytes"):
        unpack_gzip(gzip.compress(bytes(101)), 100)
    assert unpack_gzip(gzip.compress(bytes(100)), 100) == bytes(100)
    element = zlib.compress(bytes(1 << 29))
    data = bytes(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(element)) + element
    with pytest.raises(ValueError, match="unpacks to"):
        read_mat(data)
    with pytest.raises(ValueError, match="an element takes 99 bytes, but there are 0"):
        read_mat(data[:128] + struct.pack("<II", 14, 99))


@given(
    st.sampled_from(["|b1", "|u1", "<f4", ">f4", "<f8", ">i8", "<f2"]), st.booleans()
)
def test_an_array_comes_back(dtype, by_columns):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    out = io.BytesIO()
    np.save(out, np.asfortranarray(array) if by_columns else array)
    again = read_npy(io.BytesIO(out.getvalue()), len(out.getvalue()))
    np.testing.assert_array_equal(again, array)
    assert again.dtype == array.dtype.newbyteorder("=")


@given(
    st.sampled_from(["u1", "i1", "i2", "u4", "f4", "f8", "i8"]),
    st.booleans(),
    st.lists(st.integers(0, 5), min_size=2, max_size=3),
    st.sampled_from(["x", "a_name_that_is_long"]),
)
def test_a_matrix_comes_back(dtype, packed, shape, name):
    """As SciPy writes it, beside what is passed over."""
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    out = io.BytesIO()
    others = {"text": "no numbers", "cells": np.array([1, "b"], object), "z": 1j}
    savemat(out, others | {name: array}, do_compression=packed)
    (read,) = read_mat(out.getvalue()).values()
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype
