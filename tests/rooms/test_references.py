"""Sources are cited by a key of the bibliography, and every entry of it is cited."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pybtex.database import BibliographyData, parse_file

from gracile.recipes import schema

ROOT = Path(__file__).parents[2]
CITING = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.py"), ROOT / "README.md"])
KEY = re.compile(r"(?<![\w@`])@([a-z]+\d{4}[a-z]*)\b")
# "Zhang and Xin 2017", "Wen et al. (2016)": a source without its key.
BARE = re.compile(r"\b[A-Z][\w'-]+(?: and [A-Z][\w'-]+| et al\.),? \(?(?:19|20)\d\d[ab]?\b")


@pytest.fixture(scope="module")
def bibliography() -> BibliographyData:
    return parse_file(ROOT / "docs" / "references.bib")


def test_every_key_is_known_and_every_entry_is_cited(bibliography):
    cited = {key: path.name for path in CITING for key in KEY.findall(path.read_text("utf-8"))}
    assert len(cited) > 50
    assert {key: where for key, where in cited.items() if key not in bibliography.entries} == {}
    assert set(bibliography.entries) - set(cited) == set()


def test_no_source_is_named_without_its_key():
    # Generated pages call the documents by name.
    pages = [path for path in CITING if path.name not in ("results.md", "claims.md", "README.md")]
    bare = {path.name: BARE.findall(path.read_text("utf-8")) for path in pages}
    assert {name: found for name, found in bare.items() if found} == {}


def test_no_document_goes_by_a_name_that_a_reader_has_not():
    """Theirs are in the bibliography: not "the thesis", nor what else the documents were called while the work was young."""
    words = re.compile(
        r"\bthe (?:thesis|seeds?'? document|assignment's text)\b|\bspec(?:'s)? table\b|\bthe seed's\b", re.I
    )
    found = {path.name: words.findall(path.read_text("utf-8")) for path in CITING}
    assert {name: said for name, said in found.items() if said} == {}


def test_entries_have_what_a_reader_needs_to_find_them(bibliography):
    for key, entry in bibliography.entries.items():
        assert entry.persons.get("author"), key
        assert entry.fields.get("title"), key
        assert {"journal", "booktitle", "school", "howpublished", "eprint", "publisher"} & set(entry.fields), key


def labels(bibliography: BibliographyData) -> set[str]:
    """ "Dinh 2020", "Le and Jegelka 2022", "Simon et al. 2013", and a work without a year by its title."""
    found = set()
    for entry in bibliography.entries.values():
        if "year" not in entry.fields:
            found.add(entry.fields["title"].partition(":")[0].replace("{", "").replace("}", ""))
            continue
        names = [" ".join(person.last_names) for person in entry.persons["author"]]
        who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
        found.add(f"{who} {entry.fields['year']}")
    return found


@pytest.mark.parametrize(
    "name", [name for name, path in schema.shipped().items() if path.is_relative_to(schema.PAPERS)]
)
def test_a_published_recipe_names_a_document_of_the_bibliography(name: str, bibliography):
    source = schema.load(name).source
    assert any(source.startswith(label) for label in labels(bibliography)), source
