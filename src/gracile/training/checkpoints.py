"""Checkpoints: one safetensors file of tensors and a JSON header, replaced atomically; nothing pickled is ever read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gracile.core.errors import StorageError
from gracile.core.files import CHECKPOINT as CHECKPOINT
from gracile.core.files import write_atomically
from gracile.core.tensor_files import header, read_tensors, reading

TENSOR = "tensor:"
DAMAGED = "Delete the checkpoint and start that run again, or restore a copy."


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a nested state of dictionaries, lists, JSON values and tensors.

    Args:
        path: replaced only once the new file is whole and on disk.
        state: keys may be strings or integers (an optimiser's are integers).

    Raises:
        StorageError: the disk is full or the folder cannot be written; the old file stands.
    """
    tensors: dict[str, Tensor] = {}
    told = json.dumps(_take_tensors(state, "", tensors))
    # safetensors wants contiguous tensors that share no memory; a header alone needs no tensor.
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(copies, temporary, metadata={"state": told}))


def load(path: Path) -> dict[str, Any]:
    """Read back what `save` wrote.

    Raises:
        StorageError: there is no such file, or it is damaged or not a checkpoint.
    """
    if not path.is_file():
        raise StorageError(f"There is no checkpoint {path}.", "Check the path, or start without --resume.")
    metadata, tensors = read_tensors(path, DAMAGED)
    state = header(metadata, "state", path, DAMAGED)
    if not isinstance(state, dict):
        raise StorageError(
            f"{path} is a safetensors file but no checkpoint of gracile.", "Name a run's checkpoint.safetensors."
        )
    with reading(path, DAMAGED):
        return _put_tensors(state, tensors)


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value
        return TENSOR + path
    if isinstance(value, dict):
        # JSON knows string keys only; the type is kept beside them.
        return {"dict": [[key, _take_tensors(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_take_tensors(item, f"{path}.{place}", tensors) for place, item in enumerate(value)]
    if isinstance(value, str) and value.startswith(TENSOR):
        raise ValueError(f"a state may not hold the string {value!r}")
    return value


def _put_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, str) and value.startswith(TENSOR):
        return tensors[value[len(TENSOR) :]]
    if isinstance(value, dict):
        return {key: _put_tensors(item, tensors) for key, item in value["dict"]}
    if isinstance(value, list):
        return [_put_tensors(item, tensors) for item in value]
    return value


def random_state() -> dict[str, Any]:
    """The state of torch's global generators, which dropout and the like draw from."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = list(torch.cuda.get_rng_state_all())
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Take up a state of `random_state`; devices that are not here are passed over."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
