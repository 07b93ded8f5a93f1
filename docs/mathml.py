r"""Formulas as MathML, written by docutils when the pages are built.

Browsers draw it since 2023, without a script, a font or the network. Sphinx's own
renderers want a script from elsewhere (MathJax) or LaTeX on the machine.
"""

import re
from html import unescape
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_NAMESPACE = "http://www.w3.org/1998/Math/MathML"
_LOG = logging.getLogger(__name__)
_TAG = re.compile(r"\\tag\{(.+?)\}")
# What docutils does not know, and what says the same.
_SAME = {
    r"\\[bB]ig *([([])": r"\\left\1",
    r"\\[bB]ig *([)\]])": r"\\right\1",
    r"\\[bB]ig(?![a-zA-Z])": "",
    r"\\dots(?![a-zA-Z])": r"\\ldots",
    r"\\textstyle(?![a-zA-Z])": "",
    r"(\\[td]?frac) *(\d) *(\d)": r"\1{\2}{\3}",  # it reads 14 as one argument
}
_WIDE = re.compile(r"\\q?quad(?![a-zA-Z])")
_ENTITY = re.compile("&(?!lt;|gt;|amp;)[a-zA-Z]+;")  # which XML does not know
_ACCENTS = {"ˆ", "~", "¯"}


def to_mathml(tex: str, as_block: bool = False) -> str:
    r"""A formula as MathML; raises `MathError` for what docutils cannot read.

    >>> "<mi>ε</mi>" in to_mathml(r"\varepsilon"), "munder" in to_mathml(r"\hat\mu_n")
    (True, False)
    >>> to_mathml(r"\frac14").count("<mn>")
    2
    """
    for pattern, replacement in _SAME.items():
        tex = re.sub(pattern, replacement, tex)
    ElementTree.register_namespace("", _NAMESPACE)
    mathml = tex2mathml(" ".join(tex.split()), as_block=as_block)
    math = ElementTree.fromstring(_ENTITY.sub(lambda m: unescape(m[0]), mathml))
    _mend_scripts(math)
    for operator in math.iter(_name("mo")):
        if (
            operator.text == "\N{FUNCTION APPLICATION}"
        ):  # after a log, where TeX has air
            operator.set("rspace", "0.17em")
        if operator.text in ("{", "}"):  # of a set; others are told whether to grow
            operator.set("stretchy", "false")
    return ElementTree.tostring(math, encoding="unicode")


def _name(tag: str) -> str:
    return f"{{{_NAMESPACE}}}{tag}"


def _mend_scripts(parent: ElementTree.Element) -> None:
    r"""Put the index of \hat\mu_n beside the letter, where docutils has it below."""
    for i, node in enumerate(parent):
        _mend_scripts(node)
        children = list(node)
        if node.tag == _name("munderover") and children[2].text in _ACCENTS:
            base, index, accent = children
            accented = ElementTree.Element(_name("mover"), accent="true")
            accented.extend([base, accent])
            parent[i] = ElementTree.Element(_name("msub"))
            parent[i].extend([accented, index])
        elif node.tag == _name("msup") and children[0].tag == _name("msub"):
            parent[i] = ElementTree.Element(_name("msubsup"))
            parent[i].extend([*children[0], children[1]])


def _written(self: Any, node: nodes.Node, tex: str, as_block: bool = False) -> str:
    try:
        return to_mathml(tex, as_block)
    except MathError as error:
        _LOG.warning("formula %r: %s", tex, error, location=node)
        return f"<code>{self.encode(tex)}</code>"


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(_written(self, node, node.astext()))
    raise nodes.SkipNode


def _display(self: Any, node: nodes.math_block) -> None:
    tag = _TAG.search(node.astext())
    number = f'<span class="number">({tag[1]})</span>' if tag else ""
    # Each part between wide spaces is a formula of its own: MathML breaks no lines, but
    # the parts may stand under one another.
    parts = _WIDE.split(_TAG.sub("", node.astext()))
    formulas = "".join(_written(self, node, tex, as_block=True) for tex in parts)
    self.body.append(f'<div class="math">{formulas}{number}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Make `html_math_renderer = "mathml"` known."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
