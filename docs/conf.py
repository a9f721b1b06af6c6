"""The site that `make docs` builds: Sphinx, with MyST for Markdown and the theme Furo.

Its source is the repository's folder: a link leads to the same page here and where the repository is browsed.
"""

import re
from importlib import metadata

from sphinx.application import Sphinx

project = "runstore"
author = "the runstore authors"
release = metadata.version("runstore")
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/**/*.md"]
html_theme = "furo"
html_title = f"runstore {release}"
html_copy_source = False
highlight_language = "none"  # of blocks without a language: frames and other output
myst_heading_anchors = 4

PART = re.compile(r"^## (.*)\n((?:(?!## ).*\n)*)", re.M)
LINK = re.compile(r"\]\(([\w./-]+)\.md\)")


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make the site's contents of the index page's lists: each heading a part, each link a page."""
    if docname == root_doc:
        for part, text in PART.findall(source[0]):
            pages = "\n".join(LINK.findall(text))
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {part}\n\n{pages}\n```\n"


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
