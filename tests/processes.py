"""Processes of a test: forked from one server that has imported what is slow to import, and never waited for without end."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch

from gracile import cli

SLOW_TO_IMPORT = [
    "gracile.cli",
    "gracile.recipes.runner",
    "gracile.report.figures",
    "sklearn.datasets",
    "torch._dynamo",
]
SECONDS = 120.0


def serve() -> None:
    """Start the server, which `gracile.workers.launch` uses too."""
    forkserver.set_forkserver_preload(SLOW_TO_IMPORT)
    # Python's server imports from its own path, not from this process's: the package may be installed from elsewhere.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Raises TimeoutError inside when it takes longer: what waits for another process must not hold up all tests."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_torchrun(
    program: Callable[..., Any],
    folder: Path,
    *arguments: Any,
    processes: int = 2,
    host: str = "127.0.0.1",
    port: int | None = None,
    more: Sequence[Mapping[str, str]] | None = None,
) -> list[str]:
    """Run a program in processes with the environment that torchrun gives them.

    Args:
        program: importable by name.
        folder: where they run.
        arguments: of the program.
        processes, host, port: where they meet; a free port by default.
        more: further variables of each.

    Returns:
        what each printed; a process that fails, or takes too long, fails the test with what it said.
    """
    serve()
    context = multiprocessing.get_context("forkserver")
    shared = {
        "WORLD_SIZE": str(processes), "MASTER_ADDR": host, "MASTER_PORT": str(port or free_port()),
    }  # fmt: skip
    started = []
    for rank in range(processes):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), **(more[rank] if more else {})}
        said = folder / f"said-{rank}.txt"
        started.append((context.Process(target=_rank, args=(program, folder, said, own, arguments), daemon=True), said))
        started[-1][0].start()
    deadline = time.monotonic() + SECONDS
    for process, _ in started:
        process.join(max(0.0, deadline - time.monotonic()))
    for process, _ in started:
        if process.exitcode is None:
            process.kill()
            process.join()
    texts = [said.read_text() if said.exists() else "nothing" for _, said in started]
    assert [process.exitcode for process, _ in started] == [0] * processes, texts
    for _, said in started:
        said.unlink()
    return texts


class Forked:
    """A program in a process of its own, forked from the server instead of starting a Python and importing everything anew.

    Args:
        program: importable by name.
        arguments: its own.
        folder: where it runs; what it prints goes to ``said.txt`` there, once it ends by itself.
        environment: variables of its own.
    """

    def __init__(
        self, program: Callable[..., Any], *arguments: Any, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        serve()
        self._said = folder / "said.txt"
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(
            target=_rank, args=(program, folder, self._said, environment or {}, arguments), daemon=True
        )
        self._process.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def ended(self, seconds: float = SECONDS) -> tuple[int | None, str]:
        """Wait for its end: the exit status, and what it printed."""
        self._process.join(seconds)
        return self._process.exitcode, self._said.read_text() if self._said.exists() else ""


def command(*words: str) -> None:
    """The command line, as a process of its own runs it."""
    sys.exit(cli.main(list(words)))


def _rank(
    program: Callable[..., Any], folder: Path, said: Path, environment: Mapping[str, str], arguments: Any
) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    os.chdir(folder)
    heard, complaints = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(complaints):
            program(*arguments)
    except BaseException:
        heard.write(complaints.getvalue() + traceback.format_exc())
        raise
    finally:
        said.write_text(heard.getvalue())
