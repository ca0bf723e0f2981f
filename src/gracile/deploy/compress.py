"""Shrink a sparse network, export it, quantise it, and measure what each step bought."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gracile.attacks import Card, Cost, Robustness, card
from gracile.attacks.victim import attacking
from gracile.core.console import told
from gracile.core.errors import InputError
from gracile.core.files import write_json, write_text
from gracile.core.provenance import environment
from gracile.core.runs import check_results
from gracile.data import Dataset, Splits
from gracile.data.batching import some
from gracile.data.dataset import check_data
from gracile.deploy import cards
from gracile.deploy.attack import attack_forms, draw
from gracile.deploy.widths import candidates, faster
from gracile.export import Exported, Int8Warning, LatencyTable, accuracy, export_onnx, latency_table
from gracile.export.latency import check_timing
from gracile.export.onnx_file import check_int8
from gracile.models import draws_noise, set_noise
from gracile.shrinking import Plan, plan, save_lean, shrink
from gracile.shrinking.multiples import BLOCK

INT8 = "shrunk + int8"
SHRUNK = ("shrunk", INT8)
NOISE = (
    "the network draws Gaussian noise; it is off in all that is made and measured here, because noise scaled over channels is "
    "another noise with fewer of them: `gracile attack` tells what stands with it"
)
NOTHING = "no channel is zero as a whole, so nothing could be removed: train with RGSM and grouping = 'coupled'"
KEPT = (
    f"convolutions keep channels in multiples of {BLOCK}, which is faster here; multiple_of=1 removes all that can go"
)
UNSEEN = "there are no validation data, so int8 was accepted without looking at its accuracy"


@dataclass(frozen=True, eq=False)
class Compressed:
    """What was made and measured.

    Attributes:
        model: the smaller network, in evaluation mode.
        plan: what was removed.
        exported: the file of the smaller network.
        table: latencies and sizes of every form: dense, sparse, shrunk, shrunk + int8.
        accuracies: percent, by form and split (``validation %``, ``test %``, ``robust %``).
        notes: what a reader must know.
        robust: what attacks found, by form.
        cards: robustness and cost in one row, by form, where they were attacked.
        folder: where the files are.
    """

    model: nn.Module
    plan: Plan
    exported: Exported
    table: LatencyTable
    accuracies: dict[str, dict[str, float]]
    notes: tuple[str, ...]
    robust: dict[str, Robustness]
    cards: dict[str, Card]
    folder: Path

    def __str__(self) -> str:
        notes = "\n".join(f"- {note}" for note in self.notes)
        columns = {form: {name: f"{value:.2f}" for name, value in row.items()} for form, row in self.accuracies.items()}
        for form, row in columns.items():
            row["parameters"] = f"{(self.plan.after if form in SHRUNK else self.plan.before).parameters:,}"
        row = cards.one_row_each(self.cards.values()) if self.cards else ""
        parts = [self.plan.describe(), str(self.exported), self.table.format(columns), row, notes]
        return "\n\n".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """The same for a file."""
        size = lambda counted: {key: getattr(counted, key) for key in ("channels", "macs", "parameters")}
        return {
            "before": size(self.plan.before),
            "after": size(self.plan.after),
            "exported": self.exported.to_json(),
            "accuracy": {
                form: {name: round(value, 2) for name, value in row.items()} for form, row in self.accuracies.items()
            },
            "robust": {form: found.to_json() for form, found in self.robust.items()},
            "cards": {form: made.to_json() for form, made in self.cards.items()},
            "measured": self.table.to_json(),
            "notes": list(self.notes),
        }


def compress(
    model: nn.Module,
    example: Tensor,
    data: Splits | None = None,
    *,
    dense: nn.Module | None = None,
    multiple_of: int | None = None,
    int8: bool = False,
    max_drop: float = 1.0,
    weight_bits: int = 7,
    calibration: int = 512,
    eps: float | None = None,
    robust_samples: int = 200,
    batch_sizes: Sequence[int] = (1, 16),
    threads: Sequence[int] = (1, 2),
    rounds: int = 15,
    folder: Path | str = "compressed",
    name: str = "",
    note: str = "",
) -> Compressed:
    """Remove a network's dead channels, export it to ONNX and int8, and measure each form.

    For the single steps see `gracile.shrink`, `gracile.export_onnx` and `gracile.export.latency_table`. Needs the extra `export`.
    Networks are left as they are; of one that draws noise a copy without it is made smaller and measured.

    Args:
        model: with exact zeros, such as the `sparse_model` of a splitting.
        example: (2, ...) inputs.
        data: calibrates int8 and tells accuracies; without, there is neither.
        dense: the network's twin without zeros, measured beside it.
        multiple_of: convolutions keep channels in multiples of this; 1 removes all that can go. None times 1 and 4, which onnxruntime's
            fast layout wants, and takes 4 where that is faster by a tenth at least, at the first of `batch_sizes` and `threads`.
        int8: quantise too.
        max_drop: points of accuracy int8 may cost on the validation split.
        weight_bits: 7 or 8, see `gracile.export_onnx`.
        calibration: training samples that calibrate int8.
        eps: measure robust accuracy in this l-inf ball; None leaves it out.
        robust_samples: samples attacked, 0 for all.
        batch_sizes: that are timed, see `gracile.export.latency_table`.
        threads: that are timed, each with each batch size.
        rounds: turns each file gets in the timing.
        folder: for ``lean.safetensors``, ``lean.onnx``, ``lean.int8.onnx``, ``table.md`` and ``compress.json``, and with `eps` for
            each form's ``FORM.card.json`` and ``FORM.examples.safetensors``; what stands there is replaced.
        name: of the network, for ``compress.json``.
        note: what a reader of the table must know beforehand.

    Returns:
        The smaller network in evaluation mode, with what was removed, and latencies, sizes and accuracies in per cent of every form;
        printing it gives the tables.

    Raises:
        InputError: int8 or `eps` without data, fewer than one sample to calibrate with, an option out of its range, or a `folder` that is
            a run's own; whatever shrinking and exporting refuse.
        MissingDependencyError: the packages that export are not installed.
        StorageError: the files cannot be written; that is tried before anything is made.
    """
    if data is not None:
        check_data(data)
    if int8 and data is None:
        raise InputError("int8 needs data to calibrate on.", "Pass data=, or leave int8= out.")
    if eps is not None and data is None:
        raise InputError("Robust accuracy needs labelled data.", "Pass data=, or leave eps= out.")
    if calibration < 1:
        raise InputError(f"int8 cannot be calibrated with {calibration} samples.", "Give one at least, such as 512.")
    check_int8(max_drop, weight_bits)
    check_timing(batch_sizes, threads, rounds)
    if eps is not None and data is not None:
        x, y = draw(_attacked(data), robust_samples)
        with attacking(model, x[:2], y[:2], eps=eps):
            # What no attack could begin with is refused before anything is made.
            pass
    out, notes = Path(folder), [note] if note else []
    check_results(out)
    if any(draws_noise(one) for one in (dense, model) if one is not None):
        notes.append(NOISE)
    model, dense = _still(model), None if dense is None else _still(dense)
    told.info("removing what is zero")
    if multiple_of is None:
        multiple_of = _faster(model, example, batch_sizes[:1], threads[:1])
        notes += [KEPT] if multiple_of > 1 else []
    removed = plan(model, example, dead="fold", multiple_of={"conv": multiple_of})
    if removed.after.macs == removed.before.macs:
        notes.append(NOTHING)
    lean = shrink(model, example, dead="fold", multiple_of={"conv": multiple_of})
    validation = data.validation if data and len(data.validation) else None
    if int8 and validation is None:
        notes.append(UNSEEN)
    floats = {form: one for form, one in {"dense": dense, "sparse": model}.items() if one is not None}
    with tempfile.TemporaryDirectory(prefix="gracile-") as temporary:
        files = {form: Path(temporary) / f"{form}.onnx" for form in floats}
        for form, file in files.items():
            told.info("exporting the %s network", form)
            export_onnx(floats[form], example, file, verbose=False)
        files["shrunk"] = out / "lean.onnx"
        if int8 and data is not None:
            told.info("exporting the shrunk network, quantising it with %d samples", calibration)
            files[INT8] = out / "lean.int8.onnx"
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", Int8Warning)
                exported = export_onnx(
                    lean, example, files[INT8], some(data.train, calibration), validation=validation, max_drop=max_drop,
                    weight_bits=weight_bits, float_path=files["shrunk"], verbose=False,
                )  # fmt: skip
            notes += [str(one.message) for one in caught if issubclass(one.category, Int8Warning)]
        else:
            told.info("exporting the shrunk network")
            exported = export_onnx(lean, example, files["shrunk"], validation=validation, verbose=False)
            # That of an earlier call belongs to other weights.
            (out / "lean.int8.onnx").unlink(missing_ok=True)
        cards.forget_cards(out)
        save_lean(lean, out / "lean.safetensors")
        accuracies = _accuracies(files, {"validation %": validation, "test %": data.test if data else None})
        robust: dict[str, Robustness] = {}
        made: dict[str, Card] = {}
        if eps is not None and data is not None:
            told.info("attacking each of them")
            robust, warned = attack_forms(
                floats | {"shrunk": lean}, files.get(INT8), _attacked(data), eps=eps, samples=robust_samples
            )
            notes += warned
            for form, found in robust.items():
                accuracies[form]["robust %"] = found["worst"].percent
        told.info("measuring latencies, batches of %s", " and ".join(map(str, batch_sizes)))
        table = latency_table(files, example, batch_sizes=batch_sizes, threads=threads, rounds=rounds)
    if robust and data is not None:
        made = _cards(robust, floats | {"shrunk": lean}, table, data.train.name)
    result = Compressed(lean, removed, exported, table, accuracies, tuple(dict.fromkeys(notes)), robust, made, out)
    with cards.shown_if_lost(result):
        if made and data is not None:
            cards.write_cards(out, made, robust, *draw(_attacked(data), robust_samples))
        write_text(out / "table.md", f"{result}\n")
        write_json(out / "compress.json", {"name": name, **result.to_json(), "environment": environment()})
    return result


def _attacked(data: Splits) -> Dataset:
    """The split that tells robust accuracy."""
    return data.test if len(data.test) else data.validation


def _still(network: nn.Module) -> nn.Module:
    """The network without its noise: itself where it draws none, else a copy, for the caller's own goes on drawing."""
    if not draws_noise(network):
        return network
    network = copy.deepcopy(network)
    set_noise(network, "off")
    return network


