"""Workers in real processes: the same bits as in one, and what happens when one is killed, stopped or refused."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore

from gracile.core.errors import GracileError, InputError
from gracile.core.seeding import derive_seed
from gracile.data import Dataset
from gracile.workers import (
    Classification,
    InProcess,
    Processes,
    Quadratics,
    hosting,
    launch,
    method,
    network,
    shards,
    train,
)
from gracile.workers.processes import announce
from tests.processes import limited, serve

METHODS = {
    "admm": {"rho": 0.1, "lr": 0.05, "gossip": 3},
    "average": {"lr": 0.05, "local_steps": 2},
    "choco": {"lr": 0.05, "compress": "int8", "gamma": 0.4, "correction": 0.3},
    "diloco": {"lr": 0.01, "local_steps": 2},
    "dsgd": {"lr": 0.05, "optimizer": "momentum", "participation": 0.7},
    "fedopt": {"lr": 0.05, "server_lr": 0.02, "optimizer": "adam"},
    "fedprox": {"lr": 0.05, "local_steps": 2, "mu": 0.1},
    "gradient-tracking": {"lr": 0.05},
    "scaffold": {"lr": 0.05, "local_steps": 2, "participation": 0.7},
    "two-star": {"lr": 0.05},
}


def digits() -> Dataset:
    random = torch.Generator().manual_seed(0)
    inputs = torch.rand(240, 12, generator=random)
    return Dataset(inputs, torch.randint(4, (240,), generator=random), tuple("abcd"), "noise")


def small_network() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 4))


def every_method(transport: Any) -> dict[str, Any]:
    """Digests of all local weights by every method, the first measured row, and all bytes."""
    data = digits()
    parts = shards(data.labels, 6, "dirichlet:1", seed=1)
    found = {}
    for name, options in METHODS.items():
        joined = network("two-star", 6, transport=transport, drop=0.1 if name == "average" else 0.0)
        local = {worker: parts[worker] for worker in joined.local}
        problem = Classification(small_network(), data, local, batch_size=8, exact=True)
        done = train(joined, method(name, **options), problem, 4, every=4, evaluate=lambda x: {"sum": x.sum(1)})
        row = {key: value for key, value in done.rows[-1].items() if key != "seconds"}
        found[name] = [dict(zip(joined.local, done.digests(), strict=True)), row]
    return found


def worlds(transport: Processes) -> dict[str, Any]:
    """The same program on worlds of six, three and two of these processes, and then three of which one is slow."""
    found: dict[str, Any] = {"6": every_method(transport)}
    for processes in (3, 2):
        if transport.index < processes:
            store = PrefixStore(f"world/{processes}", transport.store)
            found[str(processes)] = every_method(Processes(6, store, transport.index, processes))
    if transport.index < 3:
        store = PrefixStore("slow", transport.store)
        found["slow"] = slow(Processes(3, store, transport.index, 3, patience=0.2))
    return found


def quadratics(workers: int, local: Any = None) -> Quadratics:
    a = torch.eye(3, dtype=torch.float64).repeat(workers, 1, 1)
    b = torch.arange(3.0 * workers, dtype=torch.float64).reshape(workers, 3)
    return Paced(a, b, local=local)


class Paced(Quadratics):
    """Calls `at` at every step, and is slow while `waiting` holds, so that others have time to come back."""

    at: Any = None
    waiting: Any = None
    pause = 0.06

    def descend(self, x: torch.Tensor, step: int, lr: float) -> None:
        if self.at is not None:
            self.at(step)
        if self.waiting is not None and self.waiting(step):
            time.sleep(self.pause)
        super().descend(x, step, lr)


def slow(transport: Processes) -> dict[str, Any]:
    """Worker 2 sleeps for a second in round 10; the others wait for a message only so long, and let it in again."""
    problem, times = quadratics(3, transport.local), []
    problem.at = lambda step: times.append(time.monotonic())
    if transport.index == 2:
        problem.at = lambda step: time.sleep(1.0) if step == 10 else None
    problem.waiting = lambda step: transport.generation == 0 and step > 10
    done = train(network("ring", 3, transport=transport), method("dsgd", lr=0.05), problem, 200, every=200)
    longest = max((later - earlier for earlier, later in pairwise(times)), default=0.0)
    return {"x": done.x[0].tolist(), "longest": longest, "generation": transport.generation, "steps": len(times)}


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    serve()


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    with limited():
        yield


@pytest.fixture(scope="module")
def six(server: None) -> list[dict[str, Any]]:
    with limited():
        return launch(worlds, 6, 6).results


def test_one_two_three_and_six_processes_give_the_same_bits(six: list[dict[str, Any]]):
    expected = every_method(InProcess(6))
    for processes in (2, 3, 6):
        results = [result[str(processes)] for result in six[:processes]]
        for name, (digests, row) in expected.items():
            together = {int(worker): digest for result in results for worker, digest in result[name][0].items()}
            assert together == digests, (name, processes)
            assert all(result[name][1] == row for result in results), (name, processes)


def test_a_slow_worker_is_waited_for_only_as_long_as_told(six: list[dict[str, Any]]):
    results = [result["slow"] for result in six[:3]]
    assert results[0]["longest"] < 0.8
    assert results[0]["steps"] >= 150
    assert all(result["generation"] >= 1 for result in results)
    x = torch.tensor([result["x"] for result in results], dtype=torch.float64)
    undisturbed = train(network("ring", 3), method("dsgd", lr=0.05), quadratics(3), 200, every=200).x
    assert torch.allclose(x, undisturbed, atol=0.01)


def two_deaths(transport: Processes, folder: str) -> dict[str, Any]:
    """Worker 1 is killed in mid-round 20 and comes back from its checkpoint; then worker 3 is killed for good."""
    problem, returned = quadratics(4, transport.local), transport.generation > 0
    if transport.index == 1 and not returned:
        problem.at = lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == 20 else None
    if transport.index == 3:
        problem.at = lambda step: os.kill(os.getpid(), signal.SIGKILL) if transport.generation == 1 else None
    problem.waiting = lambda step: step > 20 and transport.generation < 2
    joined, seen = network("star", 4, transport=transport), []
    done = train(
        joined, method("dsgd", lr=0.1), problem, 500, every=500, folder=Path(folder), checkpoint_every=5,
        resume=returned, observe=lambda row: seen.append(row["round"]),
    )  # fmt: skip
    gathered = joined.average(done.x)[0].tolist()
    return {"x": done.x[0].tolist(), "mean": gathered, "gone": sorted(transport.gone), "seen": seen}


def test_killed_workers_are_noticed_come_back_or_are_left_out(tmp_path: Path):
    launched = launch(two_deaths, 4, 4, str(tmp_path), restarts=1)
    assert launched.deaths == [(1, -signal.SIGKILL), (3, -signal.SIGKILL)]
    assert launched.generations == 2
    assert launched.results[3] is None
    results = launched.results[:3]
    # The others measured the start; the one that came back did not go back to it.
    assert [result["seen"] for result in results] == [[0, 500], [500], [0, 500]]
    assert all(result["gone"] == [3] for result in results)
    # The rest end where they would had worker 3 never been there; its weight stays with its neighbour.
    transport = InProcess(4)
    transport.lose(3)
    undisturbed = train(
        network("star", 4, transport=transport), method("dsgd", lr=0.1), quadratics(4), 500, every=500
    ).x
    assert torch.allclose(torch.tensor([result["x"] for result in results]).double(), undisturbed[:3], atol=0.01)
    mean = quadratics(3).b.mean(0)
    assert all(torch.allclose(torch.tensor(result["mean"]).double(), mean, atol=1e-5) for result in results)


# What brings a method to the optimum of those who are left within 80 rounds.
ALONE = {
    "admm": {"rho": 1.0, "gossip": None},
    "choco": {"compress": "none", "gamma": 1.0, "correction": 0.0},
    "dsgd": {"optimizer": "sgd", "participation": 1.0},
    "fedopt": {"optimizer": "sgd", "server": "momentum", "server_lr": 0.5, "beta": 0.5},
    "scaffold": {"participation": 1.0},
}


def death_in_the_middle_of_a_mean(transport: Processes) -> dict[str, Any]:
    """Worker 4, in the middle of a path, is killed when the mean is on its way down; then all methods on who is left."""
    if transport.index == 4:
        exchange = transport.exchange

        def killed(messages: Any, expected: Any, like: Any) -> Any:
            found = exchange(messages, expected, like)
            # On the way down it has heard the mean and does not hand it on.
            if transport._round == 3 and any(link[0] == 3 for link in found):
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        transport.exchange = killed
    problem = quadratics(6, transport.local)
    # Nobody is through before the meeting is called.
    problem.waiting = lambda step: step > 3 and transport.generation == 0
    done = train(network("path", 6, transport=transport), method("average", lr=0.1), problem, 80, every=80)
    found = {"average": done.x[0].tolist(), "gone": sorted(transport.gone)}
    for name, options in METHODS.items():
        if name not in ("average", "two-star"):
            options = options | {"lr": 0.1} | ALONE.get(name, {})
            joined = network("complete", 6, transport=transport)
            found[name] = train(joined, method(name, **options), problem, 80, every=80).x[0].tolist()
    return found


def test_every_method_goes_on_without_who_is_lost():
    launched = launch(death_in_the_middle_of_a_mean, 6, 6)
    assert launched.deaths == [(4, -signal.SIGKILL)]
    found = [result for result in launched.results if result is not None]
    assert len(found) == 5
    assert all(result["gone"] == [4] for result in found)
    b = quadratics(6).b
    # The path has fallen into two pieces, each of which comes to its own mean.
    for result, pieces in zip(found, [b[:4]] * 4 + [b[5:]], strict=True):
        assert torch.allclose(torch.tensor(result["average"]).double(), pieces.mean(0), atol=0.02)
    optimum = b[[0, 1, 2, 3, 5]].mean(0)
    for name in METHODS:
        if name not in ("average", "two-star"):
            x = torch.tensor([result[name] for result in found], dtype=torch.float64)
            if name == "diloco":
                # AdamW's steps weigh signs, not gradients: with unlike workers it settles elsewhere.
                assert torch.equal(x, x[:1].expand_as(x))
                assert torch.allclose(x.mean(0), optimum, atol=4.0)
                continue
            assert torch.allclose(x.mean(0), optimum, atol=0.3 if name == "fedprox" else 0.02), name
            assert torch.allclose(x, optimum.expand_as(x), atol=2.0 if name in ("choco", "dsgd") else 0.02), name


def counting(transport: Processes, name: str) -> dict[str, Any]:
    """A run during which a process may be killed; what it sent by a count of its own, and by the network's."""
    sent = [0]
    joined = network("complete", 3, transport=transport)
    exchange = transport.exchange

    def counted(messages: Any, expected: Any, like: Any) -> Any:
        if joined._counted:
            alive = [message for (_, receiver), message in messages.items() if receiver not in transport.gone]
            sent[0] += sum(message.numel() * message.element_size() for message in alive)
        return exchange(messages, expected, like)

    transport.exchange = counted
    problem = quadratics(3, transport.local)
    problem.pause, problem.waiting = 0.004, lambda step: True
    options = METHODS[name] | ({"lr": 0.1} | ALONE.get(name, {}))
    done = train(joined, method(name, **options), problem, 40, every=10)
    mean = joined.average(done.x)[0].tolist()
    return {"x": mean, "bytes": joined.bytes_sent, "sent": sent[0], "gone": sorted(transport.gone)}


