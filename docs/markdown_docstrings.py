r"""Docstrings as this project writes them: Markdown, with formulas in \( \) and \[ \].

- `{docstring} NAME` puts the docstring of a module into a page: the paper in one page is
  written once, beside the code that follows it.
- `{guides}` makes the table of a page's registry entries, one line `name: posterior`
  each, with the options that are theirs.
- Docstrings of functions and classes go through napoleon, which reads reStructuredText;
  a hook before it writes formulas and names as that wants them.
"""

import importlib
import inspect
import re
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import pyro_vae_zoo as zoo

_INLINE = re.compile(r"\\\((.+?)\\\)", re.S)
_DISPLAY = re.compile(r"^( *)\\\[(.+?)\\\]([^\n]*)$", re.S | re.M)


def to_markdown(docstring: str) -> str:
    r"""The docstring with its formulas as MyST reads them.

    >>> to_markdown(r"with \(\alpha\) small")
    'with $\\alpha$ small'
    """
    text = _DISPLAY.sub(lambda m: f"\n$$\n{_one_line(m[2])}\n$$\n{m[3]}", docstring)
    return _INLINE.sub(lambda m: f"${_one_line(m[1])}$", text)


def to_rst(docstring: str) -> str:
    r"""The docstring as reStructuredText: formulas, names, and no stray markup.

    >>> to_rst(r"`z` of \(q(z|x)\), or q(z|x)")
    '``z`` of :math:`q(z|x)`, or q(z\\|x)'
    """
    text = _DISPLAY.sub(_math_directive, docstring)
    parts = re.split(
        r"(^ *(?:>>>|\.\.\. ).*$|\\\(.+?\\\)|`[^`]+`)", text, flags=re.M | re.S
    )
    return "".join(_rst_part(part) for part in parts)


def _rst_part(part: str) -> str:
    if part.lstrip().startswith((">>>", "... ")):
        return part
    if part.startswith(r"\("):
        return f":math:`{_one_line(part[2:-2])}`"
    if part.startswith("`"):
        return f"``{_one_line(part[1:-1])}``"
    return part.replace("|", r"\|")


def _math_directive(match: re.Match) -> str:
    indent, formula, rest = match.groups()
    return f"\n{indent}.. math:: {_one_line(formula)}\n\n{indent}{rest.strip()}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


class DocstringDirective(SphinxDirective):
    """The docstring of a module, as Markdown."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The docstring's nodes, parsed where the directive stands."""
        module = importlib.import_module(self.arguments[0])
        self.env.note_dependency(module.__file__)
        return _parsed(self, to_markdown(inspect.getdoc(module)), module.__file__)


class GuidesDirective(SphinxDirective):
    """A table of registry entries: name, posterior, options that others lack."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The table's nodes; an unknown name is the registry's own error."""
        rows = [line.split(": ", 1) for line in self.content if line.strip()]
        lines = ["| name | what it is, and its own options |", "|---|---|"]
        for name, what in rows:
            lines.append(f"| `{name}` | {what} <br> {_options(name)} |")
        return _parsed(self, "\n".join(lines), self.get_source_info()[0])


def _options(name: str) -> str:
    shared = zoo.guide_options("mean_field")
    own = {k: v for k, v in zoo.guide_options(name).items() if shared.get(k, ...) != v}
    return ", ".join(f"`{key}={_short(value)}`" for key, value in own.items())


def _short(value: Any) -> str:
    return repr(round(value, 3) if isinstance(value, float) else value)


def _parsed(directive: SphinxDirective, text: str, source: str) -> list[nodes.Node]:
    parent = nodes.container()
    parent.document = directive.state.document
    directive.state.nested_parse(StringList(text.splitlines(), source), 0, parent)
    return parent.children


def _rewrite(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list
) -> None:
    # That of a module is Markdown throughout; `{docstring}` shows it. Of a property's first
    # line napoleon takes what stands before a colon for a type: an empty one goes before.
    text = "" if what == "module" else to_rst("\n".join(lines))
    if what == "property":
        text = "\\ \n" + text
    lines[:] = text.splitlines()


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directives known, and read docstrings before napoleon does."""
    app.add_directive("docstring", DocstringDirective)
    app.add_directive("guides", GuidesDirective)
    app.connect("autodoc-process-docstring", _rewrite, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
