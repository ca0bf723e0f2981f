"""The site: the pages of this folder, the API from docstrings, and the bibliography. `make docs` builds it without a network."""

from __future__ import annotations

import html
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import gracile
from gracile.core.figures import declared, svg

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import figures  # noqa: E402 - beside this file

project = "gracile"
author = copyright = "The gracile contributors"
version = release = gracile.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
    "sphinxcontrib.bibtex",
]
html_theme = "furo"
html_title = f"gracile {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# The tour keeps no outputs: the build runs it, in a folder of its own.
nb_execution_mode = "auto"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
# Single backticks in docstrings: a link where the name is known, code where it is not.
# A short name may stand in several rooms; then it stays code. Links to sources lead out of the site; a test follows them.
suppress_warnings = ["ref.python", "myst.xref_missing"]
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

CITATION = re.compile(r"\[(@[a-z]+\d{4}[a-z]*[^\]]*)\]")
KEY = re.compile(r"(?<![\w`@])@([a-z]+\d{4}[a-z]*)\b")
# A span of code, or a run of prose.
SPANS = re.compile(r"(``.*?``|`[^`\n]*`)", flags=re.S)


def rooms() -> list[str]:
    """The packages whose public names make the API, by name."""
    found = [module.name for module in pkgutil.iter_modules(gracile.__path__) if module.ispkg]
    return [name for name in found if hasattr(importlib.import_module(f"gracile.{name}"), "__all__")]


def write_api(_: Sphinx) -> None:
    """A page a room from its ``__all__``, so that a new name needs no second place."""
    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    pages = {f"{name}.rst": api_page(name) for name in rooms()}
    names = "\n".join(f"   {name}" for name in rooms())
    pages["index.rst"] = f"API\n===\n\n.. toctree::\n   :maxdepth: 1\n\n{names}\n"
    for stale in {path.name for path in folder.glob("*.rst")} - set(pages):
        (folder / stale).unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def api_page(room: str) -> str:
    """The reStructuredText of one room."""
    title = f"gracile.{room}"
    module = importlib.import_module(title)
    parts = [f"{title}\n{'=' * len(title)}", f".. automodule:: {title}\n   :no-members:"]
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, type) or callable(value):
            parts.append(f".. {'autoclass' if isinstance(value, type) else 'autofunction'}:: {title}.{name}")
        else:
            rows = ", ".join(f"``{row}``" for row in value) if isinstance(value, Iterable) else f"``{value!r}``"
            parts.append(f".. py:data:: {title}.{name}\n\n   {rows}.")
    return "\n\n".join(parts) + "\n"


def cited(text: str, role: str) -> str:
    """Keys as links: ``[@key, place]`` becomes "(Author year, place)", a bare ``@key`` "Author [year]".

    Args:
        text: of a page or a docstring.
        role: how the markup writes a role, with two slots for its name and its text.
    """

    def short(found: re.Match[str]) -> str:
        return role.format("cite:author", found[1]) + " " + role.format("cite:year", found[1])

    text = CITATION.sub(lambda found: f"({KEY.sub(short, found[1])})", text)
    return KEY.sub(lambda found: role.format("cite:t", found[1]), text)


def on_page(_: Sphinx, name: str, source: list[str]) -> None:
    """Citations of a page, outside its code blocks."""
    if (HERE / f"{name}.md").exists():
        parts = re.split(r"(^```.*?^```$)", source[0], flags=re.S | re.M)
        source[0] = "".join(part if part.startswith("```") else cited(part, "{{{}}}`{}`") for part in parts)


def on_docstring(_: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text: what reStructuredText would take for markup outside code is escaped."""
    parts = re.split(r"(^ *>>> .*?(?:\n *\n|\Z))", "\n".join(lines), flags=re.S | re.M)
    for place in range(0, len(parts), 2):
        spans = SPANS.split(parts[place])
        spans[::2] = [re.sub(r"\\|\||\*|(?<=\w)_(?=\W|$)", lambda found: "\\" + found[0], span) for span in spans[::2]]
        parts[place] = cited("".join(spans), ":{}:`{}`")
    lines[:] = "".join(parts).split("\n")


def skipped(_: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """scikit-learn adds methods for metadata routing that its own pages describe."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


class Drawn(SphinxDirective):
    """A figure of ``figures.py`` by its name, drawn anew, with its caption; it stands in the page, so that it follows light and dark."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Draw it."""
        name = self.arguments[0]
        self.env.note_dependency(figures.__file__)
        figure, told = figures.drawn(name)
        drawing = svg(figure, name.replace("_", " "), told)
        inches = figure.get_size_inches()[0]
        # On a phone a wide one scrolls rather than have words too small to read.
        size = f"min-width:{54 * inches:.0f}px;width:{inches / 9.6:.0%}"
        before = f'<figure class="drawn" aria-label="{html.escape(told)}"><div class="scroll"><div style="{size}">{drawing}</div></div>'
        caption = nodes.container(classes=["drawn-caption"])
        self.state.nested_parse(self.content, self.content_offset, caption)
        return [nodes.raw("", before, format="html"), caption, nodes.raw("", "</figure>", format="html")]


def palette() -> str:
    """The figures' colours, by the reader's screen or by the theme's own switch."""
    light, dark = declared(dark=False), declared(dark=True)
    by_screen = f"@media(prefers-color-scheme:dark){{body:not([data-theme=light]){{{dark}}}}}"
    return f"body{{{light}}}body[data-theme=dark]{{{dark}}}{by_screen}"


def coloured(_: Sphinx, name: str, template: str, context: dict[str, Any], tree: object) -> None:
    """The palette in the head of every page."""
    context["metatags"] = f"{context.get('metatags', '')}<style>{palette()}</style>"


def setup(app: Sphinx) -> None:
    """Sphinx's entry."""
    app.add_directive("drawn", Drawn)
    app.connect("html-page-context", coloured)
    app.connect("builder-inited", write_api)
    app.connect("source-read", on_page)
    app.connect("autodoc-skip-member", skipped)
    # Before napoleon, whose own markup must stay.
    app.connect("autodoc-process-docstring", on_docstring, priority=400)