def _cards(
    robust: Mapping[str, Robustness], networks: Mapping[str, nn.Module], table: LatencyTable, data: str
) -> dict[str, Card]:
    """A card of each form; latency is that of one sample on the fewest threads, where that was timed."""
    files = {one.name: one for one in table.files}
    found = {}
    for form, one in robust.items():
        # Quantising keeps the parameters of the shrunk network.
        network, file = networks.get(form, networks["shrunk"]), files[form]
        times = sorted((row.threads, row.p50) for row in table.rows if row.name == form and row.batch == 1)
        spent = Cost(
            zeros=100 * file.zeros,
            parameters=cards.parameters(network),
            multiply_adds=file.macs,
            bytes=file.bytes,
            latency=times[0][1] if times else None,
        )
        found[form] = card(one, name=form, architecture=cards.architecture(network), dataset=data, cost=spent)
    return found


def _faster(model: nn.Module, example: Tensor, batch_sizes: Sequence[int], threads: Sequence[int]) -> int:
    """The multiple of channels that convolutions are faster with, by measuring."""
    leans = candidates(model, example)
    if len(leans) == 1:
        return 1
    told.info("timing channels in multiples of 1 and %d", BLOCK)
    with tempfile.TemporaryDirectory(prefix="gracile-") as folder:
        files = {str(number): Path(folder) / f"{number}.onnx" for number in leans}
        for number, lean in leans.items():
            export_onnx(lean, example, files[str(number)], verbose=False)
        table = latency_table(
            files, example, batch_sizes=batch_sizes, threads=threads, rounds=9, memory=False, progress=False
        )
    return faster({int(row.name): row.p10 for row in table.rows})


def _accuracies(files: Mapping[str, Path], splits: Mapping[str, Dataset | None]) -> dict[str, dict[str, float]]:
    """Accuracy in percent of each file on each split that has samples."""
    found: dict[str, dict[str, float]] = {form: {} for form in files}
    for title, split in splits.items():
        if split is not None and len(split):
            told.info("measuring accuracy, %s", title)
            for form, file in files.items():
                found[form][title] = accuracy(file, split).percent
    return found
