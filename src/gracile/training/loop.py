"""The training loop: one function to read, exact to resume."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gracile.core.errors import DataError, InputError
from gracile.core.learning_rule import LearningRule
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed, generator
from gracile.core.sparsifier import Sparsifier, settled
from gracile.data import Augmentation, Dataset, Splits, batches
from gracile.data.dataset import check_data
from gracile.training.attacked import logits_of
from gracile.training.checkpointer import Checkpointer
from gracile.training.compiled import Compile, compiled
from gracile.training.interrupts import GracefulStop
from gracile.training.lean import Lean, check_lean, check_resumed, lean
from gracile.training.objectives import Loss, Objective, as_objective
from gracile.training.optimizers import OptimizerFactory, optimizer_factory
from gracile.training.parallel import Ranks
from gracile.training.precision import Precision, Taken, autocast, choose
from gracile.training.recorder import Observer, Recorder, told
from gracile.training.schedules import Constant, Schedule
from gracile.training.state import History, TrainingState, check_finite, check_row, check_weights
from gracile.training.step import STEPS_BETWEEN_CHECKS, TrainingStep

log = logging.getLogger("gracile")


def fit(
    model: nn.Module,
    data: Splits,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    record_every: int | None = None,
    batch_size: int = 128,
    drop_last: bool = False,
    optimizer: str | OptimizerFactory = "sgd",
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    nesterov: bool = False,
    schedule: Schedule | None = None,
    learning_rule: LearningRule | None = None,
    sparsifier: Sparsifier | None = None,
    objective: Objective | Loss | None = None,
    augment: Augmentation | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    channels_last: bool = True,
    compile: Compile = False,
    lean_passes: Lean = "auto",
    folder: RunFolder | str | Path | None = None,
    resume: bool = False,
    observe: Observer | Sequence[Observer] = (),
    checkpoint_seconds: float = 60.0,
    progress: str | None = None,
) -> History:
    """Train a classifier on the device where it stands.

    Where a torch.distributed process group stands, as under ``gracile run`` started by torchrun, each rank takes its
    part of every batch (DDP): the same steps as one process would take, up to rounding and to what each rank draws for
    its part: dropout, noise and the random starts of attacks. Only rank 0 writes.

    Args:
        model: maps ``x: (n, c, h, w)`` or ``(n, features)`` to logits ``(n, classes)``; images come in [0, 1].
        data: trained on ``data.train``, watched on ``data.validation`` unless that is empty; ``data.test`` is never
            touched.
        epochs: passes over the training data; the last one counts.
        steps: batches to train on, in place of `epochs`; the last epoch may end early. Give one of the two.
        record_every: steps from one record to the next; by default each epoch ends with one. The last step is always
            recorded.
        batch_size: samples per step; a last batch of one sample is left out, because batch-norm cannot use it.
        drop_last: leave out every last batch that is not full.
        optimizer: ``sgd``, ``adam``, ``adamw``, ``adagrad``, ``rmsprop``, or a function from parameters to an optimiser
            (the next four are then unused).
        lr: learning rate.
        momentum: see `gracile.training.optimizer_factory`.
        weight_decay: coefficient of the l2 penalty.
        nesterov: whether the momentum is Nesterov's.
        schedule: a factor on the learning rate by progress in epochs, set before every step.
        learning_rule: fills the gradients in place of an objective and backpropagation, as ``FFNetwork.gradients``.
        sparsifier: RVSM, RGSM or another method, built on `model`; attached here and detached at the end. Its
            `end_epoch` is called after whole epochs only.
        objective: what is minimised: cross-entropy by default; a function from outputs and labels to a scalar, whose
            mean is then the validation loss too; or `gracile.training.adversary` for training on attacked samples,
            whose loss and accuracy then stand in the history as those of training.
        augment: applied to training batches.
        seed: of order, augmentation and dropout; the same seed on the same machine gives the same weights, bit for bit.
        precision: ``bf16`` is autocast; ``auto`` takes it on GPUs that have it and, where it pays, on processors that have it, by the
            rule of `gracile.training.precision`. The history and the log name what was taken, and a resumed run keeps it.
        channels_last: memory layout of 2-d convolutions; on a CPU it saves 10 to 35 % of a step, on a GPU more.
        compile: whether the passes of a step go through ``torch.compile``, which takes a minute or so first; ``auto`` times both where
            training takes minutes, and takes the faster: another run may choose otherwise, and its last bits differ. For losses on
            clean samples in one process, without hooks on the passes. The history tells, and a resumed run keeps it.
        lean_passes: whether passes leave out what the sparsifier has removed, once its choice is final; ``auto`` where that saves more
            than it costs, by the rule of `gracile.training.lean`. Training is the same up to rounding and to what dropout draws. The log
            and the history tell, and a resumed run keeps it.
        folder: where ``metrics.jsonl`` and the checkpoint go; without one nothing is written.
        resume: go on from the folder's checkpoint, if it holds one, with the network, optimiser, method, objective and monitors it was
            made with.
        observe: monitors, as `gracile.dynamics.monitors` builds them, and functions from the network to numbers by
            name; one or several. At each record they are given the network as it would be kept (sparse, if there is a
            sparsifier), and what they return joins its row.
        checkpoint_seconds: at most this long between checkpoints.
        progress: a label for the progress bar; None shows none.

    Returns:
        The history of the whole run, earlier sittings included.

    Raises:
        DataError: labels out of the network's range.
        InputError: the network does not take the data or gives no logits, they are no `Splits`, the length of training is not given
            exactly once, lean or compiled passes are asked for and cannot be, or a checkpoint was made with something else.
        NonFiniteError: the loss or a weight is no longer finite; the last good checkpoint and all records stand.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    check_data(data)
    device = next(model.parameters()).device
    _check_fit(model, data.train)
    _check_numbers(epochs, steps, record_every, batch_size)
    check_lean(lean_passes, sparsifier)
    place = RunFolder(Path(folder)) if isinstance(folder, (str, Path)) else folder
    if isinstance(optimizer, str):
        optimizer = optimizer_factory(optimizer, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing from torch's stubs
    built = optimizer(model.parameters())
    train, validation = data.train.to(device), data.validation.to(device)
    per_epoch = steps_per_epoch(len(train), batch_size, drop_last=drop_last)
    total = steps if epochs is None else epochs * per_epoch
    assert total is not None
    minimised = as_objective(objective)
    learning = learning_rule or minimised
    _check_length(sparsifier, total * minimised.replays)
    recorder = Recorder(model, validation, sparsifier, minimised, observe, per_epoch, record_every, total)
    history = History()
    position = TrainingState.at(device, 0)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True))
        ranks = Ranks.current()
        if learning_rule is not None:
            _check_rule(objective, ranks, precision)
        # Dropout must not hide the same units of every rank's part.
        torch.manual_seed(derive_seed(seed, "training", *([ranks.rank] if ranks.rank else [])))
        if sparsifier is not None:
            sparsifier.attach(built)
            stack.callback(sparsifier.detach)
        saver = Checkpointer(
            place, model, built, sparsifier, minimised, learning_rule, recorder.monitors, history, checkpoint_seconds,
            writes=ranks.rank == 0,
        )  # fmt: skip
        if place is not None:
            # A fresh start takes its rates from the optimiser as built, a resumed one must not take scaled ones.
            rates = [float(group["lr"]) for group in built.param_groups]
            position = saver.restore(position) if resume else saver.begin(position)
            check_resumed(lean_passes, history.lean)
            for group, rate in zip(built.param_groups, rates, strict=True):
                group["lr"] = rate
            if position.step >= per_epoch:
                raise InputError(
                    f"The checkpoint in {place.path} stands at step {position.step} of an epoch, which has {per_epoch}.",
                    "Resume with the batch size and the data it was made with, or start anew without resume.",
                )
            if ranks.rank and position.seen:
                position = position.without_sums()
                torch.manual_seed(derive_seed(seed, "training", ranks.rank, position.epoch, position.step))
        ranks.wait()
        # Only now: loading an optimiser's state replaces its groups of parameters, from which monitors read the rate.
        stack.callback(recorder.end)
        recorder.begin(built)
        history.precision = _precision(precision, model, learning, ranks, history.precision)
        passes = autocast(history.precision, device)
        model.train()
        through = None
        if compile or history.compiled:
            batch = next(_batches(train, batch_size, seed, 0, augment, device, drop_last=drop_last))
            left = total - position.taken(per_epoch)
            through = compiled(compile, history.compiled, model, learning, batch, passes, left, ranks.size)
        history.compiled = through is not None
        stepper = TrainingStep(
            model, through or ranks.parallel(model), built, learning, schedule or Constant(), per_epoch, passes, seed, place,
            ranks,
        )  # fmt: skip
        # A resumed run keeps whole passes that the rule chose; lean ones are built anew below.
        kept_whole = lean_passes == "auto" and history.lean == 1
        waiting = sparsifier is not None and lean_passes is not False and not kept_whole
        stop = stack.enter_context(GracefulStop())
        bar = stack.enter_context(_bar(progress, total, position.taken(per_epoch)))
        while (taken := position.taken(per_epoch)) < total:
            stream = _batches(train, batch_size, seed, position.epoch, augment, device, drop_last=drop_last)
            # The epoch's end, or the run's where it ends earlier.
            until = min(per_epoch, position.step + total - taken)
            for x, y in itertools.islice(stream, position.step, until):
                recorded = recorder.due(position.taken(per_epoch) + 1)
                if recorded:
                    recorder.before_step(x, y)
                if waiting and settled(sparsifier):
                    smaller = lean(
                        lean_passes,
                        history.lean,
                        model,
                        learning,
                        x,
                        batch_size=min(batch_size, len(train)),
                        precision=history.precision,
                        compiled=history.compiled,
                        ranks=ranks.size,
                    )
                    stepper.through, waiting = smaller or stepper.through, False
                    history.lean = 1.0 if smaller is None else smaller.left
                stepper.step(position, x, y)
                recorder.after_step()
                bar.update()
                whole = position.step == per_epoch
                if recorded:
                    position.loss, position.correct, position.seen = ranks.sums(*position.sums)
                    check_finite(position, model, None, place)
                if whole and sparsifier is not None:
                    sparsifier.end_epoch()
                if recorded:
                    check_weights(model, position, place)
                    row = recorder.row(position, first=not history.rows)
                    row.update(lr=stepper.last_rate(position), seconds=round(saver.spent(), 3))
                    check_row(row, place)
                    history.rows.append(row)
                    bar.set_postfix_str(told(row))
                    position = position.without_sums()
                if whole:
                    position.epoch, position.step = position.epoch + 1, 0
                if recorded:
                    saver.save(position, history.rows[-1])
                if ranks.size > 1 and position.step % STEPS_BETWEEN_CHECKS[device.type]:
                    continue
                asked, due = ranks.any(stop.asked, saver.due(), device=device)
                if asked or due:
                    position.loss, position.correct, position.seen = ranks.sums(*position.sums)
                    saver.save(position)
                    if ranks.rank:
                        position = position.without_sums()
                if asked:
                    raise KeyboardInterrupt
        if history.lean is None and lean_passes is True:
            log.warning("The choice was never final, so that every pass was whole. A dial's `settle` says when it is.")
    return history


