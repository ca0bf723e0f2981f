"""Safetensors files: a network's weights are written as one, and what anybody may have written or damaged is read or refused in words."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gracile.core.errors import GracileError, InputError, StorageError
from gracile.core.files import write_atomically

# What to do about a file of a user's own that is none.
SAVE = "Save the state dict with safetensors.torch.save_file; pickles are not read."


@contextlib.contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Say that a file is damaged where the block cannot make sense of what it holds.

    What a file claims can break code in any way: a missing key, a number in place of a list, nesting without end. In the block
    nothing but the file decides, so whatever is raised there is its fault; the error itself stays as the cause.

    Args:
        path: the file.
        remedy: what to do about it.

    Raises:
        StorageError: anything but an error of gracile's own was raised in the block.
    """
    try:
        yield
    except GracileError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:200].rstrip(".")
        raise StorageError(f"{path} cannot be read: {type(error).__name__}: {why}.", remedy) from error


def read_tensors(
    path: Path, remedy: str, device: torch.device | str = "cpu"
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header and the tensors of a safetensors file; no more memory is taken than the file is long.

    Args:
        path: the file.
        remedy: what to do where it cannot be read.
        device: where the tensors go.

    Raises:
        StorageError: there is no such file, or it is no safetensors file.
    """
    if not path.is_file():
        raise StorageError(f"There is no file {path}.", "Give its path as seen from the working directory.")
    with reading(path, remedy), safe_open(path, framework="pt", device=str(device)) as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file)


def header(metadata: dict[str, str], key: str, path: Path, remedy: str) -> Any:
    """What a header holds as JSON under a key; None where it has none.

    Args:
        metadata: of `read_tensors`.
        key: of the header.
        path: the file, for the message.
        remedy: what to do where it cannot be read.

    Raises:
        StorageError: it is no JSON.
    """
    text = metadata.get(key)
    if text is None:
        return None
    with reading(path, remedy):
        return json.loads(text)


def load_weights(model: nn.Module, path: Path, remedy: str) -> None:
    """Lay a file's weights over a network's.

    Args:
        model: changed only where all of them fit.
        path: a safetensors file.
        remedy: what to do where it cannot be read.

    Raises:
        StorageError: there is no such file, or it cannot be read.
        InputError: the weights are another network's.
    """
    _, tensors = read_tensors(path, remedy)
    check_shapes(model, tensors, path)
    with reading(path, remedy):
        model.load_state_dict(tensors)


def check_shapes(model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Refuse what is not a network's state by its names and shapes.

    Args:
        model: the network.
        state: of a file, as `torch.nn.Module.state_dict` gives it.
        path: the file, for the message.

    Raises:
        InputError: it is another network's.
    """
    found, wanted = (
        {name: tuple(one.shape) for name, one in some.items() if isinstance(one, Tensor)}
        for some in (state, model.state_dict())
    )
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            raise InputError(
                f"The weights in {path} do not fit the network: '{name}' is {found.get(name, 'absent')} in the file and "
                f"{wanted.get(name, 'absent')} in the network.",
                "Use the network they were saved from.",
            )


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's plain state dict.

    Args:
        model: on any device.
        path: the file; replaced if there is one.
        metadata: for the file's header.

    Raises:
        StorageError: the file cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    header = None if metadata is None else dict(metadata)
    write_atomically(path, lambda temporary: save_file(state, temporary, metadata=header))
