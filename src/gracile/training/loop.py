"""The training loop: one function to read, exact to resume."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from gracile.core.errors import DataError, InputError, NonFiniteError
from gracile.core.rule import LearningRule
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed, generator
from gracile.core.sparsifier import Sparsifier
from gracile.data import Augmentation, Dataset, Splits, batches
from gracile.training import checkpoints
from gracile.training.adversarial import CrossEntropy, Objective
from gracile.training.evaluation import evaluate
from gracile.training.interrupts import GracefulStop
from gracile.training.optimizers import OptimizerFactory, optimizer_factory
from gracile.training.parallel import Ranks
from gracile.training.schedules import Constant, Schedule

CHECKPOINT = "checkpoint.safetensors"
# On a GPU asking whether the loss is finite waits for it; on a CPU it is free.
STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 25}

Precision = Literal["auto", "float32", "bf16"]


@dataclass
class History:
    """What happened.

    Attributes:
        rows: one an epoch: ``epoch, lr, train_loss, train_accuracy, val_loss, val_accuracy, seconds`` and, with a
            sparsifier,
            ``sparse_val_loss, sparse_val_accuracy, sparsity, channel_sparsity, nonzero``; accuracies and shares in
            [0, 1].
        seconds: spent training and evaluating, over all sittings.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class _Position:
    """Where the loop stands: this many whole epochs, this many steps into the next, and what it has summed there."""

    epoch: int
    step: int
    loss: Tensor
    correct: Tensor
    seen: int

    @property
    def sums(self) -> tuple[Tensor, Tensor, int]:
        """What it has summed: loss, right answers, samples."""
        return self.loss, self.correct, self.seen


