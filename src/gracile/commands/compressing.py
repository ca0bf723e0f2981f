"""Shrink, export and measure one network: what `gracile compress` does once it knows on what."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gracile.attacks import Robustness
from gracile.commands import attacking
from gracile.commands.subjects import Subject
from gracile.core.errors import InputError
from gracile.core.files import write_json, write_text
from gracile.core.provenance import environment
from gracile.data.batching import some
from gracile.export import Exported, Int8Warning, LatencyTable, accuracy, export_onnx, latency_table
from gracile.models import draws_noise, set_noise
from gracile.shrinking import plan, save_lean, shrink

NOISE = (
    "the network draws Gaussian noise; it is off in all that is made and measured here, because noise scaled over channels is "
    "another noise with fewer of them: `gracile attack` tells what stands with it"
)


@dataclass(frozen=True)
class Compressed:
    """What was made and measured.

    Attributes:
        plan: what was removed, as text.
        exported: the file of the smaller network.
        table: latencies and sizes.
        accuracies: variant to column to text.
        notes: what a reader must know.
        robust: what attacks found, by variant.
    """

    plan: str
    exported: Exported
    table: LatencyTable
    accuracies: dict[str, dict[str, str]]
    notes: tuple[str, ...]
    robust: dict[str, Robustness]

    def __str__(self) -> str:
        notes = "\n".join(f"- {note}" for note in self.notes)
        parts = [self.plan, str(self.exported), self.table.format(self.accuracies), notes]
        return "\n\n".join(part for part in parts if part)


def compress(
    subject: Subject,
    out: Path,
    *,
    int8: bool,
    max_drop: float = 1.0,
    weight_bits: int = 7,
    calibration: int = 512,
    eps: float | None = None,
    robust_samples: int = 200,
    batch_sizes: Sequence[int] = (1, 16),
    threads: Sequence[int] = (1, 2),
    rounds: int = 15,
) -> Compressed:
    """Shrink, export, quantise and measure.

    Args:
        subject: the network and its data.
        out: the folder for all files; what stands there is replaced.
        int8: quantise too.
        max_drop: points of accuracy int8 may cost on the validation data.
        weight_bits: 7 or 8, see `gracile.export_onnx`.
        calibration: training samples that calibrate it.
        eps: measure robust accuracy in this l-inf ball; None leaves it out.
        robust_samples: samples attacked, 0 for all.
        batch_sizes, threads, rounds: see `gracile.export.latency_table`.

    Raises:
        InputError: int8 or `eps` without data; whatever shrinking and exporting refuse.
    """
    splits = subject.splits
    if int8 and splits is None:
        raise InputError("int8 needs data to calibrate on.", "Give --data, or leave out --int8.")
    if eps is not None and splits is None:
        raise InputError("Robust accuracy needs labelled data.", "Give --data, or leave out --eps.")
    notes = [subject.note] if subject.note else []
    for network in (subject.dense, subject.sparse):
        if network is not None and draws_noise(network):
            set_noise(network, "off")
            notes.append(NOISE)
    notes = list(dict.fromkeys(notes))
    made = plan(subject.sparse, subject.example, dead="fold")
    if made.after.macs == made.before.macs:
        notes.append(
            "no channel is zero as a whole, so nothing could be removed: train with RGSM and grouping = 'coupled'"
        )
    lean = shrink(subject.sparse, subject.example, dead="fold")
    save_lean(lean, out / "lean.safetensors")
    validation = splits.validation if splits and len(splits.validation) else None
    if splits and validation is None:
        notes.append("there are no validation data, so int8 was accepted without looking at its accuracy")
    with tempfile.TemporaryDirectory(prefix="gracile-") as folder:
        files: dict[str, Path] = {}
        for name, network in {"dense": subject.dense, "sparse": subject.sparse}.items():
            if network is not None:
                files[name] = Path(folder) / f"{name}.onnx"
                export_onnx(network, subject.example, files[name], verbose=False)
        files["shrunk"] = out / "lean.onnx"
        if int8:
            assert splits is not None
            files["shrunk + int8"] = out / "lean.int8.onnx"
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", Int8Warning)
                exported = export_onnx(
                    lean,
                    subject.example,
                    files["shrunk + int8"],
                    some(splits.train, calibration),
                    validation=validation,
                    max_drop=max_drop,
                    weight_bits=weight_bits,
                    float_path=files["shrunk"],
                    verbose=False,
                )
            notes += [str(one.message) for one in caught if issubclass(one.category, Int8Warning)]
        else:
            # An int8 file of an earlier call would belong to other weights.
            (out / "lean.int8.onnx").unlink(missing_ok=True)
            exported = export_onnx(lean, subject.example, files["shrunk"], validation=validation, verbose=False)
        accuracies: dict[str, dict[str, str]] = {name: {} for name in files}
        for title, data in {"validation %": validation, "test %": splits.test if splits else None}.items():
            if data is not None and len(data):
                for name, file in files.items():
                    accuracies[name][title] = f"{accuracy(file, data).percent:.2f}"
        robust: dict[str, Robustness] = {}
        if eps is not None and splits is not None:
            floats = {"dense": subject.dense, "sparse": subject.sparse, "shrunk": lean}
            robust, told = attacking.compressed(
                {name: network for name, network in floats.items() if network is not None},
                files.get("shrunk + int8"),
                splits.test if len(splits.test) else splits.validation,
                eps=eps,
                samples=robust_samples,
            )
            notes += told
            for name, found in robust.items():
                accuracies[name]["robust %"] = f"{found['worst'].percent:.2f}"
        table = latency_table(files, subject.example, batch_sizes=batch_sizes, threads=threads, rounds=rounds)
    result = Compressed(made.describe(), exported, table, accuracies, tuple(notes), robust)
    write_text(out / "table.md", f"{result}\n")
    write_json(out / "compress.json", _json(subject, result, made.before, made.after))
    return result


def _json(subject: Subject, result: Compressed, before: Any, after: Any) -> dict[str, Any]:
    sizes = {"channels", "parameters", "macs"}
    return {
        "name": subject.name,
        "before": {key: getattr(before, key) for key in sorted(sizes)},
        "after": {key: getattr(after, key) for key in sorted(sizes)},
        "exported": result.exported.to_json(),
        "accuracy": {
            name: {key: float(value) for key, value in row.items()} for name, row in result.accuracies.items()
        },
        "robust": {name: found.to_json() for name, found in result.robust.items()},
        "measured": result.table.to_json(),
        "notes": list(result.notes),
        "environment": environment(),
    }
