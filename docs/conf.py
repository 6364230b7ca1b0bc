# SPDX-License-Identifier: MIT
"""Sphinx configuration: `tools/dev docs` builds into build/docs, and every warning is an error."""

import tomllib
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

_PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
release = version = _PROJECT["version"]
author = "the qg authors"
project_copyright = author

extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"{project} {release}"


def setup(app: Sphinx) -> None:
    # Graphs are drawn where the source is read on a forge; here their text is shown.
    app.add_lexer("mermaid", TextLexer)
