"""How the documentation is built: ``sphinx-build -W -b html docs out``.

What the code knows best is taken from the code while the pages are read: the options, the
commands, the modules. A page says ``<!-- from the code: NAME -->`` where that goes; the texts
are made in ``from_code.py`` beside this file. What a page keeps of them is replaced, not doubled.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import from_code

from juicecache import __version__

project = "juicecache"
author = "the juicecache authors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
smartquotes = False  # "--delete" is a flag, not a dash

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

napoleon_google_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"

html_theme = "furo"
html_title = f"juicecache {version}"
html_copy_source = False


def _fill_page(app: object, name: str, source: list[str]) -> None:
    source[0] = from_code.fill(source[0])


def setup(app: object) -> dict[str, bool]:
    app.connect("source-read", _fill_page)
    return {"parallel_read_safe": True}