def _precision(
    asked: Precision, model: nn.Module, learning: LearningRule | Objective, ranks: Ranks, before: Taken | None
) -> Taken:
    """What all ranks train in: what the run began with, if it has begun."""
    device = next(model.parameters()).device
    taken, why = choose(asked, model, learning, device)
    [lacking] = ranks.any(taken == "float32", device=device)
    if before is not None and asked not in ("auto", before):
        raise InputError(
            f"This run began in {before}, and precision='{asked}' is asked for.",
            f"Resume with precision='{before}', or start anew without resume.",
        )
    if before is not None:
        taken, why = before, "as the run began"
    elif lacking and taken == "bf16":
        taken, why = "float32", "another rank's machine has no bf16"
    log.info("Training in %s: %s.", taken, why)
    return taken


def _check_length(sparsifier: Sparsifier | None, steps: int) -> None:
    """Warn where a run is over before its method is."""
    asked = getattr(sparsifier, "steps", 0)
    if asked > steps + getattr(sparsifier, "step", 0):
        log.warning(
            "%s is set for %d steps, and this run takes %d: build it with steps=%d, or train for longer.",
            type(sparsifier).__name__, asked, steps, steps,
        )  # fmt: skip


def _check_rule(objective: Objective | Loss | None, ranks: Ranks, precision: Precision) -> None:
    if precision == "bf16":
        raise InputError(
            "A learning rule takes its gradients itself, and bf16 is for those of backpropagation.",
            "Leave precision out, or set it to 'float32'.",
        )
    if objective is not None:
        raise InputError("A learning rule fills gradients without an objective, and both are given.", "Leave one out.")
    if ranks.size > 1:
        raise InputError(
            "A learning rule fills gradients in one process, and several train together here.",
            "Start it without torchrun.",
        )