class Killer(threading.Thread):
    """Kills one of the processes that are about to be started, some seconds after it was."""

    def __init__(self, victim: int, delay: float) -> None:
        super().__init__(daemon=True)
        self.victim, self.delay, self.before = victim, delay, set(multiprocessing.active_children())

    def run(self) -> None:
        started: list[Any] = []
        while len(started) <= self.victim:
            time.sleep(0.001)
            new = set(multiprocessing.active_children()) - self.before
            started = sorted(new, key=lambda process: process._identity)
        time.sleep(self.delay)
        started[self.victim].kill()


# `make killed` tries fifty moments for each method.
KILLS = int(os.environ.get("GRACILE_KILLS", "0"))
MOMENTS = [(name, number) for name in sorted(METHODS) if name != "two-star" for number in range(KILLS)] or [
    ("average", 0), ("choco", 1), ("dsgd", 2), ("scaffold", 3),
]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(server: None) -> float:
    """Seconds that three processes take that nobody kills, once the server of processes is up."""
    for _ in range(2):
        started = time.monotonic()
        launched = launch(counting, 3, 3, "average")
        assert launched.deaths == []
    return time.monotonic() - started


@pytest.mark.parametrize(("name", "number"), MOMENTS)
def test_killed_at_any_moment_the_others_go_on_and_the_bytes_are_right(name: str, number: int, undisturbed: float):
    random = derive_seed(0, "killed", name, number)
    # From before it has joined, over the meeting and the rounds, to the end.
    victim, delay = random % 3, (number + random % 97 / 97) / max(KILLS, 4) * undisturbed
    Killer(victim, delay).start()
    with limited(50):  # Nobody waits for the 60 seconds after which silence is an error.
        launched = launch(counting, 3, 3, name)
    found = [result for result in launched.results if result is not None]
    assert len(found) == 3 - len(launched.deaths)
    assert len(found) >= 2
    b = quadratics(3).b
    for result in found:
        assert result["bytes"] == result["sent"] > 0
        x = torch.tensor(result["x"], dtype=torch.float64)
        left = [worker for worker in range(3) if worker not in result["gone"]]
        assert float(x.min()) > float(b.min()) - 1
        assert float(x.max()) < float(b.max()) + 1
        assert len(left) >= 2


