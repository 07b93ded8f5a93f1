"""Types reach the user: a script of theirs is checked, and its mistakes are found."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "typed_user.py"


def test_a_users_script_is_checked_with_useful_types(tmp_path):
    pytest.importorskip("mypy")
    argv = ["--strict", "--cache-dir", str(tmp_path), str(SCRIPT)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "", *argv],
        capture_output=True,
        text=True,
        cwd=SCRIPT.parents[1],
    )
    assert done.returncode == 0, done.stdout
