"""The page of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RESULTS = ("exact", "whole", "other function", "refused", "broken", "timed out")


def page(rows: Sequence[Mapping[str, Any]], libraries: Mapping[str, str]) -> str:
    return ""
