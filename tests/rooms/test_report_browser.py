"""The page in a real browser: nothing sticks out, nothing is fetched, nothing is blank, on a desk and on a phone."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gracile.recipes import load, run
from gracile.report import write_report
from tests.browser import Browser, browser
from tests.rooms.test_report import COMPRESSED, TINY, other_kind

# Words that stick out of the drawing they belong to.
CUT_OFF = """[...document.querySelectorAll('main svg text')].filter(text => {
  const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
  return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
}).map(text => text.textContent)"""
# The height of the smallest words of a drawing, in pixels as shown.
SMALLEST = """Math.min(...[...document.querySelectorAll('main svg text')].filter(text => !text.querySelector('tspan'))
  .map(text => parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getBoundingClientRect().width / 360))"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a run, of one with measured latencies, of another kind, and of a comparison."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.toml").write_text(TINY)
    run(load(str(folder / "tiny.toml")), folder / "tiny-1")
    timed = Path(shutil.copytree(folder / "tiny-1", folder / "tiny-2"))
    (timed / "compressed" / "rgsm-seed0").mkdir(parents=True)
    (timed / "compressed" / "rgsm-seed0" / "compress.json").write_text(json.dumps(COMPRESSED))
    return {
        "run": folder / "tiny-1" / "report.html",
        "timed": write_report([timed], timed / "report.html"),
        "other": write_report([other_kind(folder / "walks-1")], folder / "walks-1" / "report.html"),
        "several": write_report([folder / "tiny-1", timed, folder / "walks-1"], folder / "both.html"),
    }


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["run", "timed", "other", "several"])
def test_the_page_fits_and_asks_for_nothing(chromium: Browser, pages: dict[str, Path], name: str, width: int):
    chromium.open(pages[name], width)
    assert chromium.ask("document.documentElement.scrollWidth") == width
    # What is unfolded must fit too.
    chromium.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert chromium.ask("document.documentElement.scrollWidth") == width
    assert chromium.ask(CUT_OFF) == []
    outside = [address for address in chromium.requests if not address.startswith("data:")]
    assert outside == [pages[name].resolve().as_uri()]
    assert chromium.complaints == []


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_drawn(chromium: Browser, pages: dict[str, Path], tmp_path: Path, width: int):
    chromium.open(pages["timed"], width)
    chromium.shoot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        seen = np.asarray(image.convert("RGB"))
    assert seen.shape[1] == width
    assert len(np.unique(seen[::3, ::3].astype(np.int32) @ np.array([65536, 256, 1], np.int32))) > 100
    frames = chromium.ask(
        "[...document.querySelectorAll('main figure svg')].map(one => { const box = one.getBoundingClientRect();"
        " return [box.left, box.top + scrollY, box.right, box.bottom + scrollY].map(Math.round) })"
    )
    assert len(frames) >= 12
    for left, top, right, bottom in frames:
        part = seen[top:bottom, left:right]
        # Lines and fills in the arms' colours, not only gray words on white.
        assert (part.max(2) - part.min(2) > 60).sum() > 50
    assert chromium.ask(SMALLEST) >= 8


def test_the_page_follows_a_dark_screen(chromium: Browser, pages: dict[str, Path], tmp_path: Path):
    light = {}
    for scheme in ("light", "dark"):
        chromium.open(pages["run"], 390, scheme=scheme)
        chromium.shoot(tmp_path / f"{scheme}.png")
        with Image.open(tmp_path / f"{scheme}.png") as image:
            light[scheme] = np.median(np.asarray(image.convert("L")))
    assert light["light"] > 240
    assert light["dark"] < 40


def test_wide_tables_scroll_within_their_box(chromium: Browser, pages: dict[str, Path]):
    chromium.open(pages["run"], 390)
    widths = chromium.ask(
        "(() => { const box = document.querySelector('.scroll'); box.scrollLeft = 50;"
        " return [box.clientWidth, box.scrollWidth, box.scrollLeft] })()"
    )
    assert widths[0] < 390 < widths[1]
    assert widths[2] == 50


def test_a_shadow_tells_that_a_table_goes_on(chromium: Browser, pages: dict[str, Path], tmp_path: Path):
    chromium.open(pages["run"], 390)
    chromium.shoot(tmp_path / "page.png")
    left, top, right, bottom = chromium.ask(
        "(() => { const box = document.querySelector('.scroll tbody tr:last-child').parentElement.closest('.scroll')"
        ".getBoundingClientRect(); return [box.left, box.top + scrollY, box.right, box.bottom + scrollY].map(Math.round) })()"
    )
    with Image.open(tmp_path / "page.png") as image:
        seen = np.asarray(image.convert("L")).astype(int)
    within = seen[top + 3 : bottom - 3]
    # Medians down the box: words are few, the shadow is everywhere along its edge.
    assert np.median(within[:, right - 3]) < np.median(within[:, right - 40]) - 15
    assert np.median(within[:, left + 3]) > np.median(within[:, right - 3]) + 15


def test_every_drawing_has_a_title_and_a_description(chromium: Browser, pages: dict[str, Path]):
    chromium.open(pages["several"], 1280)
    told = chromium.ask(
        "[...document.querySelectorAll('main svg[role=img]')].map(one => one.getAttribute('aria-labelledby').split(' ')"
        ".map(id => document.getElementById(id)?.textContent ?? ''))"
    )
    assert len(told) >= 8
    assert all(len(title) > 3 and len(description) > 20 for title, description in told)


def test_the_page_prints_with_everything_unfolded(chromium: Browser, pages: dict[str, Path]):
    chromium.open(pages["run"], 1280)
    chromium.send("Emulation.setEmulatedMedia", media="print")
    hidden = chromium.ask(
        "[...document.querySelectorAll('details pre, details table')].filter(one => !one.checkVisibility()).length"
    )
    paper = io.BytesIO(chromium.paper())
    chromium.send("Emulation.setEmulatedMedia", media="")
    assert paper.read(5) == b"%PDF-"
    assert hidden == 0
