"""Workers in several processes, on one machine or many, over torch.distributed: gloo on CPUs, nccl on GPUs."""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.distributed_c10d import _set_pg_timeout as set_timeout
from torch.distributed.rendezvous import rendezvous

from gracile.core.errors import GracileError, InputError
from gracile.workers.graphs import Link

# Exchanges that may lie unread at a worker that does not keep up; beyond them it is sent nothing.
BACKLOG = 4
# A peer that was late is looked in on this long, in seconds, until it is in time again.
GLANCE = 0.01
# Seconds to wait at the end for transfers that nobody answered; threads must not outlive the interpreter.
CLOSING = 2.0
# Seconds between two looks at the store while a meeting comes about, and for its members to connect once all are there.
LOOK = 0.01
CONNECTING = 10.0
# Tags: rounds, exchanges per round and messages per pair of processes, before they repeat.
ROUNDS, EXCHANGES, MESSAGES = 4096, 64, 8192


def hosting(workers: int, processes: int) -> list[list[int]]:
    """Which workers each process hosts: runs of equal length, the first ones longer by one where it does not go up.

    Raises:
        InputError: more processes than workers, or none.
    """
    if not 1 <= processes <= workers:
        raise InputError(
            f"{processes} processes cannot share {workers} workers.",
            f"Start 1 to {workers} processes, or use a graph with more workers.",
        )
    return [part.tolist() for part in torch.arange(workers).tensor_split(processes)]


