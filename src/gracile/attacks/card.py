"""A network's robustness and leanness in one row: RobustBench's fields, and what it costs beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gracile.attacks.evaluation import Robustness
from gracile.core.errors import InputError
from gracile.core.files import write_atomically


@dataclass(frozen=True)
class Cost:
    """What a network costs; None where it was not measured.

    Attributes:
        zeros: share of zero weights, percent.
        parameters: weights that are stored, those that are zero included.
        multiply_adds: of one sample's pass.
        bytes: of the file it is shipped as.
        latency: median milliseconds of a pass of one sample.
    """

    zeros: float | None = None
    parameters: int | None = None
    multiply_adds: int | None = None
    bytes: int | None = None
    latency: float | None = None


@dataclass(frozen=True)
class Card:
    """What RobustBench's ``model_info`` files hold, and after it what is reported here besides.

    Attributes:
        name: of the network.
        architecture: as the reader knows it, such as ``ResNet-18``.
        dataset: likewise.
        eps: radius of the ball, as RobustBench writes it.
        clean_acc: accuracy in percent.
        autoattack_acc: accuracy under AutoAttack, None where it was not run.
        worst_acc: share of samples, percent, that no attack broke.
        samples: attacked.
        norm: of the ball.
        number_forward_passes: fresh passes each answer is the mean of.
        gradient_passes: passes each gradient is the mean of.
        cost: see `Cost`.
        warnings: signs that the numbers claim too much.
        link: of the paper; this and what follows is as RobustBench has it, for the user to fill.
        authors: of the paper.
        venue: of the paper.
        additional_data: whether more than the data set was trained on.
        reported: robust accuracy in percent that the paper reports.
        footnote: what else a reader must know.
    """

    name: str
    architecture: str
    dataset: str
    eps: str
    clean_acc: float
    autoattack_acc: float | None
    worst_acc: float
    samples: int
    norm: str
    number_forward_passes: int
    gradient_passes: int
    cost: Cost
    warnings: tuple[str, ...]
    link: str | None = None
    authors: str | None = None
    venue: str | None = None
    additional_data: bool = False
    reported: float | None = None
    footnote: str | None = None

    def to_json(self) -> dict[str, Any]:
        """One flat object: RobustBench's fields as text where it has text, ``unreliable`` where something warned."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "cost"}
        for name in ("clean_acc", "autoattack_acc", "reported"):
            found[name] = None if found[name] is None else f"{found[name]:.2f}"
        return {**found, **asdict(self.cost), "warnings": list(self.warnings), "unreliable": bool(self.warnings)}

    def row(self) -> dict[str, str]:
        """The same as a row of a table, by heading; empty where nothing was measured."""
        cost = self.cost
        return {
            "network": self.name,
            "clean %": f"{self.clean_acc:.2f}",
            "AutoAttack %": _written(self.autoattack_acc, ".2f"),
            "robust %": f"{self.worst_acc:.2f}",
            "zeros %": _written(cost.zeros, ".2f"),
            "parameters": _written(cost.parameters, ","),
            "multiply-adds": _written(cost.multiply_adds, ","),
            "bytes": _written(cost.bytes, ","),
            "latency ms": _written(cost.latency, ".3f"),
        }


def card(
    found: Robustness, *, name: str, architecture: str, dataset: str, cost: Cost | None = None, **more: Any
) -> Card:
    """Make a card of an evaluation.

    Args:
        found: of `gracile.attacks.evaluate`.
        name: of the entry, as `Card` has it.
        architecture: in the table's words.
        dataset: the network was trained and attacked on.
        cost: what the network costs.
        more: other fields of `Card` that are the user's: link, authors, venue, additional_data, reported, footnote.

    Raises:
        InputError: a field that `Card` does not have or that is measured.
    """
    own = ("link", "authors", "venue", "additional_data", "reported", "footnote")
    if unknown := set(more) - set(own):
        raise InputError(f"A card has no field '{min(unknown)}' to fill in.", f"Choose among {', '.join(own)}.")
    under = {score.name: score.percent for score in found.scores}
    return Card(
        name=name, architecture=architecture, dataset=dataset, eps=_fraction(found.eps), clean_acc=under["clean"],
        autoattack_acc=under.get("autoattack"), worst_acc=under["worst"], samples=found["clean"].samples, norm=found.norm,
        number_forward_passes=found.judged, gradient_passes=found.draws, cost=cost or Cost(), warnings=found.warnings, **more,
    )  # fmt: skip


def save_examples(found: Robustness, x: Tensor, y: Tensor, file: Path) -> None:
    """Write the adversarial examples of an evaluation, beside the samples they come from, as safetensors.

    Args:
        found: of `gracile.attacks.evaluate` on `x` and `y`.
        x: (n, ...), in [0, 1].
        y: int64 (n,).
        file: gets the tensors ``clean``, ``adversarial`` and ``labels``.

    Raises:
        InputError: the evaluation holds no examples, or those of other samples.
    """
    if found.examples is None or found.examples.shape != x.shape:
        raise InputError(
            "The evaluation holds no adversarial examples of these samples.", "Pass what evaluate was given."
        )
    tensors = {"clean": x, "adversarial": found.examples, "labels": y}
    kept = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
    header = {"eps": repr(found.eps), "norm": found.norm, "seed": str(found.seed)}
    write_atomically(file, lambda part: save_file(kept, part, metadata=header))


def _written(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _fraction(eps: float) -> str:
    """``8/255`` where it is one, as RobustBench writes it; else the number."""
    above = eps * 255
    return f"{round(above)}/255" if eps and abs(above - round(above)) < 1e-6 else f"{eps:g}"
