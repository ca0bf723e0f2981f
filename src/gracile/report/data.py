"""What data were read as: a part of a run's page, or a page of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gracile.core.errors import InputError
from gracile.core.files import write_text
from gracile.data import Splits
from gracile.data.description import shape_in_words
from gracile.data.examples import described
from gracile.report import html

# Classes beyond which a table of them is folded.
MANY = 20


def write_data_page(splits: Splits, path: Path) -> Path:
    """Write a page that shows what data were read as, before anything is trained on them.

    Args:
        splits: of `gracile.data.load`.
        path: the HTML file.

    Returns:
        The file.

    Raises:
        InputError: `path` is a folder.
        StorageError: the page cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, and a page is one file.", f"Write to {path / 'data.html'}.")
    found = described(splits)
    summary, *parts = shown(found)
    head = f'<header><p class="kicker">data</p><h1>{html.escape(found["name"])}</h1></header>'
    note = html.notes([found["note"]] if found["note"] else [], "Notes", routine=True)
    body = [head, f'<div class="verdict">{summary}</div>', *parts, note]
    write_text(path, html.page(f"{found['name']} · data", "".join(body)))
    return path


def shown(found: Mapping[str, Any]) -> list[str]:
    """How much there is of what, of each class in each split with examples, and what was told, as HTML.

    Args:
        found: of `gracile.data.examples.described`, perhaps read from a file.
    """
    classes, sizes = found.get("classes", {}), found.get("splits", {})
    shape = shape_in_words(found.get("kind", ""), found.get("input_shape", []))
    many = ", ".join(f"{count:,} in {split}" for split, count in sizes.items())
    summary = html.paragraph(f"{found.get('name')}: {shape}, {len(classes)} classes; {many}.")
    rows = [{"class": name, **counts} for name, counts in classes.items()]
    counts = html.table(rows, "Samples of each class")
    if len(rows) > MANY:
        counts = html.details(f"{len(rows)} classes", counts)
    pictures, table = _examples(found.get("examples"))
    return [summary, f'<div class="beside">{counts}{pictures}</div>', table, html.bullets(found.get("told", []))]


def _examples(found: Any) -> tuple[str, str]:
    """Pictures that stand beside the counts, and a table that stands below them; one of them is empty."""
    if isinstance(found, list):
        title = f"The first {len(found)} training rows"
        return "", f"<h3>{title}</h3>{html.table(found, title)}" if found else ""
    if not isinstance(found, dict):
        return "", ""
    words = f"The first {found.get('each')} training images of {', '.join(found.get('classes', []))}, a row for each."
    side = max(1, found.get("side", 1))
    size = f"width:min(100%,{max(1, 36 // side) * side * 10}px)"
    source = f"data:image/png;base64,{html.escape(found.get('png', ''))}"
    image = f'<img class="examples" style="{size}" alt="{html.escape(words)}" src="{source}">'
    return f"<figure><b>Examples</b>{image}<figcaption>{html.escape(words)}</figcaption></figure>", ""
