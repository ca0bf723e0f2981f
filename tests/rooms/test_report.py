"""The report room: one file a run that tells the truth about it, finished or not, and several runs side by side."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from gracile import cli
from gracile.channels.layer_sizes import BINS, layer_sizes
from gracile.core import figures
from gracile.core.errors import InputError
from gracile.recipes import load, run, runner
from gracile.report import charts, drawing, html, read, render, write_report
from gracile.report.compressed import measured
from gracile.report.page import beside

TINY = """
title = "tiny <script>alert(1)</script> & co"
kind = "train"
notes = "a note with <b>marks</b>"
[settings]
seeds = [0, 1]
data = { name = "digits", train_limit = 200, test_limit = 100 }
model = { name = "mlp", options = { widths = [16, 12] } }
training = { epochs = 3, lr = 0.05 }
[settings.arms.dense]
[settings.arms.rvsm]
method = "rvsm"
options = { penalty = "l0", lam = 1e-3, beta = 0.1 }
[settings.arms.rgsm]
method = "rgsm"
options = { penalty = "group_lasso", lam = 0.02, beta = 1.0 }
[[accept]]
claim = "it learns"
value = "dense.accuracy"
at_least = 20.0
[[accept]]
claim = "it does wonders"
value = "dense.accuracy"
at_least = 101.0
"""

COMPRESSED = {
    "name": "rgsm",
    "accuracy": {"dense": {"validation %": 97.0, "test %": 96.85}, "shrunk + int8": {"test %": 93.95}},
    "measured": {
        "files": [
            {"name": "dense", "bytes": 249946, "macs": 416520},
            {"name": "shrunk + int8", "bytes": 16394, "macs": 213834},
        ],
        "rows": [
            {"name": "dense", "batch": 1, "threads": 1, "p10": 0.3, "p50": 0.4},
            {"name": "shrunk + int8", "batch": 1, "threads": 1, "p10": 0.09, "p50": 0.1},
        ],
        "notes": ["zeros in dense kernels buy no time"],
    },
    "notes": ["int8 weights of 7 bits"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run: three arms, two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.toml").write_text(TINY)
    run(load(str(folder / "tiny.toml")), folder / "tiny-1")
    return folder / "tiny-1"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "tiny-1"))


def other_kind(folder: Path) -> Path:
    """A finished run of a kind without arms, with a published number and a plot."""
    folder.mkdir(parents=True)
    recipe = {"name": "walks", "title": "Walks", "kind": "walk-rates", "settings": {"seed": 1}}
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    result = {
        "rows": [{"d": 1, "slope": 0.8301, "z": float("nan"), "published slope": 0.7943}],
        "values": {"worst_z": 1.977},
        "accept": [{"claim": "within four", "value": "worst_z", "at_most": 4.0, "met": True}],
        "notes": ["The constant is derived."],
        "environment": {"commit": "abc", "versions": {"torch": "2.13"}},
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "plots").mkdir()
    (folder / "plots" / "rates.png").write_bytes(PNG)
    return folder


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Reader(HTMLParser):
    """Checks that tags are closed in order, and gathers words and addresses."""

    void = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "srcset")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_every_run_leaves_its_page(finished: Path):
    text = (finished / "report.html").read_text()
    page = Reader(text)
    for title in ("Result", "Criteria", "Learning curves", "Layer widths", "Weights and", "Size, latency", "Recipe"):
        assert title in page.text
    assert len(text) < 500_000
    # The widths of the network's layers stand on the page.
    assert "of 16" in page.text
    assert "of 12" in page.text


def test_the_page_is_one_file_that_asks_for_nothing(finished: Path):
    text = (finished / "report.html").read_text()
    page = Reader(text)
    assert [one for one in page.addresses if not re.match(r"#[pmC]\w+$|#warnings$|data:image/png;", one)] == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "default-src 'none'" in text
    assert re.findall(r"https?://|@import|url\((?!#)", text) == []


def test_what_a_recipe_says_is_escaped(finished: Path):
    text = (finished / "report.html").read_text()
    assert "<script" not in text
    assert "<b>marks" not in text
    assert "tiny &lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in text


def test_the_table_holds_the_results_against_the_baseline(finished: Path):
    found = read(finished)
    dense, rvsm = found.arms[0], found.arms[1]
    assert found.baseline is dense
    pairs = [a - b for a, b in zip(rvsm.numbers("accuracy"), dense.numbers("accuracy"), strict=True)]
    words = Reader(render([found])).text
    assert f"{sum(pairs) / 2:+.2f} ± " in words
    assert "points against dense" in words
    assert f"{dense.mean('accuracy'):.2f} ± " in words


def test_missed_criteria_stand_at_the_top(finished: Path):
    words = Reader((finished / "report.html").read_text()).text
    assert words.index("missed: it does wonders") < words.index("Result")
    assert re.search(r"met · it learns: dense.accuracy is [\d.]+, asked at least 20", words)
    assert re.search(r"missed · it does wonders: dense.accuracy is [\d.]+, asked at least 101", words)


def test_an_interrupted_run_says_how_to_go_on(copied: Path):
    (copied / "result.json").unlink()
    for file in copied.glob("rgsm-seed*/*.json"):
        file.unlink()
    shutil.rmtree(copied / "rvsm-seed1")
    (copied / "status.json").write_text('{"status": "interrupted", "time": "2026-01-01T00:00:00+00:00"}')
    words = Reader(render([read(copied)])).text
    assert "was interrupted" in words
    assert f"gracile run --resume --out {copied}" in words
    assert "1 of 2 ended" in words
    assert "0 of 2 ended" in words
    assert "Learning curves" in words


def test_a_page_can_be_made_of_metrics_alone(copied: Path):
    for file in copied.glob("*/*"):
        if file.name != "metrics.jsonl":
            file.unlink()
    for name in ("result.json", "environment.json", "status.json"):
        (copied / name).unlink()
    # A kill in the midst of a line.
    with open(copied / "dense-seed0" / "metrics.jsonl", "a") as handle:
        handle.write('{"epoch": 4, "val')
    words = Reader(render([read(copied)])).text
    assert "not finished" in words
    assert "3 of 3" in words
    assert "Layer widths" not in words


def test_a_run_that_has_just_begun_has_a_page(copied: Path):
    for folder in copied.glob("*-seed*"):
        shutil.rmtree(folder)
    (copied / "result.json").unlink()
    assert "not begun" in Reader(render([read(copied)])).text


def test_a_failed_run_says_why(copied: Path):
    (copied / "result.json").unlink()
    (copied / "status.json").write_text('{"status": "failed", "reason": "The loss is not finite."}')
    assert "failed: The loss is not finite." in Reader(render([read(copied)])).text


@pytest.mark.parametrize(("where", "told"), [
    ("nowhere", "There is no folder"),
    ("", "It holds runs: name one"),
    ("tiny-1/dense-seed0", "The run is its parent"),
])  # fmt: skip
def test_a_folder_that_is_no_run_is_refused(copied: Path, where: str, told: str):
    with pytest.raises(InputError, match=told):
        read(copied.parent / where)


@pytest.mark.parametrize("name", ["result.json", "recipe.toml", "dense-seed0/arm.json"])
def test_a_damaged_file_is_named(copied: Path, name: str):
    (copied / name).write_text("{ no")
    with pytest.raises(InputError, match=rf"{name} cannot be read"):
        read(copied)


def test_latency_is_drawn_once_it_was_measured(copied: Path):
    assert re.search(rf"Next: gracile compress {copied} --arm r[vg]sm --int8", Reader(render([read(copied)])).text)
    folder = copied / "compressed" / "rgsm-seed0"
    folder.mkdir(parents=True)
    (folder / "compress.json").write_text(json.dumps(COMPRESSED))
    words = Reader(render([read(copied)])).text
    assert "Latency was not measured yet" not in words
    for told in ("249.9 kB", "16.4 kB", "93.95", "0.1 (4.00×)", "213,834", "int8 weights of 7 bits", "buy no time"):
        assert told in words
    # The page tells of each circle what it is, for those who hover and those who listen.
    assert "shrunk + int8: 0.1 ms, 93.95 %, 16.4 kB" in words


@pytest.mark.parametrize("found", [
    {},
    {"measured": []},
    {"accuracy": [1], "measured": {"files": [3], "rows": [{"name": "dense", "p50": "fast"}, {"p50": 1.0}]}},
    {"accuracy": {"dense": {"test %": None}}, "measured": {"files": [{"name": "dense", "bytes": float("nan")}]}},
])  # fmt: skip
def test_a_measurement_of_another_shape_is_read_as_far_as_it_goes(copied: Path, found: dict):
    assert measured(found).timings == []
    folder = copied / "compressed" / "rgsm-seed0"
    folder.mkdir(parents=True)
    (folder / "compress.json").write_text(json.dumps(found))
    Reader(render([read(copied)]))


def test_another_kind_shows_rows_plots_and_published_numbers(tmp_path: Path):
    write_report([other_kind(tmp_path / "walks-1")], tmp_path / "walks-1" / "report.html")
    text = (tmp_path / "walks-1" / "report.html").read_text()
    page = Reader(text)
    assert page.addresses == ["data:image/png;base64," + base64.b64encode(PNG).decode()]
    for told in (
        "slope published slope",
        "0.8301",
        "0.7943",
        "not a number",
        "met · within four",
        "constant is derived",
    ):
        assert told in page.text
    assert "Learning curves" not in page.text


def test_published_numbers_stand_right_beside_ours():
    row = {"arm": "a", "accuracy %": 1, "loss": 2, "channel sparsity %": 3, "published accuracy": 4}
    row |= {"published channel_sparsity": 5, "published A1": 6}
    assert list(beside(row)) == [
        "arm", "accuracy %", "published accuracy", "loss", "channel sparsity %", "published channel_sparsity", "published A1",
    ]  # fmt: skip


def test_the_page_begins_with_what_came_of_it_and_the_next_command(copied: Path):
    numbers = {"dense": (98.0, 100.0, 100.0), "rvsm": (97.9, 100.0, 99.0), "rgsm": (97.4, 21.0, 30.0)}
    for name, (accuracy, macs, parameters) in numbers.items():
        for seed in (0, 1):
            change(
                copied / f"{name}-seed{seed}" / "arm.json",
                accuracy=accuracy,
                macs_left=macs,
                parameters_left=parameters,
            )
    words = Reader(render([read(copied)])).text
    told = "rgsm: 79 % of the multiply-adds and 70 % of the parameters gone for 0.6 points (97.4 % against 98.0 %)."
    assert words.index(told) < words.index("Next: gracile compress") < words.index("Result")
    assert "1 of 2 criteria fixed before the run are met." in words


def test_a_collapsed_arm_is_named_and_never_the_one_to_speak_of(copied: Path):
    for seed in (0, 1):
        change(copied / f"rgsm-seed{seed}" / "arm.json", accuracy=10.0, macs_left=1.0, collapsed="constant output")
    words = Reader(render([read(copied)])).text
    assert re.search(r"Collapsed: .*rgsm \(constant output\).*; see why", words)
    assert "rgsm has collapsed: constant output. Every sample gets the same output" in words
    assert not re.search("rgsm: .* multiply-adds .* gone", words)


def test_a_small_size_of_a_published_table_leads_to_the_whole_one(tmp_path: Path):
    folder = other_kind(tmp_path / "walks-1")
    assert "Next:" not in render([read(folder)])
    recipe = {"name": "theorem-2.3", "kind": "walk-rates", "source": "Dinh 2020", "size": "smoke", "settings": {}}
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    words = Reader(render([read(folder)])).text
    assert "The criterion fixed before the run is met." in words
    assert "Next: gracile reproduce theorem-2.3 runs it at the published size." in words


def test_routine_notes_and_warnings_are_told_apart(copied: Path):
    change(
        copied / "result.json",
        notes=["data are small", "conv2 lost its last channel"],
        warnings=["conv2 lost its last channel"],
    )
    text = render([read(copied)])
    assert re.search(r'<div class="note"><b>Warnings</b><ul>.*?conv2 lost.*?</ul></div>', text)
    assert re.search(r'<div class="routine"><b>Notes</b><ul><li>data are small</li></ul></div>', text)


def test_the_data_and_each_class_are_on_the_page(finished: Path):
    found = json.loads((finished / "data.json").read_text())
    assert sum(each["test"] for each in found["classes"].values()) == 100
    words = Reader((finished / "report.html").read_text()).text
    assert re.search(r"digits: gray images, 8 x 8, 10 classes; \d+ in train, \d+ in validation, 100 in test", words)
    answers = json.loads((finished / "dense-seed0" / "answers.json").read_text())
    right = sum(answers["confusion"][name].get(name, 0) for name in answers["classes"])
    assert sum(sum(row.values()) for row in answers["confusion"].values()) == 100
    numbers = json.loads((finished / "dense-seed0" / "arm.json").read_text())
    assert right == pytest.approx(numbers["accuracy"])
    assert "Accuracy by class" in words
    with Image.open(io.BytesIO(base64.b64decode(found["examples"]["png"]))) as sheet:
        assert sheet.size == (8 * 9 - 1, 10 * 9 - 1)


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_zeros_that_buy_nothing_are_said(copied: Path):
    for seed in (0, 1):
        change(copied / f"rvsm-seed{seed}" / "arm.json", sparsity=60.0, macs_left=100.0)
    words = Reader(render([read(copied)])).text
    assert "rvsm: 60.0 % of its parameters are zero, yet 100.0 % of the multiply-adds stay" in words


def test_runs_are_compared_on_one_page(finished: Path, tmp_path: Path):
    # The same name under another parent, trained differently.
    other = Path(shutil.copytree(finished, tmp_path / "elsewhere" / "tiny-1"))
    recipe = (other / "recipe.toml").read_text()
    (other / "recipe.toml").write_text(recipe.replace("lr = 0.05", "lr = 0.07"))
    file = write_report([finished, other], tmp_path / "both.html")
    words = Reader(file.read_text()).text
    assert f"{finished.parent.name}/tiny-1" in words
    assert "elsewhere/tiny-1" in words
    assert "training.lr 0.05 0.07" in words
    assert "trained differently" in words
    assert "accuracies are not comparable" not in words
    assert file.read_text().count("<title>front</title>") == 1


def test_runs_on_other_data_or_of_another_kind_are_said_to_be_so(finished: Path, copied: Path, tmp_path: Path):
    recipe = (copied / "recipe.toml").read_text()
    (copied / "recipe.toml").write_text(recipe.replace('name = "digits"', 'name = "mnist"'))
    walks = other_kind(tmp_path / "walks-1")
    text = render([read(finished), read(copied), read(walks)])
    words = Reader(text).text
    assert "different kinds (train, walk-rates)" in words
    assert "different data (digits, mnist)" in words
    assert "Runs without arms" in words
    assert text.count("<title>front</title>") == 2


def test_an_unfinished_run_can_be_compared(finished: Path, copied: Path):
    (copied / "result.json").unlink()
    for file in copied.glob("*/arm.json"):
        file.unlink()
    words = Reader(render([read(finished), read(copied)])).text
    assert "is not finished" in words
    assert "Not drawn, as they have not ended" in words


def test_a_collapsed_arm_is_named_among_several_runs(finished: Path, copied: Path):
    change(copied / "rgsm-seed1" / "arm.json", collapsed="at chance")
    words = Reader(render([read(finished), read(copied)])).text
    assert re.search(r"rgsm of \S+ has collapsed: at chance\.", words)


def test_no_run_makes_no_page():
    with pytest.raises(InputError, match="no run to show"):
        render([])


def test_a_run_is_named_by_a_path_or_a_text_alone_or_among_others(copied: Path, tmp_path: Path):
    for asked in (copied, str(copied), [str(copied)], (one for one in [copied])):
        assert write_report(asked) == copied / "report.html"
    assert write_report(str(copied), str(tmp_path / "page.html")) == tmp_path / "page.html"


def test_a_run_is_not_compared_with_itself(finished: Path, tmp_path: Path):
    with pytest.raises(InputError, match="named twice"):
        write_report([finished, finished / "."], tmp_path / "x.html")


def test_the_command_line(finished: Path, copied: Path, tmp_path: Path, capsys, monkeypatch):
    (copied / "report.html").unlink()
    assert cli.main(["report", str(copied)]) == 0
    assert (copied / "report.html").exists()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", str(finished), str(copied)]) == 0
    assert (tmp_path / "comparison.html").exists()
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "It holds runs" in capsys.readouterr().err
    assert cli.main(["report", str(finished), "--out", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_a_page_that_cannot_be_made_costs_no_result(tmp_path: Path, monkeypatch, caplog):
    def broken(folders: list[Path], path: Path) -> None:
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(runner, "write_report", broken)
    (tmp_path / "tiny.toml").write_text(TINY.replace("epochs = 3", "epochs = 1").replace("[0, 1]", "[0]"))
    with caplog.at_level(logging.WARNING, "gracile"):
        run(load(str(tmp_path / "tiny.toml")), tmp_path / "tiny-1")
    assert json.loads((tmp_path / "tiny-1" / "status.json").read_text())["status"] == "done"
    assert "no luck" in caplog.text
    assert f"gracile report {tmp_path / 'tiny-1'}" in caplog.text


def test_layer_sizes_of_a_network_whose_zeros_are_known():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
                            nn.Flatten(), nn.Linear(6 * 16, 3))  # fmt: skip
    with torch.no_grad():
        network[2].weight[:, 1] = 0
        network[5].weight[:, 16:32] = 0
        network[5].weight[0, 0] = 1e-9
    found = layer_sizes(network, torch.zeros(2, 1, 4, 4))
    first, second, last = found["layers"]
    assert (first["channels"], first["channels_left"], first["inputs"], first["inputs_left"]) == (4, 3, 1, 1)
    assert (second["channels"], second["channels_left"], second["inputs"], second["inputs_left"]) == (6, 5, 4, 3)
    assert (last["inputs"], last["inputs_left"], last["channels_left"]) == (96, 80, 3)
    assert second["parameters_left"] == 5 * 3 * 9
    assert second["nonzero"] == 6 * 3 * 9
    assert second["norms"][1] == 0
    assert second["norms"][0] == pytest.approx(network[2].weight[:, 0].norm().item(), rel=1e-3)
    assert found["macs"] == 16 * (36 + 216) + 288
    assert found["macs_left"] == 16 * (27 + 135) + 240
    magnitudes = found["magnitudes"]
    assert len(magnitudes["counts"]) == BINS
    assert magnitudes["zeros"] == 54 + 48
    assert sum(magnitudes["counts"]) + magnitudes["zeros"] == 36 + 216 + 288
    assert magnitudes["counts"][0] == 1


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_the_front_is_what_a_sweep_from_the_left_finds(places: list[tuple[int, int]]):
    front = {(point.x, point.y) for point in drawing.pareto([drawing.Point("", x, y, 0) for x, y in places])}
    best, swept = -1, set()
    for x, y in sorted(set(places), key=lambda place: (place[0], -place[1])):
        if y > best:
            best = y
            swept.add((x, y))
    assert front == swept


def test_an_axis_of_epochs_has_whole_numbers():
    for span in (1, 2, 3, 7, 12, 90):
        chart = drawing.curves("Loss", [drawing.Curve("a", [(1, 0.5), (1 + span, 0.4)], 0)], "epoch", "loss")
        assert chart is not None
        assert all(float(value).is_integer() for value in chart.figure.axes[0].get_xticks())


def test_a_chart_leaves_out_what_cannot_be_drawn():
    lines = [
        drawing.Curve("a", [(1, 0.5), (2, float("nan")), (3, 0.0), (4, 0.25)], 0),
        drawing.Curve("b", [(1, -1.0)], 1),
    ]
    drawn = drawing.curves("Loss", lines, "epoch", "loss", log=True)
    assert drawn is not None
    assert "nan" not in figures.svg(drawn.figure)
    assert "a ends at 0.25" in drawn.told
    assert drawing.curves("Loss", lines[1:], "epoch", "loss", log=True) is None


def test_the_same_drawing_is_the_same_bytes_and_tells_its_values():
    points = [drawing.Point("a <&>", 1.0, 2.0, 0, spread=0.5), drawing.Point("b", 2.0, 3.0, 11, size=4.0)]
    one, other = (
        figures.svg_file(drawing.scatter("T", points, "x", "y", fronts=[points]).figure, "T", "D") for _ in "12"
    )
    assert one == other
    assert "<title>a &lt;&amp;&gt;: 2 at 1</title>" in one
    # No colour but by its name, so that dark screens have theirs.
    assert re.findall(r"(?<!,)#[0-9a-f]{6}\b", one.partition("</style>")[2]) == []
    assert "DejaVu" not in one


def test_a_confusion_counts_what_is_taken_for_what():
    chart = drawing.confusion("C", [[3, 1], [0, 4]], ["cat", "dog"])
    assert chart.told == "7 of 8 right; cat taken for dog 1 times."
    assert "cat taken for dog: 1 of 4" in figures.svg(chart.figure)


def test_text_stands_out_from_its_background_in_both_modes():
    css = (Path(html.__file__).parent / "style.css").read_text()
    own = [dict(re.findall(r"--(\w+):(#\w{3,6})\b", line)) for line in css.splitlines()[:2]]
    for place in (0, 1):
        colours = {name: pair[place] for name, pair in figures.PALETTE.items()} | own[place]
        for name in ("ink", "soft", "good", "bad", *(f"s{n}" for n in range(figures.STYLES))):
            assert contrast(colours[name], colours["bg"]) >= 4.5, name
        assert contrast(colours["ink"], colours["warn"]) >= 7
        assert contrast(colours["soft"], colours["box"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two colours."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


class Attacked:
    """An arm as a chart asks for it."""

    def __init__(self, macs: float, **percent: float) -> None:
        self.macs, self.percent = macs, percent

    def mean(self, key: str) -> float | None:
        return self.percent.get(key)

    def spread(self, key: str) -> float | None:
        return None

    def macs_left(self) -> float:
        return self.macs

    def parameters_left(self) -> float:
        return self.macs


def test_robust_accuracy_is_drawn_against_multiply_adds_where_all_arms_have_it():
    dense = ("dense", Attacked(1e6, accuracy=90.0, autoattack=41.0, pgd=45.0), 0)
    lean = ("lean", Attacked(4e5, accuracy=88.0, autoattack=39.5, pgd=44.0), 1)
    drawn = charts.robust_picture([dense, lean])
    assert "Robust accuracy against multiply-adds left" in drawn
    assert "lean: 39.50 % under AutoAttack, 88.00 % clean" in drawn
    assert "under PGD" in charts.robust_picture([dense, ("new", Attacked(4e5, accuracy=88.0, pgd=44.0), 1)])
    assert charts.robust_picture([dense, ("clean alone", Attacked(4e5, accuracy=88.0), 1)]) == ""
    assert charts.robust_picture([]) == ""