class Apart:
    """Rounds without a message, so that a process may be through long before another."""

    tolerates_loss = True

    def start(self, network: Any, problem: Any) -> dict[str, torch.Tensor]:
        return {"x": torch.stack([problem.start(worker) for worker in network.local])}

    def round(self, network: Any, problem: Any, state: dict[str, torch.Tensor], number: int) -> None:
        problem.descend(state["x"], number, 0.1)

    def agree(self, network: Any, problem: Any, values: torch.Tensor, number: int) -> torch.Tensor:
        return network.average(values)

    def rejoin(self, network: Any, problem: Any, state: dict[str, torch.Tensor], number: int) -> None:
        state["x"] = network.average(state["x"])


def one_is_through_before(transport: Processes) -> dict[str, Any]:
    """Worker 2 is killed when worker 0 is through, and worker 1 still has rounds to go."""
    problem = quadratics(3, transport.local)
    if transport.index == 1:
        problem.pause, problem.waiting = 0.05, lambda step: True
    if transport.index == 2:
        problem.at = lambda step: (time.sleep(0.3), os.kill(os.getpid(), signal.SIGKILL)) if step == 9 else None
    joined = network("complete", 3, transport=transport)
    done = train(joined, Apart(), problem, 12, every=100)
    mean = joined.average(done.x)[0].tolist()
    return {"mean": mean, "gone": sorted(transport.gone), "generation": transport.generation}