def fit(
    network: nn.Module,
    data: Splits,
    *,
    epochs: int,
    batch_size: int = 128,
    optimizer: str | OptimizerFactory = "sgd",
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    nesterov: bool = False,
    schedule: Schedule | None = None,
    rule: LearningRule | None = None,
    sparsifier: Sparsifier | None = None,
    objective: Objective | None = None,
    augment: Augmentation | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    channels_last: bool = True,
    folder: RunFolder | str | Path | None = None,
    resume: bool = False,
    observe: Callable[[nn.Module], dict[str, float]] | None = None,
    checkpoint_seconds: float = 60.0,
    progress: str | None = None,
) -> History:
    """Train a classifier on the device where it stands.

    Where a torch.distributed process group stands, as under ``gracile run`` started by torchrun, each rank takes its part
    of every batch (DDP): the same steps as one process would take, up to rounding and to what each rank draws for its part:
    dropout, noise and the random starts of attacks. Only rank 0 writes.

    Args:
        network: maps ``x: (n, c, h, w)`` or ``(n, features)`` to logits ``(n, classes)``; images come in [0, 1].
        data: trained on ``data.train``, watched on ``data.validation`` unless that is empty; ``data.test`` is never touched.
        epochs: passes over the training data; the last one counts.
        batch_size: samples a step; a last batch of one sample is left out, because batch-norm cannot use it.
        optimizer: ``sgd``, ``adam``, ``adamw``, ``adagrad``, ``rmsprop``, or a function from parameters to an optimiser (the next four are
            then unused).
        lr, momentum, weight_decay, nesterov: the optimiser's.
        schedule: a factor on the learning rate by progress in epochs, set before every step.
        rule: fills the gradients in place of cross-entropy and backpropagation, such as ``FFNetwork.gradients``.
        sparsifier: RVSM, RGSM or another method, built on `network`; attached here and detached at the end.
        objective: what is minimised: cross-entropy by default, or `gracile.training.adversary` for training on attacked
            samples, whose loss and accuracy then stand in the history as those of training.
        augment: applied to training batches.
        seed: of order, augmentation and dropout; the same seed on the same machine gives the same weights, bit for bit.
        precision: ``bf16`` is autocast; ``auto`` takes it on GPUs that have it.
        channels_last: memory layout of 2-d convolutions; on a CPU it saves 10 to 35 % of a step, on a GPU more.
        folder: where ``metrics.jsonl`` and the checkpoint go; without one nothing is written.
        resume: go on from the folder's checkpoint, if it holds one.
        observe: called each epoch with the network as it would be kept (sparse, if there is a sparsifier); joins the
            row.
        checkpoint_seconds: at most this long between checkpoints.
        progress: a label for the progress bar; None shows none.

    Returns:
        The history of the whole run, earlier sittings included.

    Raises:
        DataError: labels out of the network's range.
        InputError: the network does not take the data.
        NonFiniteError: the loss or a weight is no longer finite; the last good checkpoint stands.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    device = next(network.parameters()).device
    _check_fit(network, data.train)
    if epochs < 1 or batch_size < 1:
        raise InputError(f"epochs={epochs} and batch_size={batch_size} must be at least 1.", "Correct them.")
    place = RunFolder(Path(folder)) if isinstance(folder, (str, Path)) else folder
    if isinstance(optimizer, str):
        optimizer = optimizer_factory(optimizer, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    if channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing from torch's stubs
    built = optimizer(network.parameters())
    train, validation = data.train.to(device), data.validation.to(device)
    steps = steps_per_epoch(len(train), batch_size)
    history = History()
    position = _start(device)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True))
        ranks = Ranks.current()
        if rule is not None and objective is not None:
            raise InputError("A rule fills gradients without an objective, and both are given.", "Leave one out.")
        if rule is not None and ranks.size > 1:
            raise InputError(
                "A rule of its own fills gradients in one process, and several train together here.",
                "Start it without torchrun.",
            )
        # Dropout must not hide the same units of every rank's part.
        torch.manual_seed(derive_seed(seed, "training", *([ranks.rank] if ranks.rank else [])))
        if sparsifier is not None:
            sparsifier.attach(built)
            stack.callback(sparsifier.detach)
        objective = objective or CrossEntropy()
        writes = ranks.rank == 0
        keeper = _Keeper(place, network, built, sparsifier, objective, history, checkpoint_seconds, writes=writes)
        if place is not None:
            # A fresh start takes its rates from the optimiser as built, a resumed one must not take scaled ones.
            rates = [float(group["lr"]) for group in built.param_groups]
            position = keeper.restore(position) if resume else keeper.begin(position)
            for group, rate in zip(built.param_groups, rates, strict=True):
                group["lr"] = rate
            if ranks.rank and position.seen:
                position = _without_sums(position)
                torch.manual_seed(derive_seed(seed, "training", ranks.rank, position.epoch, position.step))
        ranks.wait()
        autocast = _autocast(precision, device)
        stepper = _Stepper(
            network, built, rule or objective, schedule or Constant(), steps, autocast, seed, place, ranks
        )
        stop = stack.enter_context(GracefulStop())
        bar = stack.enter_context(_bar(progress, epochs * steps, position.epoch * steps + position.step))
        network.train()
        while position.epoch < epochs:
            stream = _batches(train, batch_size, seed, position.epoch, augment, device)
            for x, y in itertools.islice(stream, position.step, steps):
                stepper.step(position, x, y)
                bar.update()
                if ranks.size > 1 and position.step % STEPS_BETWEEN_CHECKS[device.type]:
                    continue
                asked, due = ranks.any(stop.asked, keeper.due(), device=device)
                if asked or due:
                    position.loss, position.correct, position.seen = ranks.sums(*position.sums)
                    keeper.save(position)
                    if ranks.rank:
                        position = _without_sums(position)
                if asked:
                    raise KeyboardInterrupt
            position.loss, position.correct, position.seen = ranks.sums(*position.sums)
            _check_finite(position, network, None, place)
            if sparsifier is not None:
                sparsifier.end_epoch()
            row = _epoch_row(position, network, validation, sparsifier, observe)
            row.update(lr=stepper.last_rate(position), seconds=round(keeper.spent(), 3))
            history.rows.append(row)
            position = _Position(position.epoch + 1, 0, *_sums(device))
            keeper.save(position, row)
            bar.set_postfix_str(_postfix(row))
    return history


class _Stepper:
    """One optimiser step after the other, with the learning rate of its moment."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        learning: LearningRule | Objective,
        schedule: Schedule,
        steps: int,
        autocast: torch.autocast,
        seed: int,
        place: RunFolder | None,
        ranks: Ranks,
    ) -> None:
        self.network, self.optimizer, self.schedule = network, optimizer, schedule
        self.ranks, self.parallel = ranks, ranks.parallel(network)
        self.learning = learning
        self.steps, self.autocast, self.seed, self.place = steps, autocast, seed, place
        self.base_rates = [float(group["lr"]) for group in optimizer.param_groups]

    def step(self, position: _Position, x: Tensor, y: Tensor) -> None:
        """Take one step on ``x, y``, several where the objective replays batches, and count the last."""
        progress = position.epoch + position.step / self.steps
        factor = self.schedule.factor(progress)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        x, y, weight = self.ranks.share(x, y)
        if callable(self.learning):
            self.optimizer.zero_grad(set_to_none=True)
            loss, correct = self.learning(x, y)
            self.optimizer.step()
        else:
            rank = [self.ranks.rank] if self.ranks.rank else []
            seed = derive_seed(self.seed, "adversary", position.epoch, position.step, *rank)
            rounds = range(self.learning.replays)
            loss, correct = [self._descend(self.learning, x, y, weight, progress, seed) for _ in rounds][-1]
        position.step += 1
        if weight:
            position.seen += len(y)
            position.loss += loss * len(y)
            position.correct += correct
        if position.step % STEPS_BETWEEN_CHECKS[x.device.type] == 0:
            _check_finite(position, self.network, x, self.place)

    def _descend(
        self, objective: Objective, x: Tensor, y: Tensor, weight: float, progress: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """One step of the optimiser; the loss and how many answers were right."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            loss, logits = objective.loss(self.parallel, x, y, progress, seed)
        (loss if weight == 1 else weight * loss).backward()
        self.optimizer.step()
        objective.follow()
        return loss.detach(), (logits.detach().argmax(dim=1) == y).sum()

    def last_rate(self, position: _Position) -> float:
        """The learning rate of the epoch's last step."""
        return self.base_rates[0] * self.schedule.factor(position.epoch + (self.steps - 1) / self.steps)


def _autocast(precision: Precision, device: torch.device) -> torch.autocast:
    wanted = precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


def _bar(label: str | None, total: int, done: int) -> tqdm[Any]:
    """A progress bar that shows after a second, on terminals; none without a label."""
    return tqdm(total=total, initial=done, desc=label, delay=1.0, unit="step", disable=True if label is None else None)


def _batches(
    train: Dataset, batch_size: int, seed: int, epoch: int, augment: Augmentation | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The epoch's batches: a function of seed and epoch alone, so a resumed epoch skips what it has had."""
    order = torch.randperm(len(train), generator=generator(seed, "order", epoch))
    random = generator(seed, "augment", epoch, device=device)
    return batches(train, batch_size, order=order, augment=augment, generator=random)


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """How many optimiser steps `fit` takes an epoch."""
    whole, rest = divmod(samples, batch_size)
    return whole + (rest > 1 or whole == 0)


def _sums(device: torch.device) -> tuple[Tensor, Tensor, int]:
    zero = torch.zeros((), dtype=torch.float64, device=device)
    return zero, torch.zeros((), dtype=torch.int64, device=device), 0


def _without_sums(position: _Position) -> _Position:
    """The same place with nothing summed: what all ranks have summed so far is rank 0's."""
    return _Position(position.epoch, position.step, *_sums(position.loss.device))


def _start(device: torch.device) -> _Position:
    return _Position(0, 0, *_sums(device))


def _epoch_row(
    position: _Position,
    network: nn.Module,
    validation: Dataset,
    sparsifier: Sparsifier | None,
    observe: Callable[[nn.Module], dict[str, float]] | None,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "epoch": position.epoch + 1,
        "train_loss": position.loss.item() / position.seen,
        "train_accuracy": position.correct.item() / position.seen,
    }
    if len(validation):
        watched = evaluate(network, validation)
        row.update(val_loss=watched.loss, val_accuracy=watched.accuracy)
    kept = network
    if sparsifier is not None:
        kept = sparsifier.sparse_model()
        summary = sparsifier.summary()
        if len(validation):
            sparse = evaluate(kept, validation)
            row.update(sparse_val_loss=sparse.loss, sparse_val_accuracy=sparse.accuracy)
        row.update(sparsity=summary.sparsity, nonzero=summary.nonzero)
        if summary.channel_sparsity is not None:
            row.update(channel_sparsity=summary.channel_sparsity)
    if observe is not None:
        row.update(observe(kept))
    return row


def _postfix(row: dict[str, Any]) -> str:
    text = f"val {100 * row['val_accuracy']:.2f} %" if "val_accuracy" in row else f"loss {row['train_loss']:.4g}"
    if "sparse_val_accuracy" in row:
        text += f", sparse {100 * row['sparse_val_accuracy']:.2f} %"
        share = row.get("channel_sparsity", row["sparsity"])
        text += f" at {100 * share:.1f} % zero {'channels' if 'channel_sparsity' in row else 'weights'}"
    if "macs_left" in row:
        text += f", {100 * row['macs_left']:.1f} % of multiply-adds left"
    return text


class _Keeper:
    """Writes and reads the checkpoint and keeps the time; writes nothing without a folder."""

    def __init__(
        self,
        place: RunFolder | None,
        network: nn.Module,
        optimizer: Optimizer,
        sparsifier: Sparsifier | None,
        objective: Objective,
        history: History,
        every_seconds: float,
        *,
        writes: bool = True,
    ) -> None:
        self.place, self.network, self.optimizer, self.writes = place, network, optimizer, writes
        self.sparsifier, self.objective, self.history = sparsifier, objective, history
        self.every_seconds = every_seconds
        self._clock = self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether the last checkpoint is long enough ago."""
        return self.writes and self.place is not None and time.monotonic() - self._saved > self.every_seconds

    def spent(self) -> float:
        """Seconds so far, added to the history."""
        now = time.monotonic()
        self.history.seconds += now - self._clock
        self._clock = now
        return self.history.seconds

    def begin(self, position: _Position) -> _Position:
        """Start anew: what an earlier start left behind goes."""
        assert self.place is not None
        if self.writes:
            (self.place.path / CHECKPOINT).unlink(missing_ok=True)
            self.place.rewrite_metrics([])
        return position

    def save(self, position: _Position, row: dict[str, Any] | None = None) -> None:
        self.spent()
        if self.place is None or not self.writes:
            return
        _check_weights(self.network, position, self.place)
        if row is not None:
            self.place.record(row)
        state = {
            "position": asdict(position),
            "history": {"rows": self.history.rows, "seconds": self.history.seconds},
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": None if self.sparsifier is None else self.sparsifier.state_dict(),
            "objective": self.objective.state_dict(),
            "random": checkpoints.random_state(),
        }
        checkpoints.save(self.place.path / CHECKPOINT, state)
        self._saved = time.monotonic()

    def restore(self, position: _Position) -> _Position:
        assert self.place is not None
        file = self.place.path / CHECKPOINT
        if not file.exists():
            return self.begin(position)
        state = checkpoints.load(file)
        device = position.loss.device
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        # The file holds tensors in logical order. Laid out otherwise than their weights they would go through other
        # kernels, which round differently: an exact resume needs the layout too.
        for parameter, kept in self.optimizer.state.items():
            for key, value in kept.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    kept[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if self.sparsifier is not None and state["sparsifier"] is not None:
            self.sparsifier.load_state_dict(state["sparsifier"])
        self.objective.load_state_dict(state["objective"])
        checkpoints.set_random_state(state["random"])
        self.history.rows[:] = state["history"]["rows"]
        self.history.seconds = state["history"]["seconds"]
        # Rows are appended before the checkpoint is replaced; a kill in between left one too many.
        if self.writes:
            self.place.rewrite_metrics(self.history.rows)
        found = state["position"]
        return _Position(
            found["epoch"], found["step"], found["loss"].to(device), found["correct"].to(device), found["seen"]
        )


def _check_fit(network: nn.Module, train: Dataset) -> None:
    """Refuse, before anything is trained, what the network cannot take."""
    device = next(network.parameters()).device
    x, _ = next(batches(train.subset(torch.arange(min(2, len(train)))), 2))
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            logits = network(x.to(device))
    except RuntimeError as error:
        raise InputError(
            f"The network does not take inputs of shape {tuple(x.shape[1:])}: {str(error).splitlines()[0]}.",
            "Build it with the data's in_channels and image_size.",
        ) from error
    finally:
        network.train(training)
    if logits.ndim != 2:
        raise InputError(
            f"The network's output has shape {tuple(logits.shape)}.", "A classifier must give logits (n, classes)."
        )
    low, high = int(train.labels.min()), int(train.labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise DataError(
            f"The labels run from {low} to {high}, and the network has {logits.shape[1]} outputs.",
            f"Number the classes from 0, or build the network with num_classes={high + 1}.",
        )


def _check_finite(position: _Position, network: nn.Module, x: Tensor | None, place: RunFolder | None) -> None:
    """Stop at a loss that is no longer a number, and say where it began."""
    if torch.isfinite(position.loss):
        return
    if x is not None and not torch.isfinite(x).all():
        cause = "the batch holds NaN or infinity"
    else:
        broken = [name for name, tensor in network.named_parameters() if not torch.isfinite(tensor).all()]
        cause = f"'{broken[0]}' holds NaN or infinity" if broken else "its weights are still finite"
    raise _not_finite(
        f"The loss is no longer finite in epoch {position.epoch + 1}, step {position.step}: {cause}.", place
    )


def _check_weights(network: nn.Module, position: _Position, place: RunFolder | None) -> None:
    """A checkpoint must never replace a good one with weights that are not numbers."""
    for name, tensor in network.named_parameters():
        if not torch.isfinite(tensor).all():
            raise _not_finite(
                f"'{name}' is no longer finite after epoch {position.epoch}, step {position.step}.", place
            )


def _not_finite(cause: str, place: RunFolder | None) -> NonFiniteError:
    kept = ""
    if place is not None and (place.path / CHECKPOINT).exists():
        kept = f" The last good checkpoint is {place.path / CHECKPOINT}."
    return NonFiniteError(cause, f"Lower lr, or start with a warm-up.{kept}")
