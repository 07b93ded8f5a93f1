"""What README and the pages tell to type: the code runs, the flags exist."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from pairs import graphs_as_traced

from pyro_vae_zoo.inference import compiled

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "results/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
STANDS_FOR = {"SEED": "0", "N": "1"}  # words in capitals where a number belongs
NAMED_ONLY = {
    "python -m pyro_vae_zoo",
    "python docs/house.py",
}  # and not told to be typed without a command
OF_OTHERS = {
    *("pip", "pytest", "OMP_NUM_THREADS=1", "bash", "ruff", "sphinx-build", "jupyter"),
    *("lint-imports", "mypy", "tensorboard"),
    *("sbatch", "torchrun"),  # whose commands test_distributed.py runs
}


class Parsed(BaseException):
    """The arguments were understood; carries the parser."""


def blocks(text, language):
    return re.findall(f"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands_in(text):
    """Every command of a console block and of a code span, each on one line."""
    lines = "\n".join(blocks(text, "console")).splitlines()
    spans = re.findall(r"(?<!`)`(python\s[^`]+)`(?!`)", text)
    commands = [part for line in [*lines, *spans] for part in line.split(" && ")]
    return [" ".join(c.split("  #")[0].split()) for c in commands]


COMMANDS = sorted(
    {
        c
        for page in PAGES
        for c in commands_in(page.read_text())
        if c and c not in NAMED_ONLY and c.split()[0] not in OF_OTHERS
    }
)


def run(words, monkeypatch):
    """What `python` does with these words."""
    if words[0] == "-m":
        monkeypatch.setattr(sys, "argv", words[1:])
        for module in (words[1], f"{words[1]}.__main__"):  # else runpy warns of them
            monkeypatch.delitem(sys.modules, module, raising=False)
        runpy.run_module(words[1], run_name="__main__")
    else:
        script = ROOT / words[0]
        monkeypatch.setattr(sys, "argv", [str(script), *words[1:]])
        monkeypatch.syspath_prepend(str(script.parent))
        runpy.run_path(str(script), run_name="__main__")


def parser_of(command, monkeypatch):
    """The parser that understood a command; its program does not come further."""
    python, *words = [STANDS_FOR.get(word, word) for word in shlex.split(command)]
    assert python == "python", f"not a command of ours: {command}"
    parse = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise Parsed(self)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed) as parsed:
        run(words, monkeypatch)
    return parsed.value.args[0]


def flags_of(parser):
    flags = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            flags |= {f for sub in action.choices.values() for f in flags_of(sub)}
    return flags


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command, monkeypatch):
    if command.startswith("python benchmarks/svi_step.py"):
        pytest.importorskip("numpyro")
    parser_of(command, monkeypatch)


def test_commands_are_found():
    scripts = {
        c.removeprefix("python -m ").removeprefix("python ").split()[0]
        for c in COMMANDS
    }
    assert {"examples/train.py", "studies.reproduce"} <= scripts
    assert len(COMMANDS) > 20


def test_every_flag_of_a_page_exists(monkeypatch):
    pages = [
        PAGES[0],
        *(ROOT / "docs" / p for p in ("quickstart.md", "systems/index.md")),
    ]
    text = "\n".join(page.read_text() for page in [*pages, ROOT / "docs" / "speed.md"])
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    known = flags_of(parser_of("python examples/train.py", monkeypatch))
    known |= flags_of(
        parser_of("python -m studies.reproduce --table flows", monkeypatch)
    )
    known |= {"--repeats"}  # of the benchmarks, whose commands are tested above
    assert len(told) > 10
    assert told <= known


def test_the_python_blocks_run(monkeypatch, tmp_path):
    code = "\n".join(blocks(PAGES[0].read_text(), "python"))
    few = {"fit(vae, data)": "fit(vae, data, epochs=1, progress=False)", "=1000": "=20"}
    for told, small in few.items():
        assert told in code
        code = code.replace(told, small)
    graphs_as_traced(monkeypatch, compiled)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert list(tmp_path.glob("my_vae*"))


def test_readme_is_short():
    assert len(PAGES[0].read_text().splitlines()) <= 180
