"""A write that fails is one error that names what stands; real limits of the system, not imitations."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from gracile.core.errors import StorageError
from gracile.core.files import append_json_line, kept_json, write_text
from gracile.core.provenance import places_apart
from gracile.core.tensor_files import save_weights
from gracile.training import checkpoints


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond so many bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one_and_names_it(tmp_path: Path):
    path = tmp_path / checkpoints.CHECKPOINT
    checkpoints.save(path, {"w": torch.ones(10)})
    with (
        files_up_to(4096),
        pytest.raises(StorageError, match=r"was not written; the last good checkpoint is .*--resume") as caught,
    ):
        checkpoints.save(path, {"w": torch.ones(100_000)})
    assert str(path) in str(caught.value)
    assert torch.equal(checkpoints.load(path)["w"], torch.ones(10))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_first_checkpoint_that_does_not_fit_promises_nothing(tmp_path: Path):
    with files_up_to(4096), pytest.raises(StorageError) as caught:
        checkpoints.save(tmp_path / checkpoints.CHECKPOINT, {"w": torch.ones(100_000)})
    assert "last good" not in str(caught.value)
    assert "--resume" not in str(caught.value)


@pytest.mark.parametrize("write", [
    lambda folder: write_text(folder / "table.md", "x" * 10_000),
    lambda folder: append_json_line(folder / "metrics.jsonl", {"text": "x" * 10_000}),
], ids=["text", "row"])  # fmt: skip
def test_any_write_of_a_run_names_its_last_checkpoint(write, tmp_path: Path):
    checkpoints.save(tmp_path / checkpoints.CHECKPOINT, {"w": torch.ones(10)})
    with files_up_to(4096), pytest.raises(StorageError, match=r"the last good checkpoint is .*checkpoint\.safetensors"):
        write(tmp_path)


def test_a_model_file_that_does_not_fit_is_a_storage_error(tmp_path: Path):
    from gracile.shrinking import save_lean, shrink

    lean = shrink(nn.Sequential(nn.Linear(50, 200), nn.ReLU(), nn.Linear(200, 3)).eval(), torch.zeros(2, 50))
    with files_up_to(4096), pytest.raises(StorageError, match="was not written"):
        save_lean(lean, tmp_path / "lean.safetensors")


def test_what_a_json_file_holds_is_made_once(tmp_path: Path):
    made = []
    make = lambda: made.append(1) or {"value": 3}
    assert kept_json(tmp_path / "kept.json", make) == kept_json(tmp_path / "kept.json", make) == {"value": 3}
    assert made == [1]


def test_weights_are_written_with_their_header(tmp_path: Path):
    model = nn.Linear(3, 2)
    save_weights(model, tmp_path / "w.safetensors", {"by": "a test"})
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.metadata() == {"by": "a test"}
        torch.testing.assert_close(file.get_tensor("weight"), model.weight.detach())


def test_places_apart_are_told_in_words():
    here = {"commit": "0123456789abcdef", "processor": "one", "device": "cpu", "threads": 1}
    assert places_apart(here, here) == []
    there = {**here, "commit": "fedcba9876543210", "threads": 2}
    assert places_apart(there, here) == ["at commit fedcba987654", "with 2 threads"]
