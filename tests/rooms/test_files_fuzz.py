"""Damaged files of runs and networks: lean files, plans, weights, checkpoints, estimators, hub folders, recipes.

Each is damaged twice over: in its bytes, and by a hand that keeps the file whole and changes what it says.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import gracile
from gracile.core import tensor_files
from gracile.core.errors import GracileError, StorageError
from gracile.deploy import Architecture, save_pretrained
from gracile.layerwise import load as load_estimator
from gracile.recipes import load as load_recipe
from gracile.recipes import schema, shipped
from gracile.recipes.kinds import kind
from gracile.shrinking import apply_plan, load_lean, plan, save_lean, save_plan, shrink
from gracile.training import checkpoints, fit
from tests.conftest import make_blobs
from tests.fuzz import MUTATIONS, bytes_of, nested, survives, tampered


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))


def sparse() -> nn.Sequential:
    """The same with two channels that nobody reads."""
    made = network().eval()
    with torch.no_grad():
        made[4].weight.view(3, 6, 36)[:, :2] = 0
    return made


EXAMPLE = torch.zeros(2, 1, 8, 8)


def lean(folder: Path) -> tuple[Path, Callable[[], object]]:
    save_lean(shrink(sparse(), EXAMPLE), folder / "lean.safetensors")
    return folder / "lean.safetensors", lambda: load_lean(network(), folder / "lean.safetensors")(EXAMPLE)


def cut(folder: Path) -> tuple[Path, Callable[[], object]]:
    save_plan(plan(sparse(), EXAMPLE), folder / "plan.json")
    return folder / "plan.json", lambda: apply_plan(sparse(), folder / "plan.json")


def weights(folder: Path) -> tuple[Path, Callable[[], object]]:
    save_file(network().state_dict(), folder / "w.safetensors")
    return folder / "w.safetensors", lambda: tensor_files.load_weights(network(), folder / "w.safetensors", "Mend it.")


def resumed(folder: Path, epochs: int) -> object:
    trained = network()
    split = gracile.RVSM(trained, "l0", lam=1e-6, beta=0.1)
    return fit(
        trained, make_blobs(), epochs=epochs, batch_size=96, lr=0.01, sparsifier=split, folder=folder, resume=True
    )


def checkpoint(folder: Path) -> tuple[Path, Callable[[], object]]:
    resumed(folder, 1)
    return folder / "checkpoint.safetensors", lambda: resumed(folder, 2)


def estimator(folder: Path) -> tuple[Path, Callable[[], object]]:
    from gracile.layerwise import ELMClassifier

    x, y = np.random.default_rng(0).random((40, 5)), np.arange(40) % 3
    ELMClassifier(8).fit(x, y).save(folder / "elm.safetensors")
    return folder / "elm.safetensors", lambda: load_estimator(folder / "elm.safetensors")


def pretrained(folder: Path) -> tuple[Path, Callable[[], object]]:
    shape = {"image_size": 8, "num_classes": 3, "in_channels": 1}
    made = shrink(gracile.models.mlp(**shape, widths=(6,)), EXAMPLE)
    save_pretrained(made, folder, architecture=Architecture("mlp", {**shape, "widths": [6]}))
    return folder / "config.json", lambda: gracile.from_pretrained(folder)


def recipe(folder: Path) -> tuple[Path, Callable[[], object]]:
    (folder / "mine.toml").write_text(shipped()["digits"].read_text())

    def read() -> object:
        found = load_recipe(str(folder / "mine.toml"))
        return schema.parse(kind(found.kind).Settings, found.settings, "the recipe")

    return folder / "mine.toml", read


READERS = {
    "lean": lean,
    "plan": cut,
    "weights": weights,
    "checkpoint": checkpoint,
    "estimator": estimator,
    "pretrained": pretrained,
    "recipe": recipe,
}
# What of a file is a nested value, read and written by these.
JSON_KEYS = ("gracile", "state", "parameters", "fitted")


def told(file: Path) -> Any:
    """What a file says beside its tensors."""
    if file.suffix == ".json":
        return json.loads(file.read_text())
    if file.suffix == ".toml":
        import tomllib

        return tomllib.loads(file.read_text())
    with safe_open(file, framework="pt") as opened:
        return {key: json.loads(text) if key in JSON_KEYS else text for key, text in opened.metadata().items()}


def tamper(file: Path, seed: str) -> Callable[[int], None]:
    """Damages what a file says, and leaves it a whole file of its kind."""
    whole, draw = told(file), random.Random(seed)
    tensors = {}
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118

    def damage(number: int) -> None:
        changed = tampered(whole, draw)
        if file.suffix == ".json":
            file.write_text(_json(changed))
        elif file.suffix == ".toml":
            file.write_text(_toml(changed))
        else:
            header = {str(key): one if isinstance(one, str) else _json(one) for key, one in changed.items()}
            kept = dict(tensors)
            if draw.random() < 0.3:
                name = draw.choice(list(kept))
                match draw.randrange(4):
                    case 0:
                        del kept[name]
                    case 1:
                        kept[name] = kept[name].flatten()[:1].clone()
                    case 2:
                        kept[name] = (kept[name] > 0).contiguous()
                    case _:
                        kept["more"] = torch.zeros(2, 0)
            save_file(kept, file, metadata=header)

    return damage


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 100_000


def _toml(value: Any) -> str:
    try:
        return tomli_w.dumps(value)
    except (TypeError, ValueError, RecursionError, AttributeError):
        return "x = " + "[" * 100_000


@pytest.mark.parametrize("reader", READERS)
def test_damaged_bytes_are_read_or_refused_in_words(reader: str, tmp_path: Path) -> None:
    file, read = READERS[reader](tmp_path)
    assert survives(read, bytes_of(file, reader)) > 0


@pytest.mark.parametrize("reader", sorted(READERS.keys() - {"weights"}))
def test_what_was_tampered_with_is_read_or_refused_in_words(reader: str, tmp_path: Path) -> None:
    file, read = READERS[reader](tmp_path)
    assert survives(read, tamper(file, reader)) > MUTATIONS // 4


@pytest.mark.parametrize("reader", READERS)
def test_what_was_not_damaged_is_read(reader: str, tmp_path: Path) -> None:
    _, read = READERS[reader](tmp_path)
    read()


def rewritten(file: Path, key: str, change: Callable[[Any], None]) -> None:
    """A header changed in one place."""
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    value = json.loads(metadata[key])
    change(value)
    save_file(tensors, file, metadata={**metadata, key: json.dumps(value)})


def test_a_lean_file_that_claims_a_huge_input_is_refused_before_it_is_made(tmp_path: Path) -> None:
    file, read = lean(tmp_path)
    rewritten(file, "gracile", lambda note: note["steps"][0]["inputs"][0][0].__setitem__(1, 2**30))
    with pytest.raises(StorageError, match=r"lean\.safetensors cannot be read: .*elements"):
        read()


def test_an_estimators_file_puts_nothing_but_what_was_fitted_on_the_object(tmp_path: Path) -> None:
    file, read = estimator(tmp_path)
    rewritten(file, "fitted", lambda fitted: fitted["items"].append(["predict", 1]))
    with pytest.raises(StorageError, match="'predict', which no estimator has"):
        read()


def test_a_refused_checkpoint_leaves_the_records_as_they_are(tmp_path: Path) -> None:
    file, read = checkpoint(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    state = checkpoints.load(file)
    state["position"]["epoch"] = "one"
    checkpoints.save(file, state)
    with pytest.raises(StorageError, match="Delete the checkpoint"):
        read()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_nesting_without_end_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text("title = " + "[" * 50_000)
    with pytest.raises(GracileError, match="not valid TOML"):
        load_recipe(str(tmp_path / "deep.toml"))
    assert nested(3) == [[[[]]]]


def test_mutations_differ() -> None:
    draw, value = random.Random(0), {"a": [1, 2, {"b": "c"}], "d": {"e": 0.5}}
    assert len({_json(tampered(value, draw)) for _ in range(100)}) > 60
