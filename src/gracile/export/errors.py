"""What can go wrong only here."""

from __future__ import annotations

import importlib
from types import ModuleType

from gracile.core.errors import GracileError, MissingDependencyError


class ExportError(GracileError, RuntimeError):
    """A model that cannot be exported, or whose file computes something else."""


class Int8Warning(UserWarning):
    """int8 gained less, or cost more, than it should."""


def need(name: str) -> ModuleType:
    """Import an optional package.

    Args:
        name: such as ``onnxruntime``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"Export needs the package '{name.partition('.')[0]}', which cannot be imported ({error}).",
            "Install it with: pip install 'gracile[export]'",
        ) from error
