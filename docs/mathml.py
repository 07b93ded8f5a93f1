r"""Formulas as MathML, written by docutils when the pages are built.

Browsers draw it since 2023, without a script, a font or the network. Sphinx's own
renderers want a script from elsewhere (MathJax) or LaTeX on the machine.
"""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_LOG = logging.getLogger(__name__)
_TAG = re.compile(r"\\tag\{(.+?)\}")
# What docutils does not know, and what says the same or nearly so.
_SAME = {
    r"\\[bB]ig(?![a-zA-Z])": "",  # MathML's parentheses grow by themselves
    r"\\dots(?![a-zA-Z])": r"\\ldots",
    r"\\textstyle(?![a-zA-Z])": "",
}


def to_mathml(tex: str, as_block: bool = False) -> str:
    r"""A formula as MathML; raises `MathError` for what docutils cannot read.

    >>> "<mi>ε</mi>" in to_mathml(r"\varepsilon")
    True
    """
    for pattern, replacement in _SAME.items():
        tex = re.sub(pattern, replacement, tex)
    return tex2mathml(" ".join(tex.split()), as_block=as_block)


def _written(self: Any, node: nodes.Node, as_block: bool = False) -> str:
    tex = _TAG.sub("", node.astext())
    try:
        return to_mathml(tex, as_block)
    except MathError as error:
        _LOG.warning("formula %r: %s", tex, error, location=node)
        return f"<code>{self.encode(tex)}</code>"


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(_written(self, node))
    raise nodes.SkipNode


def _display(self: Any, node: nodes.math_block) -> None:
    tag = _TAG.search(node.astext())
    number = f'<span class="eqno">({tag[1]})</span>' if tag else ""
    formula = _written(self, node, as_block=True)
    self.body.append(f'<div class="math">{formula}{number}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Make `html_math_renderer = "mathml"` known."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
