"""The training room: the loop learns, repeats itself exactly, stops where it must and resumes where it stopped."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from gracile import RGSM, RVSM, fit
from gracile.core import files
from gracile.core.errors import DataError, InputError, NonFiniteError, StorageError
from gracile.core.runs import RunFolder
from gracile.data import Augmentation, Splits
from gracile.dynamics import monitors
from gracile.penalties import L1
from gracile.pruning import ADMM, L1Filters
from gracile.training import (
    Cosine,
    Milestones,
    WeightAverage,
    adversary,
    checkpoints,
    evaluate,
    optimizer_factory,
    proximal,
    steps_per_epoch,
)
from gracile.training.checkpoints import CHECKPOINT
from gracile.training.schedules import schedule_named

SETTINGS = {"epochs": 3, "batch_size": 32, "lr": 0.05, "seed": 4}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(96, 3),
    )


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in model.state_dict().values()])


def test_it_learns_an_easy_problem(blobs: Splits):
    model = network()
    history = fit(model, blobs, **SETTINGS)
    assert [row["epoch"] for row in history.rows] == [1, 2, 3]
    assert evaluate(model, blobs.test).accuracy > 0.95


def test_the_test_split_is_never_touched(blobs: Splits):
    class Untouchable:
        def __getattr__(self, name: str):
            raise AssertionError(f"the test split's {name} was read")

    fit(network(), dataclasses.replace(blobs, test=Untouchable()), **{**SETTINGS, "epochs": 1})


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_same_seed_gives_the_same_weights(blobs: Splits, optimizer: str):
    found = []
    for _ in range(2):
        model = network()
        fit(model, blobs, **SETTINGS, optimizer=optimizer, augment=Augmentation(flip=True, crop=1))
        found.append(weights(model))
    assert torch.equal(*found)


def test_another_seed_gives_other_weights(blobs: Splits):
    found = []
    for seed in (0, 1):
        model = network()
        fit(model, blobs, **{**SETTINGS, "seed": seed})
        found.append(weights(model))
    assert not torch.equal(*found)


def test_the_callers_random_numbers_are_left_alone(blobs: Splits):
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    fit(network(1), blobs, **{**SETTINGS, "epochs": 1})
    model = network(1)
    torch.manual_seed(9)
    fit(model, blobs, **{**SETTINGS, "epochs": 1})
    assert torch.equal(torch.rand(3), expected)


class StopAt:
    """An optimiser factory whose optimiser asks the process to stop at a given step, as Ctrl-C would."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.left, self.number = step, number

    def __call__(self, parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, foreach=True)
        optimizer.register_step_post_hook(self._count)
        return optimizer

    def _count(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("step", [1, 4, 6, 7, 12, 18])
@pytest.mark.parametrize("restart", [False, True])
def test_an_interrupted_run_resumes_bit_for_bit(blobs: Splits, tmp_path: Path, step: int, restart: bool):
    # Steps 6, 12 and 18 end an epoch: the seam between steps and epochs is where a resume goes wrong.
    def run(folder: Path, stop_at: int | None) -> torch.Tensor:
        model = network()
        split = RGSM(model, lam=0.05, beta=0.5, restart=restart)
        augment = Augmentation(flip=True, crop=1)
        common = {**SETTINGS, "sparsifier": split, "augment": augment, "folder": folder, "schedule": Cosine(3)}
        if stop_at is not None:
            with pytest.raises(KeyboardInterrupt):
                fit(model, blobs, **common, optimizer=StopAt(stop_at))
            model = network()
            split = RGSM(model, lam=0.05, beta=0.5, restart=restart)
            common["sparsifier"] = split
        fit(model, blobs, **common, optimizer=StopAt(10**9), resume=True)
        return weights(model)

    assert torch.equal(run(tmp_path / "whole", None), run(tmp_path / "stopped", step))
    whole, stopped = (RunFolder(tmp_path / name).metrics() for name in ("whole", "stopped"))
    for row in (*whole, *stopped):
        del row["seconds"]
    assert whole == stopped
    assert [row["epoch"] for row in stopped] == [1, 2, 3]


def test_sigterm_stops_as_politely_as_ctrl_c(blobs: Splits, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        fit(network(), blobs, **SETTINGS, optimizer=StopAt(3, signal.SIGTERM), folder=tmp_path)
    assert checkpoints.load(tmp_path / CHECKPOINT)["position"]["step"] == 3


def test_a_kill_between_row_and_checkpoint_leaves_no_double_row(blobs: Splits, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        fit(network(), blobs, **SETTINGS, optimizer=StopAt(8), folder=tmp_path)
    folder = RunFolder(tmp_path)
    folder.record({"epoch": 2, "written": "just before the kill"})
    fit(network(), blobs, **SETTINGS, optimizer=StopAt(10**9), folder=tmp_path, resume=True)
    assert [row["epoch"] for row in folder.metrics()] == [1, 2, 3]


def test_a_finished_run_resumes_to_its_own_weights(blobs: Splits, tmp_path: Path):
    model, again = network(), network(7)
    fit(model, blobs, **SETTINGS, folder=tmp_path)
    history = fit(again, blobs, **SETTINGS, folder=tmp_path, resume=True)
    assert torch.equal(weights(model), weights(again))
    assert len(history.rows) == 3


def by_backpropagation(model: nn.Module):
    """A learning rule, as far as `fit` knows."""

    def gradients(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, y)
        loss.backward()
        return loss.detach(), (logits.argmax(dim=1) == y).sum()

    return gradients


def made_with(part: str | None, model: nn.Module) -> dict:
    """Settings of a run with something more, or something else."""
    return {
        None: {},
        "l1": {"sparsifier": L1Filters(model, steps=18, example=torch.zeros(2, 1, 8, 8), channels=0.5, prune_at=0.1)},
        "admm": {"sparsifier": ADMM(model, steps=18)},
        "adam": {"optimizer": "adam"},
        "pgd": {"objective": adversary("pgd", steps=1)},
        "mse": {"objective": lambda outputs, y: outputs.square().mean()},
        "loss": {"objective": nn.functional.cross_entropy},
        "average": {"observe": [WeightAverage()]},
        "rule": {"learning_rule": by_backpropagation(model)},
        "averages": {"observe": [WeightAverage(0.9), WeightAverage(0.99)]},
    }[part]


@pytest.mark.parametrize(("began", "goes_on", "says"), [
    ("l1", None, r"This run began with L1Filters, and none is given\. Resume with it, or start anew without resume"),
    (None, "l1", r"This run began without a method of sparse training, and L1Filters is given\. Resume without it, or start"),
    ("l1", "admm", "This run began with L1Filters, and ADMM is given"),
    (None, "adam", "This run began with SGD, and Adam is given"),
    ("adam", None, "This run began with Adam, and SGD is given"),
    (None, "pgd", "This run began with CrossEntropy, and PGD is given"),
    ("loss", "mse", "This run began with cross_entropy, and <lambda> is given"),
    ("rule", None, "This run began with gradients, and none is given"),
    ("average", None, "This run began with WeightAverage, and none is given"),
    ("average", "averages", r"This run began with WeightAverage, and WeightAverage \+ WeightAverage is given"),
])  # fmt: skip
def test_a_run_is_not_resumed_with_another_method(
    blobs: Splits, tmp_path: Path, began: str | None, goes_on: str | None, says: str
):
    model = network()
    fit(model, blobs, **{**SETTINGS, "epochs": 1}, folder=tmp_path, **made_with(began, model))
    kept = (tmp_path / CHECKPOINT).read_bytes()
    model = network(1)
    before = weights(model)
    with pytest.raises(InputError, match=says):
        fit(model, blobs, **SETTINGS, folder=tmp_path, resume=True, **made_with(goes_on, model))
    assert torch.equal(weights(model), before)
    assert (tmp_path / CHECKPOINT).read_bytes() == kept
    model = network(1)
    assert len(fit(model, blobs, **SETTINGS, folder=tmp_path, resume=True, **made_with(began, model)).rows) == 3


def test_a_checkpoint_of_another_network_is_not_called_damaged(blobs: Splits, tmp_path: Path):
    fit(network(), blobs, **{**SETTINGS, "epochs": 1}, folder=tmp_path)
    other = network()
    other[3] = nn.Conv2d(6, 6, 3, bias=False)
    with pytest.raises(
        InputError, match=r"do not fit the network: '3\.bias' is \(6,\) in the file and absent in the network"
    ):
        fit(other, blobs, **SETTINGS, folder=tmp_path, resume=True)
    frozen = network()
    frozen[0].requires_grad_(False)
    only = lambda parameters: torch.optim.SGD([one for one in parameters if one.requires_grad], lr=0.1)
    with pytest.raises(
        InputError, match=r"is not the SGD that is given: it trains groups of \[8\] parameters in place of \[6\]"
    ):
        fit(frozen, blobs, **SETTINGS, optimizer=only, folder=tmp_path, resume=True)


@pytest.mark.parametrize("began", [None, "l1", "average"])
def test_a_checkpoint_of_an_earlier_version_resumes(blobs: Splits, tmp_path: Path, began: str | None):
    """It knows no names, only whether there was a method, and what the optimiser kept."""
    model = network()
    fit(model, blobs, **{**SETTINGS, "epochs": 1}, folder=tmp_path, **made_with(began, model))
    state = checkpoints.load(tmp_path / CHECKPOINT)
    del state["made_with"], state["history"]["lean"]
    checkpoints.save(tmp_path / CHECKPOINT, state)
    if began == "l1":
        with pytest.raises(InputError, match="began with a method of sparse training, and none is given"):
            fit(network(), blobs, **SETTINGS, folder=tmp_path, resume=True)
    if began is None:
        with pytest.raises(InputError, match="began without a method of sparse training, and L1Filters is given"):
            fit(model := network(), blobs, **SETTINGS, folder=tmp_path, resume=True, **made_with("l1", model))
        with pytest.raises(InputError, match="is not the Adam that is given: it has no 'amsgrad'"):
            fit(network(), blobs, **SETTINGS, folder=tmp_path, resume=True, optimizer="adam")
    model = network(1)
    assert len(fit(model, blobs, **SETTINGS, folder=tmp_path, resume=True, **made_with(began, model)).rows) == 3


def test_a_fresh_start_forgets_an_old_checkpoint(blobs: Splits, tmp_path: Path):
    fit(network(), blobs, **SETTINGS, folder=tmp_path)
    history = fit(network(), blobs, **{**SETTINGS, "epochs": 1}, folder=tmp_path)
    assert len(history.rows) == len(RunFolder(tmp_path).metrics()) == 1


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(blobs: Splits, tmp_path: Path):
    model = network()
    fit(model, blobs, **SETTINGS, folder=tmp_path)
    good = (tmp_path / CHECKPOINT).read_bytes()
    model = network()
    with pytest.raises(NonFiniteError, match=r"no longer finite.*Lower lr.*checkpoint\.safetensors"):
        fit(model, blobs, **{**SETTINGS, "lr": 1e30, "epochs": 5}, folder=tmp_path, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == good


def test_weights_that_are_not_finite_never_reach_a_checkpoint(blobs: Splits, tmp_path: Path):
    class Poison(RVSM):
        def end_epoch(self) -> None:
            self.weights[0].tensor.data.fill_(math.nan)

    model = network()
    with pytest.raises(NonFiniteError, match=r"'0\.weight' is no longer finite"):
        fit(model, blobs, **SETTINGS, folder=tmp_path, sparsifier=Poison(model))
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_full_disk_is_named_and_the_old_checkpoint_stands(blobs: Splits, tmp_path: Path, monkeypatch):
    fit(network(), blobs, **{**SETTINGS, "epochs": 1}, folder=tmp_path)
    good = (tmp_path / CHECKPOINT).read_bytes()

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(StorageError, match=r"disk .* is full.*--resume"):
        fit(network(), blobs, **{**SETTINGS, "epochs": 2}, folder=tmp_path, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == good
    assert not list(tmp_path.glob(".*tmp"))


def test_labels_beyond_the_networks_outputs_are_refused(blobs: Splits):
    model = network()
    model[6] = nn.Linear(96, 2)
    with pytest.raises(DataError, match=r"labels run from 0 to 2.*2 outputs.*num_classes=3"):
        fit(model, blobs, **SETTINGS)


def test_inputs_the_network_cannot_take_are_refused(blobs: Splits):
    with pytest.raises(InputError, match=r"does not take inputs of shape \(1, 8, 8\)"):
        fit(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 3)), blobs, **SETTINGS)


def test_an_output_that_is_no_matrix_of_logits_is_refused(blobs: Splits):
    with pytest.raises(InputError, match="must give logits"):
        fit(nn.Conv2d(1, 2, 3), blobs, **SETTINGS)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}])
