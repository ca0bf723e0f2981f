"""What a recipe file may say. Every key is read; an unknown one is an error that names the nearest."""

from __future__ import annotations

import inspect
import itertools
import math
import re
import reprlib
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gracile.core.errors import InputError, nearest, pick
from gracile.core.names import safe_name
from gracile.core.user_code import is_reference

PAPERS = Path(__file__).parent / "papers"
EXAMPLES = Path(__file__).parent / "examples"

Model = TypeVar("Model", bound=BaseModel)
# Options may be objects of the rooms, such as penalties.
KIND = ConfigDict(arbitrary_types_allowed=True)


class Strict(BaseModel):
    """A table of a recipe: unknown keys are refused, values are never coerced to another kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Accept(Strict):
    """A criterion fixed before the run.

    Attributes:
        claim: what it shows, in words.
        value: the name of a value the run produces.
        at_least: the lower bound; it or the upper one is given.
        at_most: the upper bound.
        errors: standard errors (``VALUE.error``) by which the value must clear its bounds: within so many of one it is undecided,
            and so it is from a single seed, which has no error. A difference of paired samples must clear them with its whole
            interval of 95 % (``VALUE.low``, ``VALUE.high``) instead. Left out where the value is exact.
        sizes: the sizes it is held against.
    """

    claim: str
    value: str
    at_least: float | None = None
    at_most: float | None = None
    errors: float | None = Field(None, gt=0)
    sizes: list[str] = Field(default_factory=lambda: ["full"])

    def met(self, values: dict[str, float]) -> bool | None:
        """Whether the run's values meet it, None for undecided; a value the run did not produce does not."""
        found = values.get(self.value)
        if found is None or found != found:
            return False
        low, high = found, found
        if self.errors is not None:
            error = values.get(f"{self.value}.error")
            if error is not None:
                low, high = found - self.errors * error, found + self.errors * error
            elif f"{self.value}.low" not in values:
                return None
            low, high = values.get(f"{self.value}.low", low), values.get(f"{self.value}.high", high)
        least = -math.inf if self.at_least is None else self.at_least
        most = math.inf if self.at_most is None else self.at_most
        return True if low >= least and high <= most else False if high < least or low > most else None


class Recipe(Strict):
    """A recipe as read from TOML.

    Attributes:
        name: also the run folder's name.
        title: one line.
        source: paper, section, table or figure.
        kind: a row of `gracile.recipes.kinds.KINDS`, which defines what `settings` may hold.
        published: a table of ``papers/published.toml``.
        settings: the kind's own settings at full size.
        sizes: per size (``smoke``, ``cpu``) what it changes in `settings`; with ``like = "cpu"`` on top of what that size, which
            stands above it, does.
        size: the size these settings have.
        accept: criteria fixed beforehand.
        notes: what a reader of the result must know: readings tried, data that differ from the paper's.
    """

    name: str
    title: str
    kind: str
    source: str = ""
    published: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    sizes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    size: str = "full"
    accept: list[Accept] = Field(default_factory=list)
    notes: str = ""


