"""The rounds: run a method over a network, record what it does and costs, keep checkpoints to come back from."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gracile.core.errors import InputError, NonFiniteError, StorageError
from gracile.core.files import write_atomically
from gracile.core.tensor_files import read_tensors, reading
from gracile.workers.methods import Method, State
from gracile.workers.network import WorkerNetwork
from gracile.workers.problem import Buffered, Problem

Evaluate = Callable[[Tensor], dict[str, Tensor]]


@dataclass
class Trained:
    """What came of a run.

    Attributes:
        x: (len(local), p), the weights of the local workers.
        rows: one per measurement: ``round``, ``bytes`` (payload over all links so far), ``seconds``, ``distance`` (consensus
            distance after the round), ``before`` (before its exchange) and ``bound`` (what its gossip may leave of that by the
            spectral gap, were it one round where the method takes an exact mean; only where no message may be lost),
            where the method gossips or averages; and what `evaluate` returned, a list of one number per worker.
        state: of the method, with one row per local worker.
    """

    x: Tensor
    rows: list[dict[str, Any]] = field(default_factory=list)
    state: State = field(default_factory=dict)

    def digests(self) -> list[str]:
        """SHA-256 of each local worker's weights: equal where the bits are."""
        return [hashlib.sha256(row.contiguous().numpy().tobytes()).hexdigest() for row in self.x.cpu()]


def train(
    network: WorkerNetwork,
    method: Method,
    problem: Problem,
    rounds: int,
    *,
    evaluate: Evaluate | None = None,
    every: int = 1,
    folder: Path | None = None,
    checkpoint_every: int = 0,
    resume: bool = False,
    observe: Callable[[dict[str, Any]], None] | None = None,
) -> Trained:
    """Run a method.

    Args:
        network: joins the workers; it may host all of them or some.
        method: a row of `gracile.workers.METHODS`, made.
        problem: on the network's local workers.
        rounds: in total, those before a checkpoint included.
        evaluate: from (len(local), p) to named (len(local),) tensors, such as accuracies; called at measurements.
        every: rounds between measurements; the start and the last round are measured too.
        folder: where each worker keeps its checkpoint; none without.
        checkpoint_every: rounds between checkpoints; 0 for none.
        resume: begin from the checkpoints in `folder` where there are any.
        observe: called with each new row.

    Raises:
        InputError: messages may be lost and the method does not stand it; counts below 1.
        NonFiniteError: weights are no longer finite.
    """
    if rounds < 0 or every < 1:
        raise InputError(f"rounds={rounds} and every={every} make no run.", "Give rounds >= 0 and every >= 1.")
    if network.may_lose and not method.tolerates_loss:
        raise InputError(
            f"The method '{type(method).__name__}' does not stand lost messages, and this network may lose some.",
            "Use another method, or leave out drop and patience.",
        )
    state, number, together = method.start(network, problem), 0, True
    if isinstance(problem, Buffered):
        problem.reset()
        state["buffers"] = problem.buffers
    if resume and folder is not None:
        reached = [restore(folder, network, state, row) for row in range(len(network.local))]
        # Where all workers are here and as far as one another, nothing is to be made fit again: they go on bit by bit.
        number, together = max(reached), network.alone and len(set(reached)) == 1
    trained, begun, catching_up = Trained(state["x"]), time.monotonic(), number > 0 and not together

    def measure() -> None:
        trained.rows.append(_measured(network, state, number, time.monotonic() - begun, evaluate))
        if observe is not None:
            observe(trained.rows[-1])

    if number == 0:
        measure()
    while True:
        ahead, regrouped = network.synchronise(number, newcomer=catching_up, last=number >= rounds)
        if ahead > number or regrouped or catching_up:
            number, catching_up = min(ahead, rounds), False
            method.rejoin(network, problem, state, number)
            continue
        if number >= rounds:
            break
        network.watching = (number + 1) % every == 0 or number + 1 == rounds
        network.distances = None
        method.round(network, problem, state, number)
        if isinstance(problem, Buffered) and problem.buffers.numel() and problem.statistics == "averaged":
            with network.unwatched():
                problem.buffers.copy_(method.agree(network, problem, problem.buffers, number))
        number += 1
        if network.watching:
            network.watching = False
            measure()
        if folder is not None and checkpoint_every and number % checkpoint_every == 0:
            for row in range(len(network.local)):
                keep(folder, network, state, number, row)
    trained.x, trained.state = state["x"], state
    return trained


def _measured(
    network: WorkerNetwork, state: State, number: int, seconds: float, evaluate: Evaluate | None
) -> dict[str, Any]:
    x = state["x"]
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError(f"Weights are no longer finite after round {number}.", "Lower lr, or rho or gamma.")
    row: dict[str, Any] = {
        "round": number,
        "bytes": network.total_bytes(),
        "seconds": round(seconds, 3),
        "distance": network.distance(x),
    }
    if network.distances is not None:
        row["before"], _, bound = network.distances
        if not network.may_lose:
            row["bound"] = bound
    for name, values in ({} if evaluate is None else evaluate(x)).items():
        row[name] = [None if value != value else value for value in network.gather(values).tolist()]
    return row


def _file(folder: Path, worker: int) -> Path:
    return folder / f"worker-{worker}.safetensors"


def keep(folder: Path, network: WorkerNetwork, state: State, number: int, row: int) -> None:
    """Write one local worker's checkpoint: its rows of the state, and the round.

    Args:
        folder: one file per worker.
        network: the workers.
        state: as it stands after the round.
        number: of the round.
        row: of the local worker.

    Raises:
        StorageError: the file cannot be written; the last one stands.
    """
    # What a method knows of other workers has no row of a local one, and is learnt anew.
    own = {name: tensor[row].clone() for name, tensor in state.items() if len(tensor) == len(network.local)}
    header = {"round": str(number), "worker": str(network.local[row]), "of": str(network.workers)}
    header["network"] = json.dumps(network.counts(network.local[row]))
    write_atomically(_file(folder, network.local[row]), lambda path: save_file(own, path, metadata=header))


def restore(folder: Path, network: WorkerNetwork, state: State, row: int) -> int:
    """Put one local worker's checkpoint into the state; the round it was written after, 0 where there is none.

    Raises:
        StorageError: the file is damaged, or of another network.
    """
    path = _file(folder, network.local[row])
    if not path.exists():
        return 0
    remedy = "It is damaged or of another run: delete it."
    header, tensors = read_tensors(path, remedy)
    with reading(path, remedy):
        if int(header["of"]) != network.workers:
            raise StorageError(
                f"{path} belongs to a network of {header['of']} workers, not {network.workers}.",
                "Use its folder with as many workers.",
            )
        for name, tensor in tensors.items():
            state[name][row].copy_(tensor)
        network.go_on_from(json.loads(header["network"]))
        return int(header["round"])