def test_nothing_to_do_is_refused(blobs: Splits, wrong: dict[str, int]):
    with pytest.raises(InputError, match="at least 1"):
        fit(network(), blobs, **{**SETTINGS, **wrong})


def test_a_last_batch_of_one_sample_is_left_out(blobs: Splits):
    # Batch-norm after a global pool refuses a single sample; 192 = 191 + 1.
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    history = fit(model, blobs, **{**SETTINGS, "batch_size": 191, "epochs": 1})
    assert history.rows[0]["train_accuracy"] * 191 == pytest.approx(round(history.rows[0]["train_accuracy"] * 191))


def test_rows_tell_what_is_kept(blobs: Splits):
    model = network()
    split = RGSM(model, "group_lasso", lam=0.3, beta=0.5)
    row = fit(model, blobs, **{**SETTINGS, "epochs": 1}, sparsifier=split, observe=lambda kept: {"seen": 1.0}).rows[0]
    assert row["seen"] == 1.0
    assert 0 < row["channel_sparsity"] < 1
    assert row["nonzero"] < split.summary().parameters
    assert {"sparse_val_accuracy", "sparse_val_loss", "lr", "seconds"} <= set(row)


def test_the_optimiser_no_longer_splits_after_the_run(blobs: Splits):
    model = network()
    split = RVSM(model)
    fit(model, blobs, **{**SETTINGS, "epochs": 1}, sparsifier=split)
    split.attach(torch.optim.SGD(model.parameters(), lr=0.1))


