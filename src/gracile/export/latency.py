"""Latency, size and memory of files side by side, measured in onnxruntime; says plainly where zeros bought nothing."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from gracile.core.errors import InputError
from gracile.core.seeding import generator
from gracile.export import samples
from gracile.export.errors import ExportError
from gracile.export.graph_size import GraphSize, graph_size
from gracile.export.sessions import run, session

# Zeros that make a file run at least this much faster bought something.
FASTER = 1.1
# Zeros worth a sentence.
MANY = 0.1


@dataclass(frozen=True)
class LatencyRow:
    """One file under one load.

    Attributes:
        name: of the variant.
        batch: samples per run.
        threads: of the runtime.
        p10: milliseconds per batch, the fast decile, which other work on the machine disturbs least.
        p50: their median.
        faster: how many times faster than the first variant: the median over rounds of the ratio of medians within a
            round, which drifts of the machine leave alone.
        quiet: the same ratio by p10, which other work on the machine disturbs least.
        runs: how many were timed.
    """

    name: str
    batch: int
    threads: int
    p10: float
    p50: float
    faster: float
    quiet: float
    runs: int


@dataclass(frozen=True)
class LatencyFile:
    """One file.

    Attributes:
        name: of the variant.
        bytes: on disk.
        smaller: how many times smaller than the first variant.
        macs: multiply-adds for one sample; None where unknown.
        zeros: share in [0, 1] of exact zeros among the weights of its layers.
        memory: peak resident MiB of a fresh process that runs the largest batch, beyond what importing onnxruntime
            takes; None where it was not measured.
    """

    name: str
    bytes: int
    smaller: float
    macs: int | None
    zeros: float
    memory: float | None


@dataclass(frozen=True)
class LatencyTable:
    """Measured by `latency_table`.

    Attributes:
        files: one a variant, in the order given.
        rows: one a variant and load.
        notes: what a reader must know.
    """

    files: tuple[LatencyFile, ...]
    rows: tuple[LatencyRow, ...]
    notes: tuple[str, ...] = ()

    def row(self, name: str, batch: int, threads: int) -> LatencyRow:
        """One measurement.

        Raises:
            InputError: it was not made.
        """
        for row in self.rows:
            if (row.name, row.batch, row.threads) == (name, batch, threads):
                return row
        raise InputError(
            f"'{name}' was not measured at batch {batch} with {threads} threads.",
            f"Measured are: {sorted({(row.name, row.batch, row.threads) for row in self.rows})}.",
        )

    def table(self, extra: Mapping[str, Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
        """One dictionary a variant.

        Args:
            extra: further columns, such as accuracies: variant to column to value.
        """
        found = []
        for file in self.files:
            row: dict[str, Any] = {"variant": file.name}
            row |= (extra or {}).get(file.name, {})
            row["KB"] = f"{file.bytes / 1000:,.1f}"
            row["smaller"] = f"{file.smaller:.1f}x"
            row["multiply-adds"] = "" if file.macs is None else f"{file.macs:,}"
            row["zeros %"] = f"{100 * file.zeros:.1f}"
            row["peak MiB"] = "" if file.memory is None else f"{file.memory:.1f}"
            for one in self.rows:
                if one.name == file.name:
                    load = f"batch {one.batch}, {one.threads} thr"
                    row[load] = f"{one.p10:.3g} / {one.p50:.3g} ({one.faster:.2f}x)"
            found.append(row)
        return found

    def format(self, extra: Mapping[str, Mapping[str, Any]] | None = None) -> str:
        """As Markdown: files and loads; `extra` as in `table`."""
        rows = self.table(extra)
        loads = [key for key in rows[0] if key.startswith("batch ")]
        files = [{key: value for key, value in row.items() if key not in loads} for row in rows]
        times = [{"variant": row["variant"], **{load: row[load] for load in loads}} for row in rows]
        parts = [
            _markdown(files),
            "Milliseconds a batch, p10 / p50 (median times faster than the first):",
            _markdown(times),
        ]
        return "\n\n".join([*parts, "\n".join(f"- {note}" for note in self.notes)] if self.notes else parts)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "files": [asdict(one) for one in self.files],
            "rows": [asdict(one) for one in self.rows],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return self.format()


def _markdown(rows: list[dict[str, Any]]) -> str:
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def check_timing(batch_sizes: Sequence[int], threads: Sequence[int], rounds: int, turn: float = 1.0) -> None:
    """Refuse options of a timing that are out of their range.

    Raises:
        InputError: one is.
    """
    if min((rounds, *batch_sizes, *threads), default=0) < 1 or not batch_sizes or not threads or not turn > 0:
        raise InputError("rounds, batch sizes, threads and turn must be above 0.", "Leave them out for the defaults.")


def latency_table(
    files: Mapping[str, str | Path],
    example: samples.Example,
    *,
    batch_sizes: Sequence[int] = (1, 16),
    threads: Sequence[int] = (1, 2),
    rounds: int = 15,
    turn: float = 0.04,
    memory: bool = True,
    progress: bool = True,
) -> LatencyTable:
    """Time ONNX files side by side in onnxruntime on the CPU.

    Every round gives each file a turn of one untimed run and as many timed ones as fit in `turn` seconds, at least
    one, so that a busy or throttled machine slows all of them.

    Args:
        files: name to ONNX file; the first is what the others are compared with.
        example: one batch of inputs as for `gracile.export_onnx`; batches are made of normal noise of its shape, or of its own
            rows where inputs are whole numbers.
        batch_sizes: samples per run.
        threads: of the runtime; each number is timed with each batch size.
        rounds: turns each file gets, after one that warms up.
        turn: seconds.
        memory: measure peak memory too, each file in a fresh process.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no files, an option out of its range, or inputs that do not fit.
        StorageError: a file is not there.
        MissingDependencyError: onnxruntime is not installed.
    """
    if not files:
        raise InputError("There are no files to time.", "Give a name and a file at least.")
    check_timing(batch_sizes, threads, rounds, turn)
    examples = samples.as_examples(example)
    paths = {name: Path(path) for name, path in files.items()}
    notes = []
    cores = os.cpu_count() or 1
    if max(threads) > cores:
        notes.append(f"This machine has {cores} core{'s'[: cores > 1]}: loads with more threads were left out.")
        threads = [count for count in threads if count <= cores] or [1]
    sizes = {name: graph_size(path) for name, path in paths.items()}
    rows = []
    loads = [(batch, count) for batch in batch_sizes for count in threads]
    with tqdm(
        total=len(loads) * (rounds + 1) + memory * len(paths),
        desc="timing",
        disable=None if progress else True,
        leave=False,
    ) as bar:
        for batch, count in loads:
            rows += _time(paths, _batch(examples, batch), batch, count, rounds, turn, bar)
        peaks = {}
        for name, path in paths.items() if memory else ():
            peaks[name] = peak_memory(path, _batch(examples, max(batch_sizes)), max(threads))
            bar.update()
    if memory and None in peaks.values():
        notes.append("Peak memory could not be measured: no fresh Python process with onnxruntime could be started.")
    first = next(iter(paths.values())).stat().st_size
    found = tuple(
        LatencyFile(
            name,
            path.stat().st_size,
            first / path.stat().st_size,
            sizes[name].macs,
            sizes[name].zeros / max(sizes[name].weights, 1),
            peaks.get(name),
        )
        for name, path in paths.items()
    )
    return LatencyTable(found, tuple(rows), (*notes, *_remarks(sizes, rows)))


def _batch(examples: samples.Inputs, size: int) -> samples.Feed:
    source = generator(0, "latency")

    def drawn(one: Tensor) -> Tensor:
        if one.is_floating_point():
            return torch.randn(size, *one.shape[1:], generator=source).to(one)
        return one[torch.arange(size) % len(one)]

    return samples.feed(examples.map(drawn))


def _time(
    paths: Mapping[str, Path], batch: samples.Feed, size: int, threads: int, rounds: int, turn: float, bar: Any
) -> list[LatencyRow]:
    """All files under one load."""
    sessions = {name: session(path, threads=threads) for name, path in paths.items()}
    rows: dict[str, list[list[float]]] = {name: [] for name in paths}
    for number in range(rounds + 1):
        for name, loaded in sessions.items():
            # Caches are another file's, and worker threads of the last one may still spin.
            run(loaded, batch)
            started, taken = time.perf_counter(), []
            while not taken or time.perf_counter() - started < turn:
                begin = time.perf_counter()
                loaded.run(None, batch)
                taken.append(1000 * (time.perf_counter() - begin))
            if number:
                rows[name].append(taken)
        bar.update()
    return [_row(name, size, threads, next(iter(rows.values())), taken) for name, taken in rows.items()]


def _row(name: str, size: int, threads: int, reference: list[list[float]], rows: list[list[float]]) -> LatencyRow:
    """One file's milliseconds, by rounds, beside the first file's."""
    every = [one for row in rows for one in row]
    p10 = float(np.percentile(every, 10))
    first = float(np.percentile([one for row in reference for one in row], 10))
    ratios = [statistics.median(one) / statistics.median(own) for one, own in zip(reference, rows, strict=True)]
    return LatencyRow(
        name, size, threads, p10, statistics.median(every), statistics.median(ratios), first / p10, len(every)
    )


def peak_memory(path: Path, batch: samples.Feed, threads: int) -> float | None:
    """Peak resident MiB of a fresh process that loads a file and runs a batch, beyond what importing onnxruntime takes.

    None where such a process cannot be started.

    Raises:
        ExportError: it was started and failed.
    """
    shapes = {name: (value.shape, str(value.dtype)) for name, value in batch.items()}
    # By path and with -P: neither gracile nor torch is imported, and no module here hides one of the standard library.
    command = [
        sys.executable,
        "-P",
        str(Path(__file__).with_name("peak.py")),
        str(path.absolute()),
        json.dumps(shapes),
        str(threads),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except OSError:
        return None
    if done.returncode:
        raise ExportError(
            f"{path} could not be run in a fresh process: {(done.stderr.strip().splitlines() or ['no message'])[-1]}.",
            "Free some memory, or pass memory=False.",
        )
    before, after = map(int, done.stdout.split())
    return (after - before) / 1024


def _remarks(sizes: Mapping[str, GraphSize], rows: Sequence[LatencyRow]) -> list[str]:
    """A sentence for every file whose zeros are multiplied like other numbers, and for every slower one."""
    reference = next(iter(sizes))
    notes = []
    for name, size in sizes.items():
        share = size.zeros / max(size.weights, 1)
        speed = statistics.median(row.quiet for row in rows if row.name == name)
        if speed < 1 / FASTER:
            notes.append(
                f"{name} takes {1 / speed:.2f} times as long as {reference}: layers this small spend their time around "
                "the multiplications, and integers add to that."
            )
        if share < MANY or (name != reference and size.macs != sizes[reference].macs):
            continue
        text = f"{name}: {100 * share:.1f} % of its weights are zero"
        if name == reference:
            notes.append(f"{text} and all of them are computed with: only removing channels gains time.")
        elif speed < FASTER:
            notes.append(
                f"{text}, and it runs {speed:.2f} times as fast as {reference}: zeros in dense kernels buy no time and "
                "no space. Only what is physically removed does."
            )
    return notes
