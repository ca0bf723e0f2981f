"""The training loop: one function to read, exact to resume."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gracile.core.errors import DataError, InputError
from gracile.core.rule import LearningRule
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed, generator
from gracile.core.sparsifier import Sparsifier
from gracile.data import Augmentation, Dataset, Splits, batches
from gracile.training.adversarial import CrossEntropy, Objective
from gracile.training.evaluation import evaluate
from gracile.training.interrupts import GracefulStop
from gracile.training.keeper import Keeper
from gracile.training.optimizers import OptimizerFactory, optimizer_factory
from gracile.training.parallel import Ranks
from gracile.training.position import History, Position, check_finite
from gracile.training.schedules import Constant, Schedule
from gracile.training.stepper import STEPS_BETWEEN_CHECKS, Precision, Stepper, autocast_of


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
    position = Position.at(device, 0)
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
        keeper = Keeper(place, network, built, sparsifier, objective, history, checkpoint_seconds, writes=writes)
        if place is not None:
            # A fresh start takes its rates from the optimiser as built, a resumed one must not take scaled ones.
            rates = [float(group["lr"]) for group in built.param_groups]
            position = keeper.restore(position) if resume else keeper.begin(position)
            for group, rate in zip(built.param_groups, rates, strict=True):
                group["lr"] = rate
            if ranks.rank and position.seen:
                position = position.without_sums()
                torch.manual_seed(derive_seed(seed, "training", ranks.rank, position.epoch, position.step))
        ranks.wait()
        autocast = autocast_of(precision, device)
        stepper = Stepper(
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
                        position = position.without_sums()
                if asked:
                    raise KeyboardInterrupt
            position.loss, position.correct, position.seen = ranks.sums(*position.sums)
            check_finite(position, network, None, place)
            if sparsifier is not None:
                sparsifier.end_epoch()
            row = _epoch_row(position, network, validation, sparsifier, observe)
            row.update(lr=stepper.last_rate(position), seconds=round(keeper.spent(), 3))
            history.rows.append(row)
            position = Position.at(device, position.epoch + 1)
            keeper.save(position, row)
            bar.set_postfix_str(_postfix(row))
    return history


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


def _epoch_row(
    position: Position,
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
