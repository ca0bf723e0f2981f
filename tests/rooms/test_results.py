"""The README's table and the page of results are what the kept results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gracile.core.errors import InputError
from gracile.recipes import results, schema

ROOT = Path(__file__).parents[2]


def test_the_documents_are_up_to_date():
    found = results.entries()
    readme = (ROOT / "README.md").read_text()
    remedy = "run `python -m gracile.recipes.results`"
    assert results.placed(readme, results.overview(found)) == readme, remedy
    assert results.page(found) == (ROOT / "docs" / "results.md").read_text(), remedy


def test_every_published_recipe_has_its_row_and_every_kept_result_its_recipe():
    found = {entry.recipe.name: entry for entry in results.entries()}
    table = results.overview(list(found.values()))
    assert all(f"`{name}`" in table for name in found)
    kept = {path.stem.removesuffix(".full").removesuffix(".cpu") for path in schema.PAPERS.glob("*/*.json")}
    assert kept
    assert kept <= set(found)


def test_what_was_not_run_says_so_and_what_was_missed_stays_missed():
    recipe = schema.load("table-4.1").model_copy(update={"sizes": {"cpu": {}, "smoke": {}}})
    result = json.loads((schema.PAPERS / "relaxed_splitting" / "table-4.1.full.json").read_text())
    entry = results.Entry(recipe, {}, "")
    assert [entry.verdict(size) for size in ("full", "cpu")] == ["not run", "not run"]
    assert results.page([entry]).count("not run.") == 2
    result["accept"][0]["met"] = False
    missed = results.Entry(recipe, {"full": result}, "")
    assert missed.verdict("full") == "1 of 2 met"
    page = results.page([missed])
    assert f"- **missed**: {result['accept'][0]['claim']}" in page
    assert result["environment"]["commit"][:12] in page
    assert result["rows"][1]["accuracy %"] in page


def test_the_table_is_put_between_the_markers_and_nothing_else_is_touched():
    text = f"before\n{results.BEGIN}\nold\n{results.END}\nafter"
    assert results.placed(text, "new") == f"before\n{results.BEGIN}\n\nnew\n\n{results.END}\nafter"
    with pytest.raises(InputError, match="no markers"):
        results.placed("text", "new")
