"""Figures as files and in pages: the reader's colours, the same bytes, and one in every room's page of the site."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from gracile.core import figures
from gracile.core.errors import InputError

ROOT = Path(__file__).parents[2]
# Pages of rooms with mathematics of their own.
ROOMS = (
    "training", "pruning", "channels", "shrink", "export", "robust", "layerwise", "forward_forward", "workers", "study", "dynamics",
    "one_layer", "walks",
)  # fmt: skip


def drawing() -> figures.Figure:
    figure = figures.new_figure(4, 3)
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label="a <b>", gid=f"{figures.TIP}a & b: 4 at 2")
    axes.plot([1, 2], [4, 3], color="0.6")
    axes.set_title("$10^{-2}$ and words")
    axes.legend()
    return figure


def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_figures", ROOT / "docs" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_picture_is_well_formed_and_has_no_colour_or_face_of_its_own():
    text = figures.svg_file(drawing(), "A <title>", "what it shows")
    root = ElementTree.fromstring(text)
    assert root.attrib["viewBox"].startswith("0 0 ")
    assert root.attrib["width"] == "288pt"
    assert not {one.tag.rpartition("}")[2] for one in root.iter()} & {"script", "foreignObject", "metadata", "a"}
    drawn = text.partition("</style>")[2]
    assert re.findall(r"(?<!,)#[0-9a-f]{6}\b", drawn) == []
    assert {"s0", "ink", "soft"} <= set(re.findall(r"var\(--(\w+)", drawn)) <= set(figures.PALETTE)
    assert "DejaVu" not in text
    assert "<title>a &amp; b: 4 at 2</title>" in text
    assert "A &lt;title&gt;" in text


def test_the_same_drawing_is_the_same_bytes_in_another_process(tmp_path: Path):
    code = "from tests.rooms.test_figures import drawing; from gracile.core import figures; print(figures.svg_file(drawing()), end='')"
    environment = {
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "PYTHONHASHSEED": "7",
        "MPLCONFIGDIR": str(tmp_path),
        "PATH": "/usr/bin:/bin",
    }
    seen = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    assert seen.stdout == figures.svg_file(drawing())


def test_no_page_is_imported_with_matplotlib():
    code = "import sys; import gracile.report; print('matplotlib' in sys.modules)"
    environment = {"PYTHONPATH": f"{ROOT / 'src'}", "PATH": "/usr/bin:/bin"}
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert seen.stdout.strip() == "False"


def test_a_picture_is_written_by_its_suffix(tmp_path: Path):
    assert figures.save(drawing(), tmp_path / "a.svg").read_text().startswith("<svg xmlns=")
    assert figures.save(drawing(), tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"cannot be written as '.pdf'. .* \.svg or \.png"):
        figures.save(drawing(), tmp_path / "a.pdf")


def test_every_room_s_page_has_formulas_and_a_figure_and_every_figure_a_page():
    named = {
        page.stem: re.findall(r"^:::\{drawn\} (\w+)$", page.read_text(), flags=re.M)
        for page in (ROOT / "docs").glob("*.md")
    }
    for room in ROOMS:
        assert named[room], room
        assert (ROOT / "docs" / f"{room}.md").read_text().count("\n$$\n") >= 2, room
    assert sorted(name for names in named.values() for name in names) == sorted(site().FIGURES)


@pytest.mark.parametrize("name", ["proximal_maps", "mixing", "sparsity_law"])
def test_a_figure_of_the_site_is_drawn_alike_each_time(name: str):
    module = site()
    one, other = (figures.svg_file(module.drawn(name)[0]) for _ in range(2))
    assert one == other
    assert len(one) > 10_000
