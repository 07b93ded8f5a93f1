"""Types reach the user: a script of theirs is checked, and its mistakes are found."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "typed_user.py"


@pytest.mark.slow
def test_a_users_script_is_checked_with_useful_types(tmp_path):
    pytest.importorskip("mypy")
    argv = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        "",
        "--strict",
        "--cache-dir",
    ]
    argv += [str(tmp_path), str(SCRIPT)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=SCRIPT.parents[1])
    assert done.returncode == 0, done.stdout
