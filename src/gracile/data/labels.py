"""Labels as they stand in files -> class numbers 0 .. k-1 and class names."""

from __future__ import annotations

import numpy as np

from gracile.core.errors import DataError
from gracile.data.source import row_name

NUMBER_CLASSES = "Number the classes from 0 on, or write their names as text."


def encode(
    found: dict[str, np.ndarray], declared: tuple[str, ...] | None, where: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Turn the labels of all splits into class numbers.

    Integers are class numbers as they stand; text is a class name, and the names in alphabetical order are the classes.

    Args:
        found: split to (n,) labels: integers, whole floats, booleans or strings; None or NaN stands for a missing one.
        declared: the class names where the source declares them.
        where: the source, for messages.

    Returns:
        split to (n,) int64, and the class names.

    Raises:
        DataError: a label is missing, negative, not an integer, or outside the declared classes.
    """
    if any(values.dtype.kind in "OUS" for values in found.values()):
        return _encode_names(found, declared, where)
    numbers = {split: _whole_numbers(values, f"the {split} split of {where}") for split, values in found.items()}
    highest = max((int(values.max()) for values in numbers.values() if len(values)), default=-1)
    if declared is None:
        rows = sum(map(len, numbers.values()))
        if highest >= max(rows, 2):
            raise DataError(
                f"The labels of {where} go up to {highest} with only {rows} rows: these are not class numbers.",
                "Name the label column with label=. " + NUMBER_CLASSES,
            )
        declared = tuple(str(number) for number in range(highest + 1))
    for split, values in numbers.items():
        _refuse(
            values >= len(declared),
            values,
            f"the {split} split of {where}",
            f"outside the declared classes 0 to {len(declared) - 1}",
            "Correct the label or declare the class.",
        )
    return numbers, declared


def _whole_numbers(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind == "f":
        _refuse(np.isnan(values), values, where, "missing", "Fill the label in or drop the row.")
        _refuse(values != np.floor(values), values, where, "not an integer", NUMBER_CLASSES)
    elif values.dtype.kind not in "iub":
        raise DataError(f"The labels of {where} are of type {values.dtype}, not integers.", NUMBER_CLASSES)
    # Compared before the cast, which would wrap values beyond 63 bits.
    _refuse(values.astype(np.float64) >= 2.0**63, values, where, "no class number", NUMBER_CLASSES)
    numbers = values.astype(np.int64)
    _refuse(numbers < 0, numbers, where, "negative", NUMBER_CLASSES)
    return numbers


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
