"""What a recipe names as ``FILE.py:NAME``: a model, penalty, method or attack of the user's own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeGuard

from gracile.core.errors import InputError
from gracile.core.user_code import is_reference, load_name

log = logging.getLogger("gracile")


def is_own(name: object) -> TypeGuard[str]:
    """Whether a name in a recipe is of the user's own file."""
    return isinstance(name, str) and is_reference(name)


def own(name: str, what: str) -> Callable[..., Any]:
    """The function or class that a recipe names as ``FILE.py:NAME``; the file's code is run, and the log says so.

    Args:
        name: the file, as an absolute path or from the working directory, and the name in it.
        what: what it is taken for, in the singular ("model").

    Raises:
        InputError: no such file or name, or nothing that can be called.
    """
    # The loader says once per process that a file is run; each run's log says it too.
    log.info("running code of your own: the %s %s", what, name)
    found = load_name(name)
    if not callable(found):
        raise InputError(
            f"The {what} {name} is a {type(found).__name__}.", f"Name a function or class that makes the {what}."
        )
    return found
