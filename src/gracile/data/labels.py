"""Labels as they stand in files -> class numbers 0 .. k-1 and class names."""

from __future__ import annotations

import numpy as np

from gracile.core.errors import DataError
from gracile.data.source import row_name

NUMBER_CLASSES = "Number the classes, or write their names as text."
# More classes than this share of the rows are numbers of something else.
MOST_CLASSES = 0.5


def encode(
    found: dict[str, np.ndarray], declared: tuple[str, ...] | None, where: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...], list[str]]:
    """Turn the labels of all splits into class numbers.

    Integers 0 .. k-1 are class numbers as they stand; of others, such as -1 and 1, each is a class named by its number.
    Text is a class name, and the names in alphabetical order are the classes.

    Args:
        found: split to (n,) labels: integers, whole floats, booleans or strings; None or NaN stands for a missing one.
        declared: the class names where the source declares them.
        where: the source, for messages.

    Returns:
        split to (n,) int64, the class names, and what was decided, a sentence each.

    Raises:
        DataError: a label is missing, not an integer, or outside the declared classes; or there are fewer than two
            classes, or nearly as many as rows.
    """
    if not len(found["train"]):
        raise DataError(f"The train split of {where} has no rows.", "Give it samples.")
    if any(values.dtype.kind in "OUS" for values in found.values()):
        encoded, classes = _encode_names(found, declared, where)
        return encoded, _several(classes, where), []
    numbers = {split: _whole_numbers(values, f"the {split} split of {where}") for split, values in found.items()}
    if declared is not None:
        for split, values in numbers.items():
            _refuse(
                (values < 0) | (values >= len(declared)),
                values,
                f"the {split} split of {where}",
                f"outside the declared classes 0 to {len(declared) - 1}",
                "Correct the label or declare the class.",
            )
        return numbers, _several(declared, where), []
    distinct = np.unique(np.concatenate(list(numbers.values())))
    rows = sum(map(len, numbers.values()))
    if len(distinct) > max(2, MOST_CLASSES * rows):
        raise DataError(
            f"The labels of {where} have {len(distinct)} different values in {rows} rows: these are not class numbers.",
            "Name the label column. " + NUMBER_CLASSES,
        )
    classes = _several(tuple(str(number) for number in distinct), where)
    if np.array_equal(distinct, np.arange(len(distinct))):
        return numbers, classes, []
    # Training may lack a class in the middle that the test split has, so the union decides.
    encoded = {split: np.searchsorted(distinct, values).astype(np.int64) for split, values in numbers.items()}
    return encoded, classes, [f"the labels are {_listed(classes)}, and each is a class of that name"]


def _several(classes: tuple[str, ...], where: str) -> tuple[str, ...]:
    if len(classes) < 2:
        raise DataError(
            f"{where} has {f'one class only, {classes[0]!r}' if classes else 'no class'}: there is nothing to tell apart.",
            "Check that the path, or the label column, is the right one.",
        )
    return classes


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _whole_numbers(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind == "f":
        _refuse(np.isnan(values), values, where, "missing", "Fill the label in or drop the row.")
        _refuse(values != np.floor(values), values, where, "not an integer", NUMBER_CLASSES)
    elif values.dtype.kind not in "iub":
        raise DataError(f"The labels of {where} are of type {values.dtype}, not integers.", NUMBER_CLASSES)
    # Compared before the cast, which would wrap values beyond 63 bits.
    _refuse(np.abs(values.astype(np.float64)) >= 2.0**63, values, where, "no class number", NUMBER_CLASSES)
    return values.astype(np.int64)


def _refuse(bad: np.ndarray, values: np.ndarray, where: str, what: str, remedy: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"The label in {row_name(row)} of {where} is {what}: {values[row]}.", remedy)


def _encode_names(
    found: dict[str, np.ndarray], declared: tuple[str, ...] | None, where: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    names: set[str] = set()
    for split, values in found.items():
        missing = np.array([value is None or value != value for value in values], dtype=bool)
        _refuse(missing, values, f"the {split} split of {where}", "missing", "Fill the label in or drop the row.")
        names.update(str(value) for value in values)
    classes = declared if declared is not None else tuple(sorted(names))
    number = {name: index for index, name in enumerate(classes)}
    encoded = {}
    for split, values in found.items():
        unknown = np.array([str(value) not in number for value in values], dtype=bool)
        _refuse(
            unknown,
            values,
            f"the {split} split of {where}",
            f"none of the declared classes {', '.join(classes)}",
            "Correct the label or declare the class.",
        )
        encoded[split] = np.array([number[str(value)] for value in values], dtype=np.int64)
    return encoded, classes
