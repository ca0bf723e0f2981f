"""Start worker processes on this machine, notice who dies, and take it back in."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from torch._C._distributed_c10d import TCPStore

from gracile.core.errors import GracileError
from gracile.workers.processes import Processes, announce, hosting, port_error

log = logging.getLogger("gracile")

Program = Callable[..., Any]


@dataclass
class Launched:
    """What became of the processes.

    Attributes:
        results: what each program returned; None where it was lost for good.
        deaths: (process, exit code) in the order noticed; a negative code is the signal.
        generations: how often the group met anew.
    """

    results: list[Any]
    deaths: list[tuple[int, int]] = field(default_factory=list)
    generations: int = 0


def launch(
    program: Program,
    workers: int,
    processes: int,
    *arguments: Any,
    restarts: int = 0,
    host: str = "127.0.0.1",
    port: int = 0,
    patience: float | None = None,
    timeout: float = 60.0,
) -> Launched:
    """Run a program in several processes, each with its `Processes` transport.

    This process holds the store, hosts no worker, and so outlives all of them. A process that dies is started again as
    often as `restarts` allows; once it is up, a new generation is called in which it meets the others, who went on
    without it. Without restarts the survivors are called together for good.

    Args:
        program: ``program(transport, *arguments)``, importable by name; what it returns must go into JSON.
        workers: of the network.
        processes: how many.
        arguments: picklable.
        restarts: over all processes.
        host: where the store listens.
        port: likewise; 0 finds a free one.
        patience: seconds to wait for a message before going on without it; None waits as long as `timeout`.
        timeout: seconds after which a silent peer, or a meeting that does not come about, is an error.

    Raises:
        InputError: more processes than workers, or a port in use.
        GracileError: what a program raised.
    """
    hosting(workers, processes)
    try:
        store = TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout))
    except RuntimeError as error:
        raise port_error(error, host, port) from error
    return _Watch(program, workers, processes, arguments, restarts, (host, store.port, patience, timeout), store).run()


class _Watch:
    """Looks after the processes until all have ended."""

    def __init__(self, program, workers, processes, arguments, restarts, place, store: TCPStore) -> None:
        self.program, self.workers, self.processes, self.arguments = program, workers, processes, arguments
        self.restarts, self.place, self.store = restarts, place, store
        # A fork of this process would share the store's socket and locks. The fork server is started afresh, and having
        # imported torch once it starts, and starts again, a worker in a tenth of a second instead of seconds.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["gracile.workers"])
        self.running: dict[int, Any] = {}
        self.arriving: dict[int, str] = {}
        self.launched = Launched([None] * processes)
        self.started = 0

    def run(self) -> Launched:
        try:
            for index in range(self.processes):
                self._start(index, returned=False)
            while self.running:
                for index, process in list(self.running.items()):
                    if process.exitcode is not None:
                        self._ended(index, process.exitcode)
                self._admit()
                time.sleep(0.02)
        finally:
            for process in self.running.values():
                process.kill()
        return self.launched

    def _start(self, index: int, *, returned: bool) -> None:
        ready = f"ready/{self.started}" if returned else ""
        self.started += 1
        process = self.context.Process(
            target=_enter, args=(self.program, self.workers, self.processes, index, self.place, ready, self.arguments)
        )
        process.start()
        self.running[index] = process
        if returned:
            self.arriving[index] = ready

    def _ended(self, index: int, code: int) -> None:
        del self.running[index]
        self.arriving.pop(index, None)
        if code == 0:
            self.launched.results[index] = json.loads(self.store.get(f"result/{index}"))
            return
        if self.store.check([f"error/{index}"]):
            cause, remedy = json.loads(self.store.get(f"error/{index}"))
            raise GracileError(cause, remedy)
        log.warning("process %d ended with code %d", index, code)
        self.launched.deaths.append((index, code))
        if self.restarts > 0:
            self.restarts -= 1
            self._start(index, returned=True)
        elif self.running:
            self._call(sorted(set(self.running) - set(self.arriving)))

    def _admit(self) -> None:
        """Call a meeting once a process that was started again is up."""
        up = [index for index, key in self.arriving.items() if self.store.check([key])]
        if up:
            members = sorted((set(self.running) - set(self.arriving)) | set(up))
            generation = self._call(members)
            for index in up:
                self.store.set(self.arriving.pop(index) + "/generation", str(generation))

    def _call(self, members: list[int]) -> int:
        """Announce the next generation; members of the last one may have done so themselves meanwhile."""
        generation = 1
        while self.store.check([f"generation/{generation}"]):
            generation += 1
        announce(self.store, generation, members)
        self.launched.generations = generation
        return generation


def _enter(program: Program, workers: int, processes: int, index: int, place: Any, ready: str, arguments: Any) -> None:
    """What a started process does."""
    torch.set_num_threads(1)
    host, port, patience, timeout = place
    store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout))
    try:
        generation = 0
        if ready:
            store.set(ready, "up")
            generation = int(store.get(f"{ready}/generation"))
        transport = Processes(
            workers, store, index, processes, patience=patience, timeout=timeout, generation=generation
        )
        result = program(transport, *arguments)
        store.set(f"result/{index}", json.dumps(result))
        ended = transport.close()
    except GracileError as error:
        store.set(f"error/{index}", json.dumps([error.cause, error.remedy]))
        raise SystemExit(2) from None
    if not ended:
        # A thread that still waits in gloo for someone who is gone would end the interpreter with an abort.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