class Processes:
    """A `Transport` between processes: neighbours exchange messages point to point, no collective is used.

    Where a peer's connection breaks, its workers are `gone` and nobody waits for them again; the others go on in the same
    group. A new generation, announced in the store by `gracile.workers.launch`, takes processes in or leaves them out:
    all members meet in a fresh group under a prefix of its own, at the round of the foremost. A generation whose members
    do not all come, since one was lost on the way, gives way to the next.

    Args:
        workers: of the whole network.
        store: reachable by all; best held by a process that hosts no worker.
        index: this process.
        processes: how many.
        patience: seconds to wait for a message before going on without it; None waits as long as `timeout`.
        timeout: seconds after which a silent peer, or a meeting that does not come about, is an error.
        generation: the meeting to join first.
        device: where messages live; a GPU's go by nccl.

    Raises:
        InputError: more processes than workers, or this one was left out of its generation.
        GracileError: someone did not come to the meeting in time, or the store does not answer.
    """

    def __init__(
        self,
        workers: int,
        store: Store,
        index: int,
        processes: int,
        *,
        patience: float | None = None,
        timeout: float = 300.0,
        generation: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.hosts = hosting(workers, processes)
        self.host = {worker: process for process, hosted in enumerate(self.hosts) for worker in hosted}
        self.index, self.patience, self.timeout = index, patience, timeout
        self.local: Sequence[int] = self.hosts[index]
        self.backend = "nccl" if torch.device(device).type == "cuda" else "gloo"
        self.generation = generation
        self.lost: set[int] = set()
        self.late: set[int] = set()
        self.store, self._round, self._exchange, self._missed = store, 0, 0, False
        self._sending: defaultdict[int, list[_Waiting]] = defaultdict(list)
        self._unanswered: list[_Waiting] = []
        # Runs of rounds that ended in this generation.
        self._ends = 0
        self.members = list(range(processes)) if generation == 0 else self._announced(generation)
        self._ahead = self._meet(0)
        # Who meets in a later generation than the first, for whatever reason, fits in with the others first.
        self._returned = self.generation > 0

    @property
    def gone(self) -> frozenset[int]:
        """See `Transport`."""
        return frozenset(worker for worker, process in self.host.items() if self._absent(process))

    def _absent(self, process: int) -> bool:
        return process in self.lost or process not in self.members

    def exchange(self, messages: Mapping[Link, Tensor], expected: Iterable[Link], like: Tensor) -> dict[Link, Tensor]:
        """See `Transport`."""
        found, incoming, outgoing = {}, defaultdict(list), defaultdict(list)
        for link in sorted(expected):
            if self.host[link[0]] == self.index:
                found[link] = messages[link]
            elif not self._absent(self.host[link[0]]):
                incoming[self.host[link[0]]].append((link, torch.empty_like(like)))
        for link in sorted(messages):
            peer = self.host[link[1]]
            if peer != self.index and not self._absent(peer):
                # Someone who is waited for only so long may read this when the sender's rows have changed.
                message = messages[link].contiguous()
                outgoing[peer].append((link, message if self.patience is None else message.clone()))
        found |= self._carry(incoming, outgoing)
        self._exchange += 1
        return found

    def _carry(self, incoming: Mapping[int, list], outgoing: Mapping[int, list]) -> dict[Link, Tensor]:
        """Post everything, then wait: for what comes, as long as told, and for what goes, unless it may be late."""
        arriving: list[tuple[int, Link, Tensor, _Waiting]] = []
        for peer in sorted({*incoming, *outgoing}):
            self._sending[peer] = [waiting for waiting in self._sending[peer] if not waiting.over()]
            sent = outgoing.get(peer, [])
            if len(self._sending[peer]) >= BACKLOG * max(1, len(sent)):
                sent = []
            works = self._post(peer, [buffer for _, buffer in incoming.get(peer, [])], [message for _, message in sent])
            for link, buffer in incoming.get(peer, []):
                arriving.append((peer, link, buffer, _Waiting(works.pop(0), buffer, self.patience)))
            self._sending[peer] += [_Waiting(works.pop(0), message, self.patience) for _, message in sent]
        found = {}
        deadline = None if self.patience is None else time.monotonic() + self.patience
        for peer, link, buffer, waiting in arriving:
            if self._came(peer, waiting, deadline):
                found[link] = buffer
        if self.patience is None:
            for peer, waitings in self._sending.items():
                for waiting in waitings:
                    self._came(peer, waiting, None)
            self._sending.clear()
        return found

    def _post(self, peer: int, buffers: Sequence[Tensor], messages: Sequence[Tensor]) -> list[Any]:
        """Start to receive and to send; a work each, None where the connection is broken already."""
        rank = self.members.index(peer)
        ways = [(dist.irecv, buffer) for buffer in buffers] + [(dist.isend, message) for message in messages]
        if self.backend == "nccl":
            # Posted one by one, two processes could each wait for the other to receive. All are done together.
            works = dist.batch_isend_irecv([dist.P2POp(way, tensor, rank) for way, tensor in ways]) if ways else []
            return [works] * len(ways)
        posted: list[Any] = []
        for number, (way, tensor) in enumerate(ways):
            place = number if number < len(buffers) else number - len(buffers)
            try:
                posted.append([way(tensor, rank, tag=self._tag(place))])
            except RuntimeError:
                self.lost.add(peer)
                posted.append(None)
        return posted

    def _tag(self, place: int) -> int:
        return ((self._round % ROUNDS) * EXCHANGES + self._exchange % EXCHANGES) * MESSAGES + place % MESSAGES

    def _came(self, peer: int, waiting: _Waiting, deadline: float | None) -> bool:
        left = None
        if deadline is not None:
            left = GLANCE if peer in self.late else max(GLANCE, deadline - time.monotonic())
        outcome = waiting.wait(left)
        if outcome is None:
            self._unanswered.append(waiting)
            self.late.add(peer)
            self._missed = True
        elif outcome:
            self.late.discard(peer)
        else:
            self.lost.add(peer)
        return bool(outcome)

    def synchronise(self, number: int, newcomer: bool, last: bool = False) -> tuple[int, set[int] | None]:
        """Between rounds: publish where this process is, and follow a new generation.

        Args:
            number: rounds done.
            newcomer: whether this process has just come back.
            last: whether these were all; the others are waited for, since who still has rounds to go may be called to a
                meeting, and would miss who has none.

        Returns:
            the round to go on from, and the workers that are out where the group is a new one, else None.
        """
        if self._returned:
            self._returned = False
            self._round, self._exchange = self._ahead, 0
            return self._ahead, set(self.gone)
        with answering():
            self.store.set(f"round/{self.index}", str(number))
        if self._missed and self._behind(number):
            # Only a fresh group is free of what was sent in vain.
            self.announce(self.members)
        self._missed = False
        changed = not self._all_through() if last else self._called()
        if changed:
            self._follow()
            number = self._meet(number)
        self._round, self._exchange = number, 0
        return number, set(self.gone) if changed else None

    def _called(self) -> bool:
        """Whether a later generation than this process's is announced."""
        with answering():
            return self.store.check([f"generation/{self.generation + 1}"])

    def _all_through(self) -> bool:
        """Wait until all members are through with their rounds; False where a later generation is called before they are.

        All of them come to the same answer, the one that was given first.
        """
        self._ends += 1
        place = PrefixStore(f"end/{self.generation}/{self._ends}", self.store)
        deadline = time.monotonic() + (self.timeout if self.patience is None else self.patience)
        with answering():
            place.set(str(self.index), "through")
            while not place.check(["answer"]) and not self._called():
                awaited = [member for member in self.members if not self._absent(member) and member not in self.late]
                missing = [
                    one for one in awaited if not place.check([str(one)]) and not self.store.check([f"left/{one}"])
                ]
                if not missing or (self.patience is not None and time.monotonic() > deadline):
                    break
                if time.monotonic() > deadline:
                    raise GracileError(
                        f"{_processes(missing)} did not get through with the rounds within {self.timeout:g} s of the others.",
                        "Look at what they printed, start all again, or give them more time with timeout=.",
                    )
                time.sleep(LOOK)
            return place.compare_set("answer", "", "void" if self._called() else "go") == b"go"

    def _follow(self) -> None:
        while self._called():
            self.generation += 1
        self.members = self._announced(self.generation)

    def _behind(self, number: int) -> bool:
        rounds = [self._read(f"round/{peer}") for peer in self.members if not self._absent(peer)]
        return any(other is not None and int(other) > number + 1 for other in rounds)

    def _read(self, key: str) -> str | None:
        return self.store.get(key).decode() if self.store.check([key]) else None

    def announce(self, members: Sequence[int]) -> None:
        """Call these processes into the next generation, unless it is called already."""
        announce(self.store, self.generation + 1, members)

    def _announced(self, generation: int) -> list[int]:
        members = json.loads(self.store.get(f"generation/{generation}"))
        if self.index not in members:
            raise InputError(
                f"The network goes on without process {self.index}, which did not answer.", "Start it again."
            )
        return members

    def _meet(self, number: int) -> int:
        """Join the group of the newest generation; the round of its foremost member."""
        deadline = time.monotonic() + self.timeout
        while True:
            if dist.is_initialized():
                dist.destroy_process_group()
            place = PrefixStore(f"group/{self.generation}", self.store)
            with answering():
                place.set(f"round/{self.index}", str(number))
            if self._all_come(place, deadline) and self._connect(place):
                break
            if not self._called() and not self._all_wait(deadline):
                # Everyone is alive, it seems, and the group did not come about: once more.
                self.announce(self.members)
            self._follow()
        self.lost.clear()
        self.late.clear()
        self._ends = 0
        # What was sent in vain still has its thread.
        self._unanswered = [waiting for waiting in self._unanswered if not waiting.over()]
        self._unanswered += [waiting for sent in self._sending.values() for waiting in sent if not waiting.over()]
        self._sending.clear()
        return max(int(place.get(f"round/{member}")) for member in self.members)

    def _all_come(self, place: Store, deadline: float) -> bool:
        """Wait for all members; False where a later generation is called before they are here.

        All of them come to the same answer, the one that was given first.
        """
        keys = {member: f"round/{member}" for member in self.members}
        with answering():
            while not place.check(list(keys.values())) and not self._called():
                missing = [member for member, key in keys.items() if not place.check([key])]
                # Who is through with its rounds does not come any more.
                if any(self.store.check([f"left/{member}"]) for member in missing):
                    self.announce([m for m in self.members if not self.store.check([f"left/{m}"])])
                if time.monotonic() > deadline:
                    raise GracileError(
                        f"{_processes(missing)} did not come to the meeting of the network within {self.timeout:g} s.",
                        "Look at what they printed, start all again, or give them more time with timeout=.",
                    )
                time.sleep(LOOK)
            answer = "void" if self._called() else "go"
            return place.compare_set("answer", "", answer) == b"go"

    def _connect(self, place: Store) -> bool:
        """Form the group; False where someone was lost while it was formed, to all its members alike.

        Who had reached all the others would else go on by itself while those who had not go to the next meeting: to each
        the other were lost.
        """
        try:
            dist.init_process_group(
                self.backend,
                store=place,
                rank=self.members.index(self.index),
                world_size=len(self.members),
                timeout=timedelta(seconds=min(CONNECTING, self.timeout)),
            )
        except RuntimeError:
            with answering():
                place.compare_set("formed", "", "void")
            return False
        set_timeout(timedelta(seconds=self.timeout))
        keys = [f"connected/{member}" for member in self.members]
        deadline = time.monotonic() + min(CONNECTING, self.timeout)
        with answering():
            place.set(f"connected/{self.index}", "to all")
            while not place.check(["formed"]) and not place.check(keys):
                if self._called() or time.monotonic() > deadline:
                    break
                time.sleep(LOOK)
            return place.compare_set("formed", "", "go" if place.check(keys) else "void") == b"go"

    def _all_wait(self, deadline: float) -> bool:
        """Wait briefly for whoever watches the processes to call a generation without the lost one; whether it did."""
        until = min(deadline, time.monotonic() + CLOSING)
        while not self._called() and time.monotonic() < until:
            time.sleep(LOOK)
        return self._called()

    def close(self) -> bool:
        """Leave the group. Transfers that nobody answered end as the others leave too; they are waited for briefly.

        Returns:
            whether all have ended.
        """
        if dist.is_initialized():
            dist.destroy_process_group()
        with answering():
            self.store.set(f"left/{self.index}", "done")
        deadline = time.monotonic() + CLOSING
        left = self._unanswered + [waiting for sent in self._sending.values() for waiting in sent]
        return all(waiting.wait(max(0.0, deadline - time.monotonic())) is not None for waiting in left)


@contextmanager
def answering() -> Iterator[None]:
    """Inside, a store that does not answer is an error in words."""
    try:
        yield
    except dist.DistError as error:
        raise GracileError(
            f"The store that the processes of the network share does not answer: {str(error).splitlines()[0]}",
            "Look whether the process that holds it, the first one, still runs, and start all again.",
        ) from error


def _processes(numbers: Sequence[int]) -> str:
    named = ", ".join(str(number) for number in numbers)
    return f"Process {named}" if len(numbers) == 1 else f"Processes {named}"


def announce(store: Store, generation: int, members: Sequence[int]) -> None:
    """Name the members of a generation in the store; who comes second changes nothing."""
    store.compare_set(f"generation/{generation}", "", json.dumps(sorted(members)))


def under_torchrun() -> bool:
    """Whether this process is one of several that ``torchrun`` started."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def from_environment(
    workers: int,
    *,
    name: str = "",
    patience: float | None = None,
    timeout: float = 300.0,
    device: torch.device | str = "cpu",
) -> Processes:
    """The transport of a process that ``torchrun`` started.

    Args:
        workers: of the whole network.
        name: tells several networks of one program apart.
        patience: seconds to wait for a message before going on without it; None waits as long as `timeout`.
        timeout: seconds after which a silent peer, or a meeting that does not come about, is an error.
        device: where messages live, see `Processes`.

    Raises:
        InputError: not under torchrun, more processes than workers, or a port that is in use.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        raise InputError("This process was not started by torchrun.", "Start it so: torchrun --nproc-per-node 2 ...")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    hosting(workers, world)
    store = PrefixStore(f"workers/{name}", _torchrun_store(timeout))
    return Processes(workers, store, rank, world, patience=patience, timeout=timeout, device=device)


@functools.cache
def _torchrun_store(timeout: float) -> Store:
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
    except RuntimeError as error:
        raise port_error(error, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])) from error
    # A restarted attempt must not read what the last one left in the store.
    return PrefixStore(f"gracile/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def port_error(error: Exception, host: str, port: int) -> Exception:
    """An error of the store in words, where its cause is a port in use; else the error itself."""
    text = str(error)
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return InputError(f"The port {port} on {host} is in use.", "Choose another port, or 0 for any free one.")
    return error


class _Waiting:
    """A transfer under way.

    Waiting for gloo with a time limit closes all connections when it runs out, so a limit is kept by a thread that waits
    without one.
    """

    def __init__(self, works: Sequence[Any] | None, tensor: Tensor, patience: float | None) -> None:
        self._works, self._tensor, self._failed = works, tensor, False
        self._done: threading.Event | None = None
        if patience is not None:
            self._done = threading.Event()
            threading.Thread(target=self._finish, daemon=True).start()

    def _finish(self) -> None:
        try:
            for work in self._works or []:
                work.wait()
            self._failed = self._works is None
        except RuntimeError:
            self._failed = True
        if self._done is not None:
            self._done.set()

    def over(self) -> bool:
        return self._done is not None and self._done.is_set()

    def wait(self, seconds: float | None) -> bool | None:
        """True when it is done, False when the connection broke, None when time is up."""
        if self._done is None:
            self._finish()
        elif not self._done.wait(seconds):
            return None
        return not self._failed