def test_evaluation_is_exact_and_leaves_the_mode(blobs: Splits):
    model = network().train()
    found = evaluate(model, blobs.test, batch_size=7)
    assert model.training
    model.eval()
    with torch.no_grad():
        logits = model(blobs.test.inputs.float() / 255)
    assert found.accuracy == (logits.argmax(1) == blobs.test.labels).float().mean().item()
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, blobs.test.labels).item(), rel=1e-6)


def test_milestones_multiply_at_their_epochs():
    schedule = Milestones([1, 2], gamma=0.1)
    assert [schedule.factor(progress) for progress in (0, 0.99, 1, 2, 5)] == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    warmed = Milestones([3], warmup=2.0)
    assert [warmed.factor(progress) for progress in (0.5, 1, 2, 3)] == pytest.approx([0.25, 0.5, 1, 0.1])


def test_cosine_rises_and_falls():
    schedule = Cosine(10, warmup=2)
    assert schedule.factor(1) == pytest.approx(0.5, abs=1e-6)
    assert schedule.factor(2) == pytest.approx(1)
    assert schedule.factor(6) == pytest.approx(0.5)
    assert schedule.factor(10) == pytest.approx(0)


@pytest.mark.parametrize(
    "build", [lambda: Milestones([2, 1]), lambda: Milestones([2], warmup=-1.0), lambda: Cosine(3, warmup=3)]
)
def test_schedules_that_make_no_sense_are_refused(build):
    with pytest.raises(InputError):
        build()


