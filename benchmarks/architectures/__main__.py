"""How many known architectures lose half of their channels exactly, with this library and with others, on one list.

Run it from the checkout, with timm, torchvision, transformers and the other tools installed (``make peers``)::

    PYTHONPATH=src python -m benchmarks.architectures --tools ours torch-pruning torch-kirigami modelopt
    PYTHONPATH=src python -m benchmarks.architectures --page docs/architectures.md

Each model is treated in a process of its own, in double precision, with random weights, on one thread, within a limit of processor
time. What is found is appended to a file, one line per model and tool; what is there already is not done again. The smaller network
must compute what the larger one does with zeros in place of all that was removed, on fresh noise, to 1e-9 of the largest output:

- *exact*: it does, and it is smaller;
- *whole*: nothing was removed;
- *other function*: it computes something else;
- *refused*: the tool said why it cannot;
- *broken*: the tool failed with another error, or the smaller network does not run;
- *timed out*: the limit was reached.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import platform
import resource
import signal
import warnings
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.architectures.models import NAMES, build
from benchmarks.architectures.page import page
from benchmarks.architectures.references import larger
from benchmarks.architectures.tools import TOOLS, Refused, Tool
from gracile.shrinking.parity import largest_difference
from tests.peers import operators_of_torchvision

EXACT = 1e-9
LIMIT = 60  # seconds of processor time a model


def judge(tool: Tool, name: str) -> dict[str, Any]:
    """What became of one architecture."""
    torch.manual_seed(0)
    model, inputs = build(name)
    before = _size(model)
    try:
        made = tool.run(model, inputs)
    except Refused as error:
        return {"result": "refused", "why": str(error)}
    except Exception as error:
        return {"result": "broken", "why": _said(error)}
    found: dict[str, Any] = {"left": _size(made.lean) / before, "seconds": made.seconds, **made.facts}
    torch.manual_seed(1)
    noise = tuple(_batch(one) for one in inputs)
    try:
        reference = made.reference if made.reference is not None else larger(build(name)[0], made.lean)
    except ValueError as error:
        return {"result": "other function", "why": str(error), **found}
    with torch.no_grad():
        try:
            made.lean.eval()(*noise)
        except Exception as error:
            return {"result": "broken", "why": _said(error), **found}
    found["difference"] = largest_difference(reference, made.lean, noise)
    if found["left"] == 1:
        return {"result": "whole", **found}
    return {"result": "exact" if found["difference"] < EXACT else "other function", **found}


def _batch(sample: Tensor) -> Tensor:
    """Three samples of noise; words are kept, for some stand for the end."""
    return torch.randn(3, *sample.shape[1:], dtype=sample.dtype) if sample.is_floating_point() else sample.repeat(3, 1)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _child(tool: Tool, name: str, limit: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    spent = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (spent + limit, spent + limit + 1))
    pipe.send(judge(tool, name))


def apart(tool: Tool, name: str, limit: int = LIMIT) -> dict[str, Any]:
    """`judge` in a process of its own, so that neither a fault nor a patch of one tool reaches the next model."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(tool, name, limit, theirs))
    process.start()
    theirs.close()
    try:
        return mine.recv() if mine.poll(10 * limit) else {"result": "timed out"}
    except EOFError:
        process.join()
        if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
            return {"result": "timed out"}
        return {"result": "broken", "why": f"the process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def run(tools: Sequence[str], names: Sequence[str], file: Path, limit: int) -> None:
    """Treat all that is not in the file yet."""
    done = {(one["tool"], one["model"]) for one in read(file)}
    for tool in tools:
        importlib.import_module(TOOLS[tool].imports)
        for name in names:
            if (tool, name) in done:
                continue
            found = apart(TOOLS[tool], name, limit)
            found["why"] = found.get("why", "")[:200]
            about = {"version": TOOLS[tool].version, "limit": limit, "day": date.today().isoformat(), **MACHINE}
            row = {"tool": tool, "model": name, **{key: _short(one) for key, one in found.items()}, **about}
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(f"{tool:15} {name:40} {row['result']:15} {row.get('left', 1):.2f} {row['why'][:80]}", flush=True)


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where there is no such file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _short(one: Any) -> Any:
    return float(f"{one:.6g}") if isinstance(one, float) else one


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


MACHINE = {"processor": _processor(), "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, help="architectures; all by default")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=["ours"])
    parser.add_argument("--file", type=Path, default=Path("architectures.jsonl"), help="where rows are kept")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds of processor time a model")
    parser.add_argument("--page", type=Path, help="write the page of all rows here, and run nothing")
    args = parser.parse_args()
    if args.page:
        libraries = {one: version(one) for one in ("timm", "torchvision", "transformers")}
        args.page.write_text(page(read(args.file), libraries, NAMES))
        return
    torch.set_num_threads(1)
    operators_of_torchvision()
    for library in ("timm", "torchvision", "transformers"):  # once, before processes are forked
        importlib.import_module(library)
    run(args.tools, args.names, args.file, args.limit)


if __name__ == "__main__":
    main()
