"""A run's network on its way to the Hugging Face hub, with a card made from what the run's folder holds."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate
from torch import nn

from gracile.core.console import told
from gracile.core.errors import InputError
from gracile.core.files import write_text
from gracile.core.version import VERSION
from gracile.deploy import Architecture, Candidate, save_pretrained
from gracile.deploy.hub import CARD, check_name, upload
from gracile.models import MODELS
from gracile.recipes import schema
from gracile.recipes.kinds.train import Settings
from gracile.recipes.settings import named_network
from gracile.recipes.trained import trained
from gracile.shrinking import Plan, plan, shrink
from gracile.shrinking.lean import recall
from gracile.training import evaluate

USE = """## Use
```python
import gracile

network = gracile.from_pretrained("{name}"{model})
network(x)  # {shape}
```
"""


@dataclass(frozen=True)
class Pushed:
    """What went to the hub.

    Attributes:
        name: the repository's.
        url: of its page; None where nothing was sent.
        files: what was sent, or written.
        folder: where they are, if they were asked for.
    """

    name: str
    url: str | None
    files: tuple[str, ...]
    folder: Path | None = None

    def __str__(self) -> str:
        files = ", ".join(self.files)
        if self.url is None:
            return f"{self.folder} holds {files}. Nothing was sent."
        return f'{self.url} holds {files}.\nIt comes back by gracile.from_pretrained("{self.name}").'

    def to_json(self) -> dict[str, Any]:
        """The same for a program."""
        folder = None if self.folder is None else str(self.folder)
        return {"name": self.name, "url": self.url, "files": list(self.files), "folder": folder}


def push_to_hub(
    source: Path | str | nn.Module,
    name: str,
    *,
    arm: str | None = None,
    seed: int | None = None,
    private: bool = False,
    license: str | None = None,
    token: str | None = None,
    folder: Path | str | None = None,
) -> Pushed:
    """Send a smaller network to the Hugging Face hub, from where `gracile.from_pretrained` gets it back.

    Args:
        source: a run's folder, whose network is shrunk here; or a network made by `gracile.shrink`.
        name: ``owner/name`` of the repository, which is made if there is none.
        arm: the run's arm; by default its first with a method.
        seed: the run's seed; by default its first.
        private: whether a repository that is made is private.
        license: as the hub names it, such as ``apache-2.0``, for the card.
        token: by default the one that ``hf auth login`` left.
        folder: write the files there and send nothing.

    Returns:
        What was sent, and where it is.

    Raises:
        InputError: no such run or arm, a network that was not made by `shrink`, or the hub refuses.
        StorageError: a file cannot be written.
    """
    if folder is None:
        check_name(name)
    with ExitStack() as stack:
        place = Path(folder) if folder is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if isinstance(source, nn.Module):
            save_pretrained(source, place)
            write_text(place / CARD, _card(name, license, "A network made smaller by gracile.", [], source))
        else:
            _of_run(Path(source), place, name, arm, seed, license)
        files = tuple(sorted(file.name for file in place.iterdir() if file.is_file()))
        if folder is not None:
            return Pushed(name, None, files, place)
        told.info("sending %s", ", ".join(files))
        return Pushed(name, upload(place, name, private=private, token=token), files)


def _of_run(run: Path, place: Path, name: str, arm: str | None, seed: int | None, license: str | None) -> None:
    """Shrink a run's network and write its files and its card."""
    found = trained(run, arm, seed)
    told.info("removing what is zero")
    made = plan(found.model, found.example, dead="fold")
    lean = shrink(found.model, found.example, dead="fold")
    recipe = schema.load(str(run / "recipe.toml"))
    settings = schema.parse(Settings, recipe.settings, "recipe.toml")
    architecture = _architecture(settings, found)
    assert found.data is not None
    save_pretrained(lean, place, architecture=architecture, classes=tuple(found.data.train.classes))
    rows = [
        {"network": form, "accuracy %": round(100 * evaluate(network, found.data.test).accuracy, 2),
         "parameters": size.parameters, "multiply-adds": size.macs}
        for form, network, size in (
            *([("dense, trained beside it", found.dense, made.before)] if found.dense is not None else []),
            ("this one", lean, made.after),
        )
    ]  # fmt: skip
    text = _story(run, recipe, found, made, rows)
    own = "" if architecture is not None else ", model=dense  # built as before it was shrunk"
    write_text(place / CARD, _card(name, license, text, rows, lean, found, own))


