"""The documentation: its examples run, and no entry or public name is left out."""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import pyro_vae_zoo as zoo
from pyro_vae_zoo import plots
from pyro_vae_zoo import transforms as zoo_transforms
from pyro_vae_zoo.cli.parser import make_parser

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {str(p.relative_to(DOCS)): p for p in sorted(DOCS.rglob("*.md"))}
WITH_EXAMPLES = [name for name, page in PAGES.items() if ">>> " in page.read_text()]
NEEDS_NO_EXAMPLE = {
    "__version__": "a string",
    "models": "a module, whose files have pages of their own",
    "plots": "a module, whose functions have",
    "testing": "a module; its function has one",
    "transforms": "a module, whose functions have",
    "callbacks": "a module; its classes have one",
}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_page_run(name):
    text = re.sub("^```.*$", "", PAGES[name].read_text(), flags=re.M)
    examples = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    failed, run = runner.run(examples, out=said.append)
    assert failed == 0, "".join(said)
    assert run > 0


def test_no_page_is_made_of_readme():
    made = [n for n, p in PAGES.items() if "{include} ../README.md" in p.read_text()]
    assert made == []


def test_pages_with_examples_are_found():
    assert {"pitfalls.md", "extending.md", "quickstart.md"} <= set(WITH_EXAMPLES)


def test_every_registry_entry_has_its_page():
    entries = []
    for name, page in PAGES.items():
        for block in re.findall(
            r"^```\{guides\}\n(.*?)^```", page.read_text(), re.M | re.S
        ):
            assert name.startswith("systems/")
            entries += [line.split(":")[0] for line in block.splitlines()]
    assert sorted(entries) == sorted(zoo.list_guides() + zoo.list_density_models())


def test_every_system_page_has_all_its_parts():
    pages = [
        p for n, p in PAGES.items() if n.startswith("systems/") and "index" not in n
    ]
    assert len(pages) >= 5
    for page in pages:
        headings = re.findall("^## (.+)$", page.read_text(), re.M)
        wanted = ["When to use", "Limitations", "Results", "References"]
        assert [h for h in headings if h in wanted] == wanted, page.name


def test_every_file_of_models_is_on_a_system_page():
    shown = {
        module
        for name, page in PAGES.items()
        if name.startswith("systems/")
        for module in re.findall(
            r"\{docstring\} pyro_vae_zoo\.models\.(\w+)", page.read_text()
        )
    }
    assert shown == set(zoo.models.__all__)


def test_the_reference_has_every_public_name():
    documented = {
        entry
        for name, page in PAGES.items()
        if name.startswith("reference/")
        for entry in re.findall(
            r"auto[a-z]+:: pyro_vae_zoo\.([\w.]+)", page.read_text()
        )
    }
    documented |= {f"plots.{name}" for name in plots.__all__}  # of an automodule
    transforms = {f"transforms.{name}" for name in zoo_transforms.__all__}
    missing = (set(zoo.__all__) - set(NEEDS_NO_EXAMPLE) | transforms) - documented
    assert not missing
    table = re.findall(r"^   ([\w.]+)$", PAGES["reference/index.md"].read_text(), re.M)
    assert sorted(table) == sorted(documented - {"plots"})
    assert "testing.check_vae" in documented


def test_every_link_has_words():
    """A built page has those of the target; one that is read as it is has none."""
    empty = {
        name: re.findall(r"(?<!!)\[\]\([^)]*\)", page.read_text())
        for name, page in PAGES.items()
    }
    assert not {name: links for name, links in empty.items() if links}


def test_every_command_has_a_page_with_its_flags_and_an_example():
    commands = make_parser()._subparsers._group_actions[0].choices
    pages = {n for n in PAGES if n.startswith("command_line/")}
    others = {"command_line/index.md", "command_line/repeat.md"}
    assert pages - others == {f"command_line/{name}.md" for name in commands}
    for name in commands:
        text = PAGES[f"command_line/{name}.md"].read_text()
        assert f":func: {name}\n" in text
        assert re.search(f"^python .*{name}", text, re.M)


@pytest.mark.parametrize("name", sorted(set(zoo.__all__) - set(NEEDS_NO_EXAMPLE)))
def test_every_public_name_has_an_example(name):
    assert ">>> " in (inspect.getdoc(getattr(zoo, name)) or "")


def test_every_table_of_results_is_on_a_page():
    shown = {
        (page.parent / path).resolve()
        for page in PAGES.values()
        for path in re.findall(r"^```\{include\} (\S+)", page.read_text(), re.M)
    }
    tables = set((DOCS.parent / "results").glob("*/comparison.md"))
    tables |= set((DOCS.parent / "results").glob("*/table.md"))
    tables = {t for t in tables if not t.parent.name.endswith("_smoke")}
    assert len(tables) > 5
    assert tables <= shown


@pytest.mark.parametrize("name", ["mathml", "markdown_docstrings"])
def test_what_builds_the_pages(name, monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(DOCS))
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_picture_of_the_house_is_that_of_the_imports(monkeypatch):
    for module in ("tomllib", "grimp"):
        pytest.importorskip(module)
    monkeypatch.syspath_prepend(str(DOCS))
    house = importlib.import_module("house")
    assert house.PICTURE.read_text() == house.draw(), "run python docs/house.py"


def test_the_architecture_names_what_there_is():
    package = DOCS.parent / "pyro_vae_zoo"
    cells = re.findall(r"^\| .+$", PAGES["architecture.md"].read_text(), re.M)
    paths = [p for cell in cells for p in re.findall(r"`([\w/]+(?:\.py|/))`", cell)]
    missing = [p for p in paths if not (package / p).exists() and p != "examples/"]
    assert not missing
    rooms = {p.name for p in package.iterdir() if not p.name.startswith("_")}
    shown = {path.rstrip("/") for path in paths}
    assert {r for r in rooms if "." not in r or r.endswith(".py")} <= shown


def test_code_that_is_no_doctest_is_valid():
    for name, page in PAGES.items():
        for block in re.findall("^```python\n(.*?)^```", page.read_text(), re.M | re.S):
            ast.parse(block, name)
