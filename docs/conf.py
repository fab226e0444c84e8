"""How the documentation is built: ``make docs``, with warnings as errors."""

from __future__ import annotations

import fnmatch
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util import logging

import safeloader

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_log = logging.getLogger(__name__)

project = "safeloader"
author = "the safeloader authors"
copyright = author  # noqa: A001 - Sphinx's name
version = release = safeloader.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
root_doc = "index"
exclude_patterns = ["_build"]

# Pages are Markdown that reads well where it lies, too: plain links between files, and anchors as GitHub makes them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "py:obj"  # `name` in a docstring is a name of this package, or just code

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"safeloader {version}"
html_copy_source = False
pygments_style = "xcode"  # each of its colours can be read on the ground that code has

_HERE = Path(__file__).resolve().parent
_LINK_OUT = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)]*)?\)")
_PLAIN_BLOCK = re.compile(r"^```(?:text)?\n(.*?)^```$", re.S | re.M)
_REST = "%PAGES NOT NAMED ABOVE%"


def _complete_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """The front page names the pages in order; one that it does not name yet is found all the same."""
    if page != root_doc:
        return
    named = re.findall(r"^[\w/\[\]!*-]+$", source[0], re.M)
    rest = [p for p in sorted(app.env.found_docs - {root_doc}) if not any(fnmatch.fnmatch(p, n) for n in named)]
    source[0] = source[0].replace(_REST, "\n".join(rest))


def _complete_reference(app: Sphinx, page: str, source: list[str]) -> None:
    """The reference names public names in order; one that it does not name yet comes after its package's others."""
    if page != "api":
        return
    for package in re.findall(r"^## (safeloader[\w.]*)$", source[0], re.M):
        module = importlib.import_module(package)
        head, mark, rest = source[0].partition(f".. currentmodule:: {package}\n")
        for name in module.__all__:
            found = getattr(module, name)
            if callable(found) and not re.search(rf"^\.\. auto\w+:: {name}$", rest, re.M):
                kind = "class" if isinstance(found, type) else "function"
                block, end, after = rest.partition("\n```")
                rest = f"{block}\n.. auto{kind}:: {name}{end}{after}"
        source[0] = head + mark + rest


def _keep_links_inside(app: Sphinx, page: str, source: list[str]) -> None:
    """Links to files that are no pages, right where the source is read, become words, or lead to the results."""
    here = (_HERE / page).parent

    def kept(link: re.Match[str]) -> str:
        target = (here / link[2]).resolve()
        if target.is_relative_to(_HERE):
            return link[0]
        if not target.exists():
            _log.warning("a link to %s, which does not exist", link[2], location=page)
        if target.name.lower() == "results.md":
            return f"[{link[1]}]({'../' * page.count('/')}benchmarks.md)"
        return link[1]

    source[0] = _LINK_OUT.sub(kept, source[0])


def _mark_diagrams(app: Sphinx, page: str, source: list[str]) -> None:
    """A drawing in characters must not be wrapped: it is told its columns, and its letters shrink to fit."""

    def marked(block: re.Match[str]) -> str:
        if not re.search("[─│▶◀▲▼]", block[1]):
            return block[0]
        columns = max(map(len, block[1].splitlines()))
        return f"```{{code-block}} text\n:class: diagram columns-{-(-columns // 10) * 10}\n\n{block[1]}```"

    source[0] = _PLAIN_BLOCK.sub(marked, source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _complete_navigation)
    app.connect("source-read", _complete_reference)
    app.connect("source-read", _keep_links_inside)
    app.connect("source-read", _mark_diagrams)
