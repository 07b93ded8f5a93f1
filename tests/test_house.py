"""The house: sizes of files and folders, lazy imports, and names that stand for files."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pyro_vae_zoo as zoo
from pyro_vae_zoo.data.names import DATASETS
from pyro_vae_zoo.data.published import PUBLISHED
from pyro_vae_zoo.models import registry
from pyro_vae_zoo.nn import likelihoods, names

PACKAGE = Path(zoo.__file__).parent
FOLDERS = [path for path in PACKAGE.rglob("*") if (path / "__init__.py").exists()]


def test_no_file_is_long_and_no_folder_crowded():
    long = [p for p in PACKAGE.rglob("*.py") if len(p.read_text().splitlines()) > 400]
    assert long == []
    assert [f for f in FOLDERS if len(list(f.glob("*.py"))) > 16] == []
    assert len(list(PACKAGE.glob("*.py"))) <= 10 + 1  # and __init__
    assert len([f for f in FOLDERS if f.parent == PACKAGE]) <= 14


def without_torch(*argv):
    """Standard output of a program, which fails where it imports PyTorch."""
    code = (
        "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    )
    argv = [sys.executable, "-c", code, *argv]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "command", [(), ("train",), ("encode",), ("compare",), ("list",)]
)
def test_help_and_version_do_without_pytorch(command):
    usage = f"usage: {' '.join(['python -m pyro_vae_zoo', *command])} ["
    assert usage in without_torch("pyro_vae_zoo", *command, "--help")
    assert without_torch("pyro_vae_zoo", "--version").strip() == zoo.__version__


def test_the_citation_names_this_version():
    citation = yaml.safe_load((PACKAGE.parent / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == zoo.__version__


def test_the_face_has_the_public_names_and_imports_little():
    code = (
        "import sys, pyro_vae_zoo as z; z.list_guides(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
    assert dir(zoo) == sorted(zoo.__all__)
    assert all(getattr(zoo, name) is not None for name in zoo.__all__)


def test_each_file_of_models_registers_its_names():
    for file, guides in registry.FILES.items():
        importlib.import_module(f"pyro_vae_zoo.models.{file}")
        assert all(registry.entry(name).build for name in guides)
    density = {name for name, entry in registry._ENTRIES.items() if entry.is_density}
    assert density == set(zoo.list_density_models())
    assert {*zoo.list_guides(), *density} == set(registry._ENTRIES)


def test_each_name_stands_for_something():
    assert set(DATASETS) == set(PUBLISHED)
    assert set(names.LIKELIHOODS) == set(likelihoods.LIKELIHOODS)