def _bar(label: str | None, total: int, done: int) -> tqdm[Any]:
    """A progress bar that shows after a second, on terminals; none without a label."""
    return tqdm(total=total, initial=done, desc=label, delay=1.0, unit="step", disable=True if label is None else None)


def _batches(
    train: Dataset,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: Augmentation | None,
    device: torch.device,
    *,
    drop_last: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The epoch's batches: a function of seed and epoch alone, so a resumed epoch skips what it has had."""
    order = torch.randperm(len(train), generator=generator(seed, "order", epoch))
    random = generator(seed, "augment", epoch, device=device)
    # A data set smaller than a batch is one batch all the same.
    whole = drop_last and len(train) >= batch_size
    return batches(train, batch_size, order=order, augment=augment, generator=random, drop_last=whole)


def steps_per_epoch(samples: int, batch_size: int, *, drop_last: bool = False) -> int:
    """How many batches `fit` trains on in an epoch."""
    whole, rest = divmod(samples, batch_size)
    return whole + (whole == 0 or (rest > 1 and not drop_last))


def _check_numbers(epochs: int | None, steps: int | None, record_every: int | None, batch_size: int) -> None:
    if (epochs is None) == (steps is None):
        raise InputError(f"epochs={epochs} and steps={steps} were given.", "Give one of them: how long to train.")
    given = {"epochs": epochs, "steps": steps, "record_every": record_every, "batch_size": batch_size}
    for name, value in given.items():
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1.", f"Pass {name}=1 or more.")


def _check_fit(model: nn.Module, train: Dataset) -> None:
    """Refuse, before anything is trained, what the network cannot take."""
    device = next(model.parameters()).device
    x, _ = next(batches(train.subset(torch.arange(min(2, len(train)))), 2))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(x.to(device))
    except RuntimeError as error:
        raise InputError(
            f"The network does not take inputs of shape {tuple(x.shape[1:])}: {str(error).splitlines()[0]}.",
            "Build it with the data's in_channels and image_size.",
        ) from error
    finally:
        model.train(training)
    logits = logits_of(logits)
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
