"""The script for a GPU: whatever a part does, what others measured stays, and it ends."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def on_gpu():
    path = ROOT / "benchmarks" / "on_gpu.py"
    spec = importlib.util.spec_from_file_location("on_gpu", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["on_gpu"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["on_gpu"]


@pytest.fixture
def run(on_gpu, tmp_path):
    (tmp_path / "work").mkdir()
    args = Namespace(dry=True, seconds=60.0, data=None)
    args.out, args.work = tmp_path / "out", tmp_path / "work"
    return on_gpu.Run(args)


def program(code):
    """A part that is this code, with at most two seconds."""
    return lambda run, seconds: run.call(["-c", code], 2, "part")


def raises(run, seconds):
    raise ValueError("of the script itself")


def test_each_part_is_told_of(on_gpu, run):
    code = f"open({str(run.out('good'))!r}, 'w').write('[1]')"
    parts = {
        "good": (program(code), 10, 1),
        "bad": (program("print('why'); raise SystemExit(3)"), 10, 1),
        "broken": (raises, 10, 1),
        "too_long": (lambda *_: None, 10, 1000),
        "after": (program("pass"), 10, 1),
    }
    run.args.out.mkdir()
    on_gpu.run_all(run, parts)
    told = json.loads(run.out("summary").read_text())["parts"]
    states = {name: part["state"] for name, part in told.items()}
    assert states == {
        "good": "done",
        "bad": "failed",
        "broken": "failed",
        "too_long": "left out",
        "after": "done",
    }
    assert run.read("good") == [1]
    assert told["bad"]["last_lines"] == ["why"]
    assert told["bad"]["reason"] == "exit code 3"
    assert "of the script itself" in told["broken"]["reason"]
    assert "s were left" in told["too_long"]["reason"]


@pytest.mark.parametrize("polite", [True, False])
def test_what_hangs_is_stopped_with_all_that_it_started(
    on_gpu, run, monkeypatch, tmp_path, polite
):
    monkeypatch.setattr(on_gpu, "GRACE", 0.5)
    deaf = "" if polite else "signal.signal(signal.SIGINT, signal.SIG_IGN);"
    child = f"import time; time.sleep(8); open({str(tmp_path / 'late')!r}, 'w')"
    code = (
        f"import signal, subprocess, sys, time; {deaf}"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    outcome = run.call(["-c", code], 2, "part")
    assert outcome.state == "stopped"
    assert run.process is None
    time.sleep(0.1)
    done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True)
    assert str(tmp_path / "late") not in done.stdout


def test_without_cuda_nothing_else_is_begun(on_gpu, run):
    run.args.dry = False
    run.write("machine", {"cuda": False})
    on_gpu.run_all(run, {"steps": (raises, 10, 1)})
    assert run.outcomes["steps"].reason == "no CUDA device"


def test_tests_are_read_as_far_as_they_came(on_gpu, tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "tests/test_contract.py::test_of[iaf] PASSED       [ 50%]\n"
        "tests/test_contract.py::test_of[two words] FAILED [100%]\n"
        "FAILED tests/test_contract.py::test_of[two words] - error\n"
        "tests/test_contract.py::test_that_hangs "
    )
    name = "tests/test_contract.py::test_of"
    expected = {f"{name}[iaf]": "PASSED", f"{name}[two words]": "FAILED"}
    assert on_gpu._tests_of(log) == expected


@pytest.mark.slow
def test_all_of_it_runs_small(tmp_path):
    """CI runs this as a step of its own."""
    command = ["bash", str(ROOT / "benchmarks" / "on_gpu.sh"), "--dry"]
    env = os.environ | {"OUT": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