def _architecture(settings: Settings, found: Candidate) -> Architecture | None:
    """How the run's network is built; None where only code of the user's own can."""
    assert found.data is not None
    arm = next(
        name for name in settings.trained() if any(settings.folder_of(name, s) == found.name for s in settings.seeds)
    )
    model = settings.model_of(arm)
    name, known = named_network(model, found.data)
    if name not in MODELS:
        return None
    return Architecture(name, {**known, **model.options}, len(found.data.train.statistics()[0]))


def _story(run: Path, recipe: schema.Recipe, found: Candidate, made: Plan, rows: list[dict[str, Any]]) -> str:
    """What the card says of how the network came about."""
    assert found.data is not None
    data = found.data.test
    parts = [
        f"Trained by the recipe *{recipe.title}* (`{recipe.name}`, size {recipe.size}), arm and seed `{found.name}`; then channels that "
        f"are exactly zero were removed, which changes no output beyond rounding. {made.after.channels} of "
        f"{made.before.channels} channels are left.",
        "## What it does\n"
        + tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
        + f"\n\nAccuracy on the {len(data)} test samples of {data.name}, measured as the network was sent."
        + (f" {data.note}." if data.note else ""),
    ]
    for kept, title in (("attacked", "Under attack"), ("compressed", "Exported")):
        table = run / kept / found.name / "table.md"
        if table.is_file():
            parts.append(f"## {title}\n{table.read_text(encoding='utf-8').strip()}")
    result = run / "result.json"
    if result.is_file():
        notes = json.loads(result.read_text(encoding="utf-8")).get("notes", [])
        if notes:
            parts.append("## What a reader must know\n" + "\n".join(f"- {note}" for note in notes))
    parts.append(f"## The recipe\n```toml\n{(run / 'recipe.toml').read_text(encoding='utf-8').strip()}\n```")
    return "\n\n".join(parts)


def _card(
    name: str,
    license: str | None,
    text: str,
    rows: list[dict[str, Any]],
    network: nn.Module,
    found: Candidate | None = None,
    model: str = ", model=dense  # built as before it was shrunk",
) -> str:
    """The card: the hub's header, what was told, and how to use it."""
    from huggingface_hub import EvalResult, ModelCardData

    results = None
    if found is not None and found.data is not None and rows:
        kind = "image-classification" if len(found.data.train.input_shape) > 1 else "tabular-classification"
        results = [
            EvalResult(
                task_type=kind, dataset_type=found.data.test.name, dataset_name=found.data.test.name, dataset_split="test",
                metric_type="accuracy", metric_value=rows[-1]["accuracy %"], metric_name="accuracy %",
            )
        ]  # fmt: skip
    header = ModelCardData(
        license=license, library_name="gracile", tags=["gracile", "pytorch", "sparse", "pruned"], eval_results=results,
        model_name=name.rpartition("/")[2],
    )  # fmt: skip
    note = recall(network)
    if note is None:
        raise InputError(f"This {type(network).__name__} was not made by shrink.", "Shrink it first: gracile.shrink.")
    (shape, dtype), *_ = note["steps"][0]["inputs"]
    use = USE.format(name=name, model=model, shape=f"{dtype} ({', '.join(['n', *map(str, shape)])})")
    if found is not None and len(found.data.train.input_shape if found.data else ()) > 1:
        use += "\nIts inputs are images in [0, 1]; it standardises them itself.\n"
    return (
        f"---\n{header.to_yaml()}\n---\n\n# {name.rpartition('/')[2]}\n\n{text}\n\n{use}\nMade by gracile {VERSION}.\n"
    )
