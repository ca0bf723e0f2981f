"""What a dial's budgets of latency and file size are measured by: the shrunk network, as it will be deployed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from gracile.core.errors import InputError, nearest
from gracile.core.seeding import generator
from gracile.core.threads import torch_threads
from gracile.deploy.widths import candidates, faster
from gracile.export import export_onnx, latency_table
from gracile.shrinking import save_lean, shrink

Runtime = Literal["onnxruntime", "torch"]
Form = Literal["lean", "onnx"]
# The name under which the first network is timed.
FIRST = "first"


class Latency:
    """Milliseconds that a batch takes on this machine's CPU, once channels of zeros are removed.

    In onnxruntime it is the form that `gracile.compress` takes: with all gone that can go, or with convolutions kept by fours.

    The first network measured, a dial's dense one, is timed again beside each other one, in turns, so that a machine that
    becomes busy or warm slows both alike: what is returned is the first one's time times the ratio of the two fast deciles.

    Args:
        example: one batch of inputs, (n, ...).
        runtime: ``onnxruntime`` exports each network first, which takes seconds; ``torch`` runs the module as it is.
        threads: of the runtime.
        batch_size: samples per run.
        rounds: turns that each network gets, after one that warms up.
        turn: seconds.

    Attributes:
        budget: ``latency``.
        unit: ``ms``.

    Raises:
        InputError: an option out of its range.
    """

    budget, unit = "latency", "ms"

    def __init__(
        self,
        example: Tensor,
        *,
        runtime: Runtime = "onnxruntime",
        threads: int = 1,
        batch_size: int = 1,
        rounds: int = 9,
        turn: float = 0.04,
    ) -> None:
        if runtime not in get_args(Runtime):
            raise InputError(f"There is no runtime '{runtime}'.", nearest(runtime, get_args(Runtime)))
        if min(threads, batch_size, rounds) < 1 or not turn > 0:
            raise InputError(
                "threads, batch_size, rounds and turn must be above 0.", "Leave them out for the defaults."
            )
        self.example = example.detach().cpu()
        self.runtime, self.threads, self.batch_size, self.rounds, self.turn = runtime, threads, batch_size, rounds, turn
        self._first: nn.Module | None = None
        self._first_file = b""
        self._milliseconds = 0.0

    def __call__(self, network: nn.Module) -> float:
        """Time a network; see `gracile.splitting.measured.Measure`."""
        first, own = self._onnxruntime(network) if self.runtime == "onnxruntime" else self._torch(network)
        self._milliseconds = self._milliseconds or first
        return self._milliseconds * own / first

    def _onnxruntime(self, network: nn.Module) -> tuple[float, float]:
        with tempfile.TemporaryDirectory(prefix="gracile-") as folder:
            leans = candidates(network, self.example)
            files = {str(number): Path(folder) / f"{number}.onnx" for number in leans}
            for number, lean in leans.items():
                export_onnx(lean, self.example, files[str(number)], verbose=False)
            self._first_file = self._first_file or files["1"].read_bytes()
            first = Path(folder) / f"{FIRST}.onnx"
            first.write_bytes(self._first_file)
            table = latency_table(
                files | {FIRST: first}, self.example, batch_sizes=(self.batch_size,), threads=(self.threads,),
                rounds=self.rounds, turn=self.turn, memory=False, progress=False,
            )  # fmt: skip
        deciles = {row.name: row.p10 for row in table.rows}
        return deciles[FIRST], deciles[str(faster({number: deciles[str(number)] for number in leans}))]

    def _torch(self, network: nn.Module) -> tuple[float, float]:
        lean = shrink(network, self.example, dead="fold")
        self._first = self._first or lean
        batch = torch.randn(self.batch_size, *self.example.shape[1:], generator=generator(0, "latency"))
        networks = {FIRST: self._first, "own": lean}
        taken: dict[str, list[float]] = {name: [] for name in networks}
        with torch_threads(self.threads), torch.inference_mode():
            for number in range(self.rounds + 1):
                for name, network in networks.items():
                    times = _turn(lambda network=network: network(batch), self.turn)
                    taken[name] += times if number else []
        first, own = (float(np.percentile(times, 10)) for times in taken.values())
        return first, own

    def __str__(self) -> str:
        which = "thread" if self.threads == 1 else "threads"
        return f"{self.runtime} on this CPU, {self.threads} {which}, batches of {self.batch_size}"


class FileSize:
    """Bytes of the file that a network becomes, once channels of zeros are removed.

    Args:
        example: one batch of inputs, (n, ...).
        form: ``lean`` is the safetensors file of `gracile.shrinking.save_lean`, ``onnx`` that of `gracile.export_onnx`.

    Attributes:
        budget: ``file_size``.
        unit: ``bytes``.

    Raises:
        InputError: there is no such form.
    """

    budget, unit = "file_size", "bytes"

    def __init__(self, example: Tensor, *, form: Form = "lean") -> None:
        if form not in get_args(Form):
            raise InputError(f"There is no form '{form}' of a file.", nearest(form, get_args(Form)))
        self.example, self.form = example.detach().cpu(), form

    def __call__(self, network: nn.Module) -> float:
        """Write the network's file and weigh it; see `gracile.splitting.measured.Measure`."""
        lean = shrink(network, self.example, dead="fold")
        with tempfile.TemporaryDirectory(prefix="gracile-") as folder:
            file = Path(folder) / "network"
            if self.form == "lean":
                save_lean(lean, file)
            else:
                export_onnx(lean, self.example, file, verbose=False)
            return float(file.stat().st_size)

    def __str__(self) -> str:
        return "the safetensors file of save_lean" if self.form == "lean" else "the ONNX file"


def _turn(call: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of as many calls as fit in so many seconds, one at least, after one that is not timed."""
    call()
    started, taken = time.perf_counter(), []
    while not taken or time.perf_counter() - started < seconds:
        begin = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - begin))
    return taken