def parse(model: type[Model], values: dict[str, Any], where: str) -> Model:
    """Validate `values` against a pydantic model and turn its complaints into one sentence.

    Args:
        model: the schema.
        values: what a TOML table held.
        where: the file, and table in it, for the message.

    Raises:
        InputError: an unknown key, a missing one, or a value of the wrong kind.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # A misspelt key also makes the right one missing; the misspelling is the cause.
        problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        place = ".".join(part if part.isprintable() else repr(part) for part in map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = _fields_at(model, problem["loc"][:-1])
            raise InputError(f"Unknown key '{place}' in {where}.", nearest(str(problem["loc"][-1]), known)) from None
        if problem["type"] == "missing":
            raise InputError(f"The key '{place}' is missing in {where}.", f"Write {place} = ... there.") from None
        raise InputError(
            f"The key '{place}' in {where} has the value {reprlib.repr(problem['input'])}.",
            f"{problem['msg'].replace('Input s', 'It s')}.",
        ) from None


def typed_options(table: Mapping[str, Callable[..., Any]], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a method, each of the kind that its class asks for; one that it does not have is left to the class.

    Args:
        table: of methods, name to class.
        name: of the method.
        options: what it is given.

    Raises:
        InputError: no such method, or a value of another kind.
    """
    known, found = inspect.signature(pick(table, name, "method"), eval_str=True).parameters, dict(options)
    for key in options.keys() & known.keys():
        kind = known[key].annotation
        try:
            found[key] = TypeAdapter(kind, config=KIND).validate_python(options[key])
        except ValidationError as error:
            raise InputError(
                f"{key}={options[key]} cannot be used: {error.errors()[0]['msg'].lower()}.",
                f"The method '{name}' takes {key} as {inspect.formatannotation(kind)}.",
            ) from None
    return found


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys known at a place inside a model, found by following the path through nested models."""
    for part in path:
        field = model.model_fields.get(str(part))
        inner = _models_in(field.annotation) if field is not None else []
        if inner:
            model = inner[0]
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]


def shipped() -> dict[str, Path]:
    """Every recipe inside the package, name to file."""
    files = sorted([*EXAMPLES.glob("*.toml"), *PAPERS.glob("*/*.toml")])
    return {file.stem: file for file in files}


def load(name_or_path: str) -> Recipe:
    """Read a recipe by the name of a shipped one or by the path of a TOML file.

    Raises:
        InputError: no such recipe, not TOML, or a key that no recipe has.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        known = shipped()
        if name_or_path not in known:
            _refuse_no_recipe(path)
            raise InputError(
                f"There is no recipe named '{name_or_path}'.",
                nearest(name_or_path, known) + " A file's name ends in .toml.",
            )
        path = known[name_or_path]
    if not path.is_file():
        raise InputError(f"There is no recipe file {path}.", "Check the path, or name a shipped recipe.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        # A number of thousands of digits and nesting without end are more than the parser bears.
        raise InputError(
            f"{path} is not valid TOML: {error}.", "Mend what stands there, and save it as UTF-8."
        ) from None
    values.setdefault("name", path.stem)
    if "each" in values:
        values = spelled_out(values, values.pop("each"), str(path))
    recipe = parse(Recipe, values, str(path))
    for name in (recipe.name, recipe.size, *recipe.sizes):
        safe_name(name, "recipe or size")
    return recipe


def _refuse_no_recipe(path: Path) -> None:
    """Say what a path that stands where a recipe belongs is, and where it belongs.

    Raises:
        InputError: it is a run, code of the user's own, or data.
    """
    if (path / "recipe.toml").is_file():
        raise InputError(
            f"{path} is a run, not a recipe.", f"Write gracile run --resume --out {path} to go on with it."
        )
    if is_reference(str(path)) or (path.suffix == ".py" and path.is_file()):
        code = str(path) if is_reference(str(path)) else f"{path}:FUNCTION"
        raise InputError(f"{path} is code, not a recipe.", f"Write gracile run --data DATA --model {code}.")
    if path.exists():
        what = "a folder" if path.is_dir() else "a file"
        raise InputError(f"{path} is {what}, not a recipe.", f"Write gracile run --data {path}.")


def resized(recipe: Recipe, size: str) -> Recipe:
    """The recipe with one size's changes merged into its settings.

    Args:
        recipe: as loaded.
        size: ``full`` or a key of its `sizes`.

    Raises:
        InputError: the recipe has no such size.
    """
    if size == recipe.size:
        return recipe
    if size not in recipe.sizes:
        raise InputError(
            f"The recipe '{recipe.name}' has no size '{size}'.", f"It has: {', '.join(['full', *recipe.sizes])}."
        )
    return recipe.model_copy(update={"settings": merged(recipe.settings, _changes(recipe, size)), "size": size})


def _changes(recipe: Recipe, size: str) -> dict[str, Any]:
    """What a size changes, with what the size does that it is like."""
    changes = dict(recipe.sizes[size])
    like = changes.pop("like", None)
    if like is None:
        return changes
    above = list(recipe.sizes)[: list(recipe.sizes).index(size)]
    if like not in above:
        raise InputError(
            f"The size '{size}' of the recipe '{recipe.name}' is to be like '{like}', which is no size above it.",
            nearest(str(like), above) if above else "Leave like out.",
        )
    return merged(_changes(recipe, like), changes)


PLACE = re.compile(r"\{(\w+)\}")


def spelled_out(values: Any, rows: Sequence[Mapping[str, Any]], where: str) -> Any:
    """What a recipe says once for several rows, written out.

    An entry of a table whose key holds ``{NAME}``, and an entry of a list that holds it anywhere, is written once for each row of
    `rows`, with the row's value of that name; entries next to each other go through the rows together. A string that is nothing but
    ``{NAME}`` becomes the value itself, a number or a list.

    Args:
        values: a recipe as read from TOML, or a part of it.
        rows: what ``each`` holds: tables with the same names.
        where: the file, for the message.

    Raises:
        InputError: no rows, rows of unlike names, or a name that they do not have.

    >>> spelled_out({"l1_{n}": {"macs": "{share}"}, "seeds": [0]}, [{"n": 50, "share": 0.5}, {"n": 30, "share": 0.3}], "")
    {'l1_50': {'macs': 0.5}, 'l1_30': {'macs': 0.3}, 'seeds': [0]}
    """
    tables = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    if not tables or not rows or not rows[0] or any(row.keys() != rows[0].keys() for row in rows):
        raise InputError(
            f"The key 'each' in {where} is no list of tables of the same names.",
            "Write each = [{ percent = 50, macs = 0.5 }, { percent = 30, macs = 0.3 }], for one.",
        )
    if unknown := sorted(_places(values) - rows[0].keys()):
        raise InputError(f"'{{{unknown[0]}}}' in {where} is no name that 'each' has.", nearest(unknown[0], rows[0]))
    written = _written(values, rows)
    if left := sorted(_places(written)):
        raise InputError(
            f"'{{{left[0]}}}' in {where} stands neither in a list nor under a key that holds a name of 'each'.",
            f"Put {{{left[0]}}} into the key, too.",
        )
    return written


def _places(value: Any) -> set[str]:
    """The names in braces in keys and strings."""
    if isinstance(value, str):
        return set(PLACE.findall(value))
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return set().union(*map(_places, parts))


def _written(value: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    if isinstance(value, dict):
        pairs = [(_places(key), (key, one)) for key, one in value.items()]
        written = [(_filled(key, row), _written(_filled(one, row), rows)) for (key, one), row in _in_rows(pairs, rows)]
        if len(dict(written)) < len(written):
            twice = next(key for key, count in Counter(key for key, _ in written).items() if count > 1)
            raise InputError(f"The rows of 'each' write '{twice}' twice.", "Give each row values of its own.")
        return dict(written)
    if isinstance(value, list):
        return [
            _written(_filled(one, row), rows) for one, row in _in_rows([(_places(one), one) for one in value], rows)
        ]
    return value


def _in_rows(entries: Sequence[tuple[set[str], Any]], rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Mapping]]:
    """Each entry with the rows it is written for; an entry without a name in braces with an empty one."""
    found = []
    for named, run in itertools.groupby(entries, key=lambda entry: bool(entry[0])):
        together = [one for _, one in run]
        found += [(one, row) for row in (rows if named else [{}]) for one in together]
    return found


def _filled(value: Any, row: Mapping[str, Any]) -> Any:
    """The value with what stands in braces replaced by the row's."""
    if not row:
        return value
    if isinstance(value, dict):
        return {_filled(key, row): _filled(one, row) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, row) for one in value]
    if not isinstance(value, str):
        return value
    whole = PLACE.fullmatch(value)
    return row[whole[1]] if whole else PLACE.sub(lambda place: str(row[place[1]]), value)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, table by table; lists and scalars are replaced."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return result


def changed(settings: Model, changes: dict[str, Any], where: str) -> Model:
    """A table of a recipe with some of its keys changed, as an arm does.

    Raises:
        InputError: see `parse`; `where` is named.
    """
    return parse(type(settings), merged(settings.model_dump(), changes), where)


def published(table: str) -> list[dict[str, Any]]:
    """The published rows of a table in ``papers/published.toml``, as dictionaries.

    Raises:
        InputError: no such table.
    """
    tables = tomllib.loads((PAPERS / "published.toml").read_text(encoding="utf-8"))
    if table not in tables:
        raise InputError(f"There is no published table '{table}'.", nearest(table, tables))
    columns = tables[table].get("columns", ["name", "value"])
    # A figure may be published without a number that can be read off it.
    return [dict(zip(columns, row, strict=True)) for row in tables[table].get("rows", [])]
