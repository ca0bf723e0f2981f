"""README's lines, the page of results and the ledger are what the kept results and claims say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gracile.core.errors import InputError
from gracile.recipes import schema
from tools import goal, others, picture, results

ROOT = Path(__file__).parents[2]


def test_the_documents_are_up_to_date():
    found = results.entries()
    readme = (ROOT / "README.md").read_text()
    remedy = "run `python tools/results.py`"
    told = results.claims()
    lines = f"{results.headlines(told)}\n\n{results.counts(told)}"
    assert results.placed(readme, lines) == readme, remedy
    # The drawing itself may differ by the version of matplotlib; what it tells may not.
    kept = (ROOT / picture.FILE).read_text()
    assert picture.description(kept) == picture.description(results.drawn(found)) != "", remedy
    assert results.page(found) == (ROOT / "docs" / "results.md").read_text(), remedy
    comparison = (ROOT / goal.FILE).read_text()
    opponents = next(entry for entry in found if entry.recipe.name == goal.RECIPE)
    assert results.placed(comparison, goal.goal(opponents.recipe, opponents.results)) == comparison, remedy
    assert results.placed(comparison, others.others(others.rows()), others.NAME) == comparison, remedy
    assert results.ledger(results.claims(), found) == (ROOT / "docs" / "claims.md").read_text(), remedy


def test_no_claim_is_without_a_verdict_and_what_it_rests_on():
    """A verdict that something was measured names the test or the kept value; both must be there."""
    found = results.claims()
    assert len({(claim.document, claim.place) for claim in found}) == len(found) > 140
    assert {claim.document for claim in found} == set(results.DOCUMENTS)
    values, ratios = results.kept_values(results.entries()), results.ratios()
    for claim in found:
        assert bool(claim.evidence) is not (claim.verdict == "not run"), claim.place
        for one in claim.evidence:
            kind, *words = one.split(" ")
            if kind == "test":
                file, _, name = words[0].partition("::")
                assert f"def {name}(" in (ROOT / file).read_text(), one
            elif kind == "benchmark":
                assert results.benchmark(one) in ratios, one
            else:
                assert kind == "recipe", one
                assert words[2] in values.get((words[0], words[1]), {}), one


def test_ten_claims_make_the_readme_s_lines():
    found = results.claims()
    assert sorted(claim.headline for claim in found if claim.headline) == list(range(1, 11))
    assert len(results.headlines(found).splitlines()) == 10
    for claim in found:
        # What README says of a claim is what was measured of it.
        assert not claim.headline or (claim.told and claim.evidence and claim.verdict != "not run"), claim.place


def test_a_claim_with_an_unknown_verdict_is_refused(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    row = '[[claim]]\ndocument = "dinh2020"\nplace = "here"\nsays = "so"\nverdict = "likely"\n'
    (tmp_path / "docs" / "claims.toml").write_text(row)
    with pytest.raises(InputError, match="no verdict named 'likely'"):
        results.claims(tmp_path)


def test_definitions_are_counted_apart_and_shown_as_implemented():
    found = results.claims()
    assert sum(claim.definition for claim in found) > 20
    [one] = [claim for claim in found if claim.place == "algorithm 2"]
    [other] = [claim for claim in found if claim.place == "lemma 15"]
    counted = results.counts([one, other]).splitlines()
    assert counted[0].split("|")[-2].strip() == "definitions"
    assert [cell.strip() for cell in counted[2].split("|")[2:-1]] == ["1", "", "", "", "", "1"]
    page = results.ledger([one, other], [])
    assert "| implemented and tested |" in page
    assert "| holds " in page


@pytest.mark.parametrize(
    "wrong", ['verdict = "fails"', 'verdict = "holds"\nheadline = 1', 'verdict = "holds"\nevidence = []'],
)  # fmt: skip
def test_a_definition_is_implemented_and_tested_and_no_line_of_readme(wrong: str, tmp_path: Path):
    (tmp_path / "docs").mkdir()
    row = '[[claim]]\ndocument = "dinh2020"\nplace = "here"\nsays = "so"\ndefinition = true\n'
    evidence = "" if "evidence" in wrong else 'evidence = ["test a::b"]\n'
    (tmp_path / "docs" / "claims.toml").write_text(f"{row}{evidence}{wrong}\n")
    with pytest.raises(InputError, match="'here' cannot be a definition"):
        results.claims(tmp_path)
    (tmp_path / "docs" / "claims.toml").write_text(f'{row}evidence = ["test a::b"]\nverdict = "bounded"\n')
    assert results.claims(tmp_path)[0].definition


def test_a_worst_case_over_one_attack_is_not_shown():
    found = {entry.recipe.name: entry for entry in results.entries()}
    for name, shown in (("robust-cifar", False), ("robust-channels", False), ("robust-mnist", True)):
        page = results.page([found[name]])
        assert ("worst case a sample %" in page, "the worst case over" in page) == (shown, shown), name
        assert "verdicts on a network that draws random numbers by the mean of 20 fresh draws" in page


def test_every_published_recipe_has_its_row_and_every_kept_result_its_recipe():
    found = {entry.recipe.name: entry for entry in results.entries()}
    table = results.overview(list(found.values()))
    assert all(f"`{name}`" in table for name in found)
    files = [*schema.PAPERS.glob("*/*.json"), *schema.EXAMPLES.glob("*.json")]
    kept = {tuple(path.stem.rsplit(".", 1)) for path in files}
    assert kept == {(name, size) for name, entry in found.items() for size in entry.results}
    assert ("dial-mnist", "full") in kept


def test_what_is_kept_was_held_against_the_criteria_as_they_stand():
    for entry in results.entries():
        for size, result in entry.results.items():
            assert (result["recipe"], result["size"]) == (entry.recipe.name, size)
            assert results.criteria(result["accept"]) == results.criteria(entry.recipe.accept, size), entry.recipe.name


def test_a_finished_run_is_kept_beside_its_recipe_and_written_into_the_documents(tmp_path: Path, monkeypatch, capsys):
    folder = tmp_path / "src" / "gracile" / "recipes" / "papers"
    (folder / "walks").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    for suffix in ("toml", "full.json"):
        file = schema.PAPERS / "walks" / f"theorem-2.3.{suffix}"
        (folder / "walks" / file.name).write_text(file.read_text())
    (tmp_path / "docs" / "claims.toml").write_text((ROOT / "docs" / "claims.toml").read_text())
    readme = tmp_path / "README.md"
    readme.write_text(f"{results.BEGIN}\n{results.END}\n")
    kept = folder / "walks" / "theorem-2.3.full.json"
    result, made = json.loads(kept.read_text()), tmp_path / "run"
    kept.unlink()
    made.mkdir()
    shutil.copy(folder / "walks" / "theorem-2.3.toml", made / "recipe.toml")
    monkeypatch.setattr(schema, "PAPERS", folder)
    monkeypatch.setattr(schema, "EXAMPLES", folder.parent / "examples")

    def outcome(**changes) -> int:
        # The recipe's own notes are not kept a second time.
        told = [schema.load("theorem-2.3").notes, *result["notes"]]
        (made / "result.json").write_text(json.dumps({**result, "notes": told, **changes}))
        return results.main([str(made)], tmp_path)

    dirty = {**result["environment"], "commit": f"{result['environment']['commit']}+changes"}
    for changes, says in (
        ({"environment": dirty}, "no clean commit"),
        ({"recipe": "theorem-2.9"}, "no shipped recipe named 'theorem-2.9'"),
        ({"size": "smoke"}, "no size that is kept named 'smoke'"),
        ({"accept": result["accept"][1:]}, "criteria of theorem-2.3 changed"),
    ):
        assert outcome(**changes) == 2
        assert says in capsys.readouterr().err
        assert not kept.exists()
    assert "not run" in results.overview(results.entries())
    assert outcome() == 0
    assert json.loads(kept.read_text()) == result
    assert "4 of 4 met" in (tmp_path / "docs" / "results.md").read_text()
    assert "(Dinh 2020, theorem 2.5)" in readme.read_text()
    assert result["environment"]["commit"][:12] in (tmp_path / "docs" / "results.md").read_text()
    assert results.main([str(tmp_path)], tmp_path) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_errors_that_a_result_does_not_tell_come_from_its_spreads():
    entry = {one.recipe.name: one for one in results.entries()}["table-4.1"]
    kept = entry.results["full"]
    before = {key: value for key, value in kept["values"].items() if not key.endswith(".error")}
    notes = [note for note in kept["notes"] if note.startswith("accuracy of rgsm_tenth minus that of fixed")]
    found = results.with_errors(results.Entry(entry.recipe, {"full": {**kept, "values": before}}, ""), "full")
    # Paired, seed by seed, over three of them.
    assert notes == ["accuracy of rgsm_tenth minus that of fixed, seed by seed: 0.17 ± 0.15"]
    assert found["tenth_over_fixed.error"] == pytest.approx(0.15 / 3**0.5)
    # Not paired: the spreads of both arms.
    rows = [{"arm": "a", "accuracy %": "90.00 ± 0.30"}, {"arm": "mean-x", "mean accuracy %": "91.00 ± 0.40"}]
    assert results._of_rows([{"arm": "b-x", "accuracy %": "90.00 ± 0.30"}, *rows], "b-x.below_mean") == pytest.approx(
        0.5
    )
    assert results._of_rows(rows, "a.accuracy") == pytest.approx(0.3)
    assert results._of_rows([{"arm": "a", "accuracy %": "90.00"}], "a.accuracy") is None


def test_what_is_judged_anew_says_so(monkeypatch):
    entry = {one.recipe.name: one for one in results.entries()}["study-b"]
    stricter = entry.recipe.model_copy(
        update={"accept": [entry.recipe.accept[0].model_copy(update={"at_least": 99.0})]}
    )
    written = {}
    monkeypatch.setattr(results, "entries", lambda: [results.Entry(stricter, entry.results, entry.folder)])
    monkeypatch.setattr(results, "write_json", lambda file, value: written.update({file.name: value}))
    assert [file.name for file in results.judge()] == ["study-b.full.json"]
    made = written["study-b.full.json"]
    assert [one["met"] for one in made["accept"]] == [False]
    page = results.page([results.Entry(stricter, {"full": made}, "")])
    assert "These criteria were changed after the run" in page


def test_changes_that_were_not_committed_are_named():
    assert "with changes" in results._commit("0123456789abcdef+changes")
    assert results._commit("0123456789abcdef") == "0123456789ab"


def test_what_was_not_run_says_so_and_what_was_missed_stays_missed():
    recipe = schema.load("study-b").model_copy(update={"sizes": {"cpu": {}, "smoke": {}}})
    result = json.loads((schema.PAPERS / "workers" / "study-b.full.json").read_text())
    entry = results.Entry(recipe, {}, "")
    assert [entry.verdict(size) for size in results.SIZES] == ["not run", "", "not run"]
    assert results.page([entry]).count("not run.") == 2
    more = results.Entry(recipe.model_copy(update={"sizes": {"vit": {}, **recipe.sizes}}), {}, "")
    assert more.sizes == ["full", "cpu", "vit"]
    assert "vit: not run" in results.overview([more])
    for one, met in zip(result["accept"], (False, None, True), strict=False):
        one["met"] = met
    missed = results.Entry(recipe, {"full": {**result, "accept": result["accept"][:3]}}, "")
    assert missed.verdict("full") == "1 of 3 met, 1 undecided"
    page = results.page([missed])
    assert f"- **missed**: {result['accept'][0]['claim']}" in page
    assert f"- **undecided**: {result['accept'][1]['claim']}" in page
    assert result["environment"]["commit"][:12] in page
    assert result["rows"][1]["accuracy %"] in page


def test_the_goal_is_a_mean_over_networks_and_budgets_and_what_is_not_run_is_named():
    recipe = schema.load(goal.RECIPE)
    assert len({(cell.network, cell.budget) for cell in goal.cells(recipe, {})}) == len(goal.cells(recipe, {})) == 12
    assert "None of the 12 cells is run" in goal.goal(recipe, {})
    kept = {
        "budgets": {"values": {
            "over_best_50": 1.0, "over_best_50.error": 0.5, "over_best_30": 0.6, "over_best_30.error": 0.3,
            "over_best_15": -0.4, "over_best_15.error": 0.2,
        }},
        "vgg": {"values": {"over_best_15": 2.0, "over_best_15.error": 0.75}},
    }  # fmt: skip
    known = [cell for cell in goal.cells(recipe, kept) if cell.lead is not None]
    # 0.3 + 0.5 + 0.2 of the one network, 0.75 of the other: their root of squares, over four cells.
    assert goal.mean_lead(known) == (pytest.approx(0.8), pytest.approx(1.25 / 4))
    told = goal.goal(recipe, kept)
    assert "| resnet20" in told
    assert told.count("not run ") == 8
    assert "Mean over 4 of 12 cells, the others not being run: +0.80 ± 0.31 points" in told
    assert "The worst, resnet20 at 15 %, is at -2.0 of its standard errors" in told


def test_the_table_is_put_between_the_markers_and_nothing_else_is_touched():
    text = f"before\n{results.BEGIN}\nold\n{results.END}\nafter"
    assert results.placed(text, "new") == f"before\n{results.BEGIN}\n\nnew\n\n{results.END}\nafter"
    with pytest.raises(InputError, match="no markers"):
        results.placed("text", "new")
