# SPDX-License-Identifier: MIT
"""Sphinx settings of the documentation: ``make docs`` builds it, with warnings as errors and without a network."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version
from typing import Any

from sphinx.application import Sphinx
from sphinx.domains.python import PyObject

project = "certcal"
author = "The certcal authors"
copyright = "The certcal authors, MIT licence"
version = release = installed_version("certcal_ext")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["README.md"]  # what a folder's listing shows; the site starts at index.md

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # links to sections, with the anchors that the pages have on the forge too
suppress_warnings = ["myst.strikethrough"]

html_theme = "furo"
html_title = "certcal"
html_static_path = ["_static"]
html_css_files = ["certcal.css"]
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the docstrings give shapes and kinds
napoleon_custom_sections = ["Source"]

# Types of other packages have no pages here, and their inventories are on the network. The rest are aliases and
# private parts that appear in annotations only.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(numpy|np|npt|torch|pyarrow|pa|scipy|highspy|torchmetrics|collections|pathlib|nn|os)\..*",
    ),
    (r"py:.*", r"(NDArray|Path|PathLike)"),
    (r"py:.*", r"(Confidence|Report|\w*Options|Limits|Floats|.*\._Self|.*\.Groups)"),
]

_COLON = "\uf8ff"  # of the private-use area: in no docstring
_ROLE = re.compile(r"(:(?:class|func|exc|data):`)(\w)")
_WITH_TYPES = ("Returns:", "Yields:")


def _hide_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Before napoleon: texts of returned values and properties hold no types, so a colon in them ends none."""
    inside = what in ("property", "attribute", "data")
    for number, line in enumerate(lines):
        if line.endswith(":") and line[:1].isalpha():
            inside = line in _WITH_TYPES
        elif inside:
            lines[number] = line.replace(":", _COLON)


def _plain_text(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """After napoleon: colons come back, roles find public names, and bars are those of absolute values."""
    for number, line in enumerate(lines):
        lines[number] = line = line.replace(_COLON, ":")
        if not line.lstrip().startswith(">>>"):
            # A leading dot finds a name in whatever module it is documented.
            pieces = _ROLE.sub(r"\1.\2", line).split("``")
            pieces[::2] = [piece.replace("|", r"\|") for piece in pieces[::2]]
            lines[number] = "``".join(pieces)


def _outside(app: Sphinx, document: str, source: list[str]) -> None:
    """Links to files of the repository outside docs/, which the site does not hold, become the files' names."""
    if "/" not in document:
        source[0] = re.sub(r"\[([^\]]+)\]\(\.\./([^)#\s]+)[^)]*\)", r"\1 (`\2`)", source[0])


def setup(app: Sphinx) -> None:
    """Registers the two, before and after napoleon's own (priority 500), one word, and the links."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # what the docstrings call them
    app.connect("source-read", _outside)
    app.connect("autodoc-process-docstring", _hide_colons, priority=400)
    app.connect("autodoc-process-docstring", _plain_text, priority=600)