def test_checkpoints_hold_nested_states_of_every_type(tmp_path: Path):
    state = {
        "numbers": [1, 2.5, None, True, "text"],
        "tensors": {0: torch.arange(3), 1: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)},
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "empty": {},
    }
    checkpoints.save(tmp_path / "c.safetensors", state)
    found = checkpoints.load(tmp_path / "c.safetensors")
    assert found["numbers"] == state["numbers"]
    assert found["empty"] == {}
    assert torch.equal(found["tensors"][1], state["tensors"][1])
    assert found["scalar"].dtype == torch.float64


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    file = tmp_path / "c.safetensors"
    checkpoints.save(file, {"x": torch.ones(100)})
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(StorageError, match=r"c\.safetensors cannot be read"):
        checkpoints.load(file)


def test_a_foreign_safetensors_file_is_no_checkpoint(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "f.safetensors")
    with pytest.raises(StorageError, match="no checkpoint of gracile"):
        checkpoints.load(tmp_path / "f.safetensors")


def test_pickled_code_is_never_run(tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return (os.abort, ())

    file = tmp_path / "c.safetensors"
    torch.save(Bomb(), file)
    with pytest.raises(StorageError, match="cannot be read"):
        checkpoints.load(file)


def test_steps_end_within_an_epoch_and_records_come_every_so_many(blobs: Splits):
    # 192 samples in batches of 32: 6 steps per epoch.
    rows = fit(network(), blobs, steps=16, record_every=5, batch_size=32, lr=0.05).rows
    assert [row["step"] for row in rows] == [5, 10, 15, 16]
    assert [row["epoch"] for row in rows] == pytest.approx([5 / 6, 10 / 6, 15 / 6, 16 / 6])


@pytest.mark.parametrize("length", [{"epochs": 2}, {"steps": 12}])
def test_as_many_steps_as_epochs_give_the_same_bits(blobs: Splits, length: dict[str, int]):
    model, other = network(), network()
    fit(model, blobs, epochs=2, batch_size=32, lr=0.05)
    fit(other, blobs, **length, record_every=4, batch_size=32, lr=0.05)
    assert torch.equal(weights(model), weights(other))


def test_a_record_holds_the_means_since_the_last_one(blobs: Splits):
    each = fit(network(), blobs, steps=8, record_every=1, batch_size=32, lr=0.05).rows
    rows = fit(network(), blobs, steps=8, record_every=4, batch_size=32, lr=0.05).rows
    for key in ("train_loss", "train_accuracy"):
        means = [sum(row[key] for row in each[start : start + 4]) / 4 for start in (0, 4)]
        assert [row[key] for row in rows] == pytest.approx(means)
    assert [row["val_accuracy"] for row in rows] == [each[3]["val_accuracy"], each[7]["val_accuracy"]]


@pytest.mark.parametrize("step", [1, 3, 5, 6, 7, 10, 13, 15, 16])
def test_a_run_by_steps_resumes_bit_for_bit(blobs: Splits, tmp_path: Path, step: int):
    # Records fall at 5, 10, 15 and 16, epochs end at 6 and 12: a stop before, at and after each of them.
    def run(folder: Path, stop_at: int | None) -> torch.Tensor:
        def start() -> tuple[nn.Module, dict[str, object]]:
            model = network()
            x = blobs.train.inputs[:8].float() / 255
            watched = monitors(model, x, blobs.train.labels[:8], lr=0.05)
            split = RGSM(model, lam=0.05, beta=0.5)
            return model, {
                "steps": 16, "record_every": 5, "batch_size": 32, "seed": 4, "sparsifier": split, "folder": folder,
                "augment": Augmentation(flip=True, crop=1), "observe": watched,
            }  # fmt: skip

        model, common = start()
        if stop_at is not None:
            with pytest.raises(KeyboardInterrupt):
                fit(model, blobs, **common, optimizer=StopAt(stop_at))
            model, common = start()
        fit(model, blobs, **common, optimizer=StopAt(10**9), resume=True)
        return weights(model)

    assert torch.equal(run(tmp_path / "whole", None), run(tmp_path / "stopped", step))
    whole, stopped = (RunFolder(tmp_path / name).metrics() for name in ("whole", "stopped"))
    for row in (*whole, *stopped):
        del row["seconds"]
    assert whole == stopped
    assert [row["step"] for row in stopped] == [5, 10, 15, 16]


def test_a_checkpoint_of_another_batch_size_is_refused(blobs: Splits, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        fit(network(), blobs, **SETTINGS, optimizer=StopAt(4), folder=tmp_path)
    with pytest.raises(InputError, match=r"step 4 of an epoch, which has 2\. Resume with the batch size"):
        fit(network(), blobs, **{**SETTINGS, "batch_size": 96}, folder=tmp_path, resume=True)


@pytest.mark.parametrize("length", [{}, {"epochs": 1, "steps": 6}])
def test_the_length_of_training_is_given_exactly_once(blobs: Splits, length: dict[str, int]):
    with pytest.raises(InputError, match="Give one of them"):
        fit(network(), blobs, **length)


def test_only_full_batches_are_taken_on_request(blobs: Splits):
    assert steps_per_epoch(192, 100) == 2
    assert steps_per_epoch(192, 100, drop_last=True) == 1
    assert steps_per_epoch(192, 1000, drop_last=True) == 1
    rows = fit(network(), blobs, epochs=2, batch_size=100, drop_last=True).rows
    assert [row["step"] for row in rows] == [1, 2]
    assert round(rows[0]["train_accuracy"] * 100) == pytest.approx(rows[0]["train_accuracy"] * 100)


def test_any_loss_of_outputs_and_labels_is_minimised(blobs: Splits):
    def squared(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (outputs - nn.functional.one_hot(y, 3)).square().sum(dim=1).mean()

    def model() -> nn.Sequential:
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    found, plain = model(), model()
    row = fit(
        found,
        blobs,
        steps=1,
        batch_size=192,
        optimizer="sgd",
        lr=0.1,
        momentum=0.0,
        weight_decay=0.0,
        objective=squared,
    ).rows[0]
    loss = squared(plain(blobs.train.inputs.float() / 255), blobs.train.labels)
    assert row["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    with torch.no_grad():
        for one in plain.parameters():
            one -= 0.1 * one.grad
        validation = blobs.validation
        expected = squared(plain(validation.inputs.float() / 255), validation.labels)
    torch.testing.assert_close(list(found.parameters()), list(plain.parameters()))
    assert row["val_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_run_by_steps_that_diverges_keeps_its_records(blobs: Splits, tmp_path: Path):
    with pytest.raises(NonFiniteError):
        fit(network(), blobs, steps=100, record_every=1, batch_size=32, lr=1e5, folder=tmp_path)
    rows = RunFolder(tmp_path).metrics()
    assert rows
    assert all(math.isfinite(row["train_loss"]) for row in rows)


def test_a_proximal_step_is_descent_and_then_the_soft_threshold():
    model, twin = network(), network()
    weight = model[6].weight
    optimizer = proximal(optimizer_factory("sgd", lr=0.1, momentum=0.0), [weight], L1(), lam=0.5)(model.parameters())
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for one in (model, twin):
        one.eval()
        one(x).square().sum().backward()
    optimizer.step()
    moved = twin[6].weight - 0.1 * twin[6].weight.grad
    torch.testing.assert_close(weight.detach(), moved.sign() * (moved.abs() - 0.05).clamp(min=0))
    assert (weight == 0).any()
    # No other parameter is touched, and without a penalty nothing is.
    torch.testing.assert_close(model[6].bias.detach(), twin[6].bias - 0.1 * twin[6].bias.grad)
    factory = optimizer_factory("sgd", lr=0.1)
    assert proximal(factory, [weight], L1(), 0.0) is factory


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": "cosine", "warmup": 3.0}, "does not fit into 3"),
        ({"name": "constant", "milestones": [1.0]}, "schedule is 'constant'"),
        ({"name": "cosin"}, "Did you mean 'cosine'"),
    ],
)
def test_a_schedule_by_name_refuses_what_it_would_not_look_at(asked: dict, message: str):
    with pytest.raises(InputError, match=message):
        schedule_named(**asked, epochs=3, steps=10, lr=0.1)


def test_a_schedule_by_name_is_the_class_with_its_numbers():
    asked = {"epochs": 4, "steps": 10, "lr": 0.1, "milestones": [2.0], "gamma": 0.5, "warmup": 0.0, "decay": 0.2}
    assert schedule_named("milestones", **asked) == Milestones([2.0], 0.5)
    assert schedule_named("cosine", **asked) == Cosine(4, 0.0)
    # lr / (1 + decay lr l) at step l, the first being 1.
    assert schedule_named("diminishing", **asked).factor(1.0) == pytest.approx(1 / (1 + 0.2 * 0.1 * 11))


class Verbose(nn.Module):
    """A network that gives more than logits, always or in training mode alone."""

    def __init__(self, always: bool, kind: type) -> None:
        super().__init__()
        self.network, self.always, self.kind = network(), always, kind

    def forward(self, x: torch.Tensor):
        logits = self.network(x)
        if not (self.always or self.training):
            return logits
        return {"logits": logits} if self.kind is dict else (logits, logits)


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("kind", [dict, tuple])
@pytest.mark.parametrize("objective", [None, nn.functional.cross_entropy])
def test_a_network_that_gives_more_than_logits_is_refused(blobs: Splits, always: bool, kind: type, objective):
    with pytest.raises(InputError, match=rf"The network's output is a {kind.__name__}\..*wrap it"):
        fit(Verbose(always, kind), blobs, **SETTINGS, objective=objective)


@pytest.mark.parametrize("method", ["pgd", "trades", "mart"])
def test_so_it_is_under_attack(blobs: Splits, method: str):
    with pytest.raises(InputError, match=r"The network's output is a tuple\."):
        fit(Verbose(False, tuple), blobs, **SETTINGS, objective=adversary(method, steps=1))
