"""How the documentation is built: `sphinx-build -W -n -b html docs docs/_build/html`.

Nothing here needs the network. Formulas are MathML, which browsers draw by themselves;
the inventories of other projects are used where they can be fetched, and without them
their names are words and not links.
"""

import json
import sys
from base64 import b64decode
from pathlib import Path
from urllib.request import urlopen

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pyro_vae_zoo  # noqa: E402

_log = getLogger(__name__)

project = "pyro_vae_zoo"
author = "The pyro_vae_zoo developers"
copyright = author
version = release = pyro_vae_zoo.__version__

extensions = [
    "myst_nb",
    "sphinx_argparse_cli",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "markdown_docstrings",  # ours, beside this file; so is the next
    "mathml",
]
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["zoo.css"]
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "colon_fence", "strikethrough"]
suppress_warnings = ["myst.strikethrough"]  # that only HTML has it, which this is
myst_heading_anchors = 4
nb_execution_mode = "off"  # the tests execute the notebooks
nb_render_markdown_format = "myst"  # tables that cells print, which CommonMark has not

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
sphinx_argparse_cli_prefix_document = True  # each page of a command has its "Flags"
autosummary_generate = False  # its tables lead to pages that are written by hand
autodoc_typehints = "none"  # the docstrings say shapes, which types do not
python_use_unqualified_type_names = True

# ------------------------------------------------------------------ other projects

_PROJECTS = {
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "pyro": "https://docs.pyro.ai/en/stable/",
}


def _is_reachable(url: str) -> bool:
    """True where a project's inventory can be fetched; Sphinx warns where it cannot."""
    try:
        with urlopen(url + "objects.inv", timeout=5):
            return True
    except OSError:
        return False


intersphinx_mapping = {k: (v, None) for k, v in _PROJECTS.items() if _is_reachable(v)}
nitpick_ignore_regex = [("py:.*", r"(torch|pyro|collections|typing)\b.*")]

# ------------------------------------------------------------------ the notebooks

# They live in `tutorials/`, whoever has no Sphinx wants them too; pages are copies, from
# which `docs/` is one folder up. The first picture of each stands on its card.


def _first_picture(notebook: str) -> bytes:
    cells = json.loads(notebook)["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = (
        o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})
    )
    return b64decode(next(pictures))


for notebook in (HERE.parent / "tutorials").glob("*.ipynb"):
    text = notebook.read_text().replace("](../docs/", "](../")
    text = text.replace("](../CONTRIBUTING.md", "](../contributing.md")
    page = HERE / "tutorials" / notebook.name
    page.write_text(text)
    page.with_suffix(".png").write_bytes(_first_picture(text))

# ------------------------------------------------------------------ what a page may be

LARGEST = 150_000  # characters of text
CLICKS = 2  # from the landing page


def _check_pages(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of pages that are too long, or too far from the landing page."""
    near = {"index"}
    for _ in range(CLICKS):
        near |= {page for name in near for page in env.toctree_includes.get(name, ())}
    for page in env.found_docs:
        if page not in near:
            _log.warning(
                f"more than {CLICKS} clicks from the landing page", location=page
            )
        if (size := len(env.get_doctree(page).astext())) > LARGEST:
            _log.warning(f"{size:,} characters, at most {LARGEST:,}", location=page)


def setup(app: Sphinx) -> None:
    """Have the pages checked once they are read."""
    app.connect("env-check-consistency", _check_pages)
