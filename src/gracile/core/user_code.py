"""Code of the user's own, named as ``FILE.py:NAME`` on the command line and in recipes."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from gracile.core.console import told
from gracile.core.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import nn


def is_reference(text: str) -> bool:
    """Whether a text names something in a Python file: ``FILE.py:NAME``."""
    return text.rpartition(":")[0].endswith(".py")


def load_name(reference: str) -> object:
    """What a name in a Python file stands for. The file's code is run, which the log says.

    A file is run once in a process as long as it does not change, so that two names of one file belong to one module.
    Modules that lie beside the file can be imported from it, as when Python runs it.

    Args:
        reference: ``FILE.py:NAME``; a relative path starts at the working directory.

    Returns:
        The object: a function, a class, or whatever the file defines under this name.

    Raises:
        InputError: the text is no such reference, there is no such file, its code fails, or it does not define the
            name.
    """
    path, _, name = reference.rpartition(":")
    if not is_reference(reference) or not name.isidentifier():
        raise InputError(f"'{reference}' names nothing in a Python file.", "Write FILE.py:NAME, such as net.py:make.")
    module = _module(Path(path))
    if not hasattr(module, name):
        # What the file imported is not meant; what it defines is.
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        remedy = nearest(name, own) if own else f"Define {name} in it."
        raise InputError(f"{path} defines no '{name}'.", remedy)
    return getattr(module, name)


def imported(reference: str) -> object:
    """What ``package.module:NAME`` stands for, of a module that is installed or lies in the working directory.

    Raises:
        InputError: it cannot be imported.
    """
    module, _, name = reference.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{reference} cannot be imported: {error}.",
            "Name it as FILE.py:NAME, or a function of a module in this folder or installed.",
        ) from error


def taken(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given arguments that a function takes, by name; all of them where it takes any."""
    parameters = inspect.signature(function).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return dict(given)
    return {key: value for key, value in given.items() if key in parameters}


def known_of(shape: Sequence[int], num_classes: int | None = None) -> dict[str, Any]:
    """What data fix of a network, by the names its function may take.

    Args:
        shape: of an input: ``(features,)`` or ``(channels, height, width)``.
        num_classes: labels; None where nothing tells.

    Returns:
        ``num_classes`` where it is known, and ``in_features``, or ``in_channels`` and ``image_size``, the pair (height, width); of
        inputs of another shape nothing.
    """
    inputs: dict[str, Any] = {}
    if len(shape) == 1:
        inputs = {"in_features": shape[0]}
    elif len(shape) == 3:
        inputs = {"in_channels": shape[0], "image_size": tuple(shape[1:])}
    return inputs if num_classes is None else {"num_classes": num_classes, **inputs}


def made(reference: str, known: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> nn.Module:
    """The network that a user's function gives.

    Args:
        reference: ``FILE.py:FUNCTION`` or ``package.module:FUNCTION``; the code is run.
        known: of which it is given what it takes by name.
        options: what it is given besides.

    Raises:
        InputError: no such function, it fails, or what it returns is no module.
    """
    from torch import nn

    make = load_name(reference) if is_reference(reference) else imported(reference)
    if not callable(make):
        raise InputError(f"{reference} is a {type(make).__name__}.", "Name a function that returns the network.")
    try:
        model = make(**taken(make, known), **(options or {}))
    except Exception as error:
        raise InputError(f"{reference} failed: {type(error).__name__}: {error}.", _how_called(known)) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{reference} returned {type(model).__name__}.", "Return a torch.nn.Module.")
    return model


def _how_called(known: Mapping[str, Any]) -> str:
    """A sentence on what a function that makes a network is given."""
    told = [f"{name}, the pair (height, width)" if name == "image_size" else name for name in known]
    asked = f"with what it takes of {', '.join(told)}" if told else "without arguments"
    rest = "" if "num_classes" in known else " Give what else it needs, such as num_classes, a default."
    return f"It is called {asked}, and returns the network.{rest}"


def _module(file: Path) -> ModuleType:
    if not file.is_file():
        raise InputError(f"There is no file {file}.", "Give its path as seen from the working directory.")
    place = file.absolute()
    mark = hashlib.sha256(str(place).encode() + b"\0" + place.read_bytes()).hexdigest()[:16]
    name = f"_gracile_{file.stem}_{mark}"
    if name in sys.modules:
        return sys.modules[name]
    told.info("running the code of %s", file)
    if str(place.parent) not in sys.path:
        sys.path.insert(0, str(place.parent))
    spec = importlib.util.spec_from_file_location(name, place, loader=_Uncached(name, str(place)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and the like look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(
            f"{file} cannot be imported: {_place(error, place)}{type(error).__name__}: {error}.",
            "Correct it; what only a script should do belongs under `if __name__ == '__main__':`.",
        ) from error
    return module


class _Uncached(SourceFileLoader):
    """Reads the source itself: bytecode counts as current for a file that changed within a second and is as long as before."""

    def path_stats(self, path: str) -> NoReturn:
        """There is nothing by which a kept one could be told to be current."""
        raise OSError(path)


def _place(error: BaseException, file: Path) -> str:
    """The last line of the file that was being run, as ``line 3: ``."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    # A file that is no Python never got as far as a frame; its error names the line itself.
    return f"line {lines[-1]}: " if lines else ""
