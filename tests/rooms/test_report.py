"""The report room: one self-contained page, right in a browser at both widths, also of runs that did not finish."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gracile import cli
from gracile.core.errors import InputError
from gracile.recipes import load, run
from gracile.report import read, render, write_report
from gracile.report.page import pareto
from gracile.report.svg import Axis, Series, lines

RECIPE = """
title = "tiny <b>&</b> honest"
kind = "train"
published = "table_4_1"
[settings]
data = { name = "digits", train_limit = 200, test_limit = 100 }
model = { name = "mlp", options = { widths = [16] } }
training = { epochs = 3, lr = 0.05, batch_size = 16 }
[settings.arms.dense]
published = ["base"]
[settings.arms.rgsm]
method = "rgsm"
options = { lam = 0.2, grouping = "coupled" }
[[accept]]
claim = "it does wonders"
value = "dense.accuracy"
at_least = 101.0
"""
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("report")
    (root / "tiny.toml").write_text(RECIPE)
    run(load(str(root / "tiny.toml")), root / "run")
    return root / "run"


class Balance(HTMLParser):
    """Checks that every element that is opened is closed, in order."""

    VOID = frozenset({"meta", "img", "br", "line", "rect", "circle", "polyline", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_every_finished_run_leaves_a_whole_page(folder: Path):
    page = (folder / "report.html").read_text()
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    for heading in (
        "Result",
        "Learning curves",
        "Accuracy against size",
        "Layer widths",
        "Weights and channel norms",
        "Recipe",
    ):
        assert heading in page
    assert len(page) < 500_000


def test_the_page_asks_the_network_for_nothing(folder: Path):
    page = (folder / "report.html").read_text()
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)(?:https?:)?//""", page)
    assert "<script" not in page
    assert "@import" not in page


def test_the_runs_own_words_are_escaped(folder: Path):
    page = (folder / "report.html").read_text()
    assert "tiny &lt;b&gt;&amp;&lt;/b&gt; honest" in page
    assert "<b>&</b>" not in page


def test_criteria_and_published_numbers_are_shown(folder: Path):
    page = (folder / "report.html").read_text()
    assert 'class="missed"' in page
    assert "published accuracy" in page
    assert "99.1" in page


def test_an_unfinished_run_shows_what_there_is(folder: Path, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "cut")
    (copy / "result.json").unlink()
    shutil.rmtree(copy / "rgsm")
    (copy / "dense" / "arm.json").unlink()
    page = render([read(copy)])
    assert "unfinished" in page
    assert "gracile run --resume --out" in page
    assert "Learning curves" in page


def test_a_run_of_another_kind_shows_its_pictures(folder: Path, tmp_path: Path):
    other = tmp_path / "other"
    (other / "plots").mkdir(parents=True)
    (other / "recipe.toml").write_text('name = "x"\ntitle = "x"\nkind = "walk-rates"\n[settings]\n')
    (other / "result.json").write_text(json.dumps({"rows": [{"a": 1.0}], "notes": ["a note"]}))
    shutil.copy(folder / "plots" / "weights.png", other / "plots")
    page = render([read(other)])
    assert "data:image/png;base64," in page
    assert "a note" in page


def test_what_compress_measured_is_shown(folder: Path, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "measured")
    measured = {
        "files": [{"name": "dense", "bytes": 90000}, {"name": "shrunk", "bytes": 30000}],
        "rows": [
            {"name": name, "batch": 1, "threads": 1, "p10": 0.1, "p50": time, "faster": 1.0}
            for name, time in (("dense", 0.3), ("shrunk", 0.1))
        ],
        "notes": ["zeros bought nothing"],
    }
    target = copy / "compressed" / "rgsm"
    target.mkdir(parents=True)
    (target / "compress.json").write_text(json.dumps({"measured": measured, "accuracy": {"dense": {"test %": 97.5}}}))
    page = render([read(copy)])
    assert "zeros bought nothing" in page
    assert "median time of one sample, 1 thread" in page
    assert "97.5" in page


def test_several_runs_are_compared_with_their_front(folder: Path, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "second")
    page = render([read(folder), read(copy)])
    assert "2 runs compared" in page
    assert 'class="front"' in page
    assert "second rgsm" in page


def test_runs_on_different_data_are_not_compared_in_silence(folder: Path, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "second")
    text = (copy / "recipe.toml").read_text().replace('name = "digits"', 'name = "mnist"')
    (copy / "recipe.toml").write_text(text)
    assert "different data (digits, mnist)" in render([read(folder), read(copy)])


def test_the_front_holds_what_nothing_beats():
    points = [(100.0, 98.0), (30.0, 97.0), (40.0, 96.0), (30.0, 95.0), (10.0, 80.0)]
    assert pareto(points) == [(10.0, 80.0), (30.0, 97.0), (100.0, 98.0)]


@pytest.mark.parametrize("points", [[(1, 5)], [(1, 5), (2, 5)], [(1, 1e-9), (1000, 1e9)]])
def test_charts_of_little_or_extreme_data_stay_inside(points):
    chart = lines("t", [Series("s", points, 0)], Axis("x"), Axis("y", log=True))
    found = re.search(r'polyline points="([^"]+)"', chart)
    assert found is not None
    for pair in found[1].split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= 480
        assert 0 <= y <= 300


@pytest.mark.parametrize(("place", "message"), [("nowhere", "There is no folder"), (".", "not a run's folder")])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, place: str, message: str):
    with pytest.raises(InputError, match=message):
        read(tmp_path / place)


def test_the_command_writes_both_kinds_of_page(folder: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", str(folder)]) == 0
    assert cli.main(["report", str(folder), str(folder)]) == 0
    assert (tmp_path / "comparison.html").stat().st_size > 1000
    assert "comparison.html" in capsys.readouterr().out


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium or Chrome binary on the path")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_sideways_scrolling(folder: Path, tmp_path: Path, width: int):
    page = write_report([folder], tmp_path / "page.html")
    # The frame gives the page the phone's width, which headless windows do not go down to.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<body style="margin:0"><iframe id="f" src="page.html" style="border:0;width:{width}px;height:2400px"></iframe>'
        "<script>onload=()=>{const d=document.getElementById('f').contentDocument.documentElement;"
        "document.title=d.scrollWidth+' '+d.clientWidth}</script></body>"
    )
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    shot = tmp_path / "shot.png"
    dump = subprocess.run(
        [str(CHROMIUM), *options, "--virtual-time-budget=3000", "--dump-dom", f"file://{frame}"],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(\d+) (\d+)</title>", dump.stdout)
    assert title is not None, dump.stdout[:500]
    assert int(title[1]) <= int(title[2]) == width
    subprocess.run(
        [str(CHROMIUM), *options, f"--window-size={max(width, 500)},2400", f"--screenshot={shot}", f"file://{page}"],
        capture_output=True, timeout=90, check=True,
    )  # fmt: skip
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.std() > 10
    assert (np.abs(np.diff(pixels.astype(int), axis=1)) > 60).mean() > 0.002