def test_who_is_through_follows_those_who_are_called_to_a_meeting():
    """It went on alone: to it the other was lost, and to the other it was."""
    launched = launch(one_is_through_before, 3, 3)
    assert launched.deaths == [(2, -signal.SIGKILL)]
    first, second, _ = launched.results
    assert first == second
    assert first["gone"] == [2]


def test_killed_before_the_first_meeting_the_others_meet_without_it():
    Killer(1, 0.0).start()
    with limited(50):
        launched = launch(counting, 3, 3, "average")
    assert launched.deaths == [(1, -signal.SIGKILL)]
    assert [result["gone"] for result in launched.results if result is not None] == [[1], [1]]
    optimum = quadratics(3).b[[0, 2]].mean(0)
    for place in (0, 2):
        assert torch.allclose(torch.tensor(launched.results[place]["x"]).double(), optimum, atol=0.05)


def one_is_lost_while_the_group_forms(transport: Processes) -> list[int]:
    """Process 2 is killed when process 0 has connected to all, and process 1 has not; who watches notices late."""
    store, form = PrefixStore("second", transport.store), dist.init_process_group

    def formed(*arguments: Any, **options: Any) -> None:
        form(*arguments, **options)
        if options["world_size"] < 3:
            return
        if transport.index == 0:
            store.set("connected", "to all")
        store.wait(["connected"])
        if transport.index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if transport.index == 1:
            dist.destroy_process_group()
            raise RuntimeError("Connection reset by peer")

    dist.init_process_group = formed
    if transport.index == 0:
        threading.Timer(0.5, announce, (store, 1, [0, 1])).start()
    again = Processes(3, store, transport.index, 3)
    train(network("complete", 3, transport=again), method("average", lr=0.1), quadratics(3, again.local), 5, every=5)
    return sorted(again.gone)


def test_lost_while_the_group_forms_the_others_form_one_together():
    """Who had connected to all went on alone, was through before the next meeting was called, and counted two as gone."""
    with limited(50):
        launched = launch(one_is_lost_while_the_group_forms, 3, 3)
    assert launched.deaths == [(2, -signal.SIGKILL)]
    assert launched.results == [[2], [2], None]


def test_who_never_comes_is_named():
    store = HashStore()
    with pytest.raises(GracileError, match=r"Processes 1, 2 did not come .* within 0\.2 s"):
        Processes(3, store, 0, 3, timeout=0.2)


def refusing(transport: Processes) -> None:
    raise InputError("This program refuses.", "Write another.")


def test_what_a_program_raises_reaches_the_caller():
    with pytest.raises(GracileError, match=r"refuses\. Write another"):
        launch(refusing, 2, 1)


def test_a_port_in_use_and_a_world_of_the_wrong_size_are_named(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="in use"):
            launch(refusing, 2, 2, port=taken.getsockname()[1])
    with pytest.raises(InputError, match="cannot share 6 workers"):
        launch(refusing, 6, 7)
    assert hosting(5, 2) == [[0, 1, 2], [3, 4]]
    from gracile.workers import from_environment

    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="torchrun"):
        from_environment(6)
    for key, value in {"RANK": "0", "WORLD_SIZE": "7", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(InputError, match="cannot share 6 workers"):
        from_environment(6)
