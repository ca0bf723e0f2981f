"""What makes adversarial training robust: MART, weight perturbation, smoothing, averaging, the best checkpoint, the watch."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gracile.attacks import pgd
from gracile.core.errors import InputError
from gracile.data import Dataset
from gracile.recipes.training import TrainingSettings
from gracile.training import (
    ROBUST_MONITORS,
    BestRobust,
    CatastrophicOverfitting,
    WeightAverage,
    adversary,
    fit,
    robust_monitor,
    robust_monitors,
)
from gracile.training.best_robust import standing
from tests.conftest import make_blobs
from tests.models.attacked import convolutional


def batch(n: int = 12):
    random = torch.Generator().manual_seed(0)
    return torch.rand(n, 2, 6, 6, generator=random), torch.randint(5, (n,), generator=random)


def still() -> nn.Sequential:
    """Without dropout, so that passes can be repeated."""
    network = convolutional().train()
    network[3].p = 0.0
    return network


def test_mart_is_its_formula():
    network, (x, y) = still(), batch()
    objective = adversary("mart", eps=0.1, steps=2, weight=3.0)
    twin = copy.deepcopy(network)
    loss, logits = objective.loss(network, x, y, 0.0, 7)
    at = pgd(twin, x, y, eps=0.1, steps=2, seed=7)
    p, q = twin(x).detach().softmax(1), twin(at).detach().softmax(1)
    total = 0.0
    for i, label in enumerate(y.tolist()):
        rival = max(float(q[i, k]) for k in range(5) if k != label)
        boosted = -float(q[i, label].log()) - float(torch.tensor(1.0001 - rival).log())
        pull = sum(float(p[i, k] * (p[i, k] / q[i, k]).log()) for k in range(5))
        total += boosted + 3.0 * pull * (1 - float(p[i, label]))
    assert loss.item() == pytest.approx(total / len(y), rel=1e-5)
    assert torch.allclose(logits.softmax(1), p, atol=1e-6)


def test_weight_perturbation_takes_the_gradient_uphill_and_moves_statistics_once():
    network, (x, y) = still(), batch()
    twin = copy.deepcopy(network)
    adversary("pgd", eps=0.1, steps=2, awp=0.02).loss(network, x, y, 0.0, 7)[0].backward()
    at = pgd(twin, x, y, eps=0.1, steps=2, seed=7)
    statistics = twin[1].running_mean.clone()
    F.cross_entropy(twin(at), y).backward()
    twin[1].running_mean.copy_(statistics)
    with torch.no_grad():
        for one in twin.parameters():
            if one.ndim > 1:
                one += 0.02 * one.norm() * one.grad / one.grad.norm()
    twin.zero_grad()
    F.cross_entropy(twin(at), y).backward()
    for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    assert int(network[1].num_batches_tracked) == 1
    # The weights themselves stay where they were.
    assert torch.equal(network[0].weight, still()[0].weight)


def test_weight_perturbation_begins_when_it_is_told_to():
    (x, y), plain = batch(), adversary("pgd", eps=0.1, steps=1)
    late = adversary("pgd", eps=0.1, steps=1, awp=0.1, awp_after=2)
    loss = lambda objective, progress: objective.loss(still(), x, y, progress, 0)[0].item()
    assert loss(late, 1.9) == loss(plain, 1.9)
    assert loss(late, 2.0) > loss(plain, 2.0)


@pytest.mark.parametrize("method", ["pgd", "fgsm", "free"])
def test_label_smoothing_mixes_the_label_with_all_classes(method: str):
    (x, y), z = batch(), 0.3
    hard, uniform = (
        adversary(method, eps=0.1, label_smoothing=share).loss(still(), x, y, 0.0, 0)[0].item() for share in (0.0, z)
    )
    network = still()
    _, logits = adversary(method, eps=0.1).loss(network, x, y, 0.0, 0)
    assert uniform == pytest.approx((1 - z) * hard - z * logits.log_softmax(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize(("options", "message"), [
    ({"method": "pgd", "label_smoothing": 1.0}, "label_smoothing is 1.0"),
    ({"method": "mart", "awp": -0.1}, "awp is -0.1"),
    ({"method": "free", "awp": 0.01}, "leaves none for awp"),
    ({"method": "mart", "lam": 1}, "no option 'lam'"),
])  # fmt: skip
def test_what_cannot_be_is_refused(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        adversary(**options)


def test_the_average_is_its_formula_and_resumes():
    average, network = WeightAverage(decay=0.5), nn.Linear(1, 1, bias=False)
    expected = None
    for step, value in enumerate([1.0, 3.0, -2.0, 5.0, 0.0], start=1):
        if step == 4:
            state = average.state_dict()
            average = WeightAverage(decay=0.5)
            average.load_state_dict(state)
        with torch.no_grad():
            network.weight.fill_(value)
        average.after_step(network)
        share = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else share * expected + (1 - share) * value
        assert average.model.weight.item() == pytest.approx(expected)
    assert network.weight.item() == 0.0


def test_the_average_of_a_finished_run_is_there_when_it_is_resumed(tmp_path: Path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    averages = [WeightAverage(0.9), WeightAverage(0.9)]
    for average in averages:
        fit(network, make_blobs(), epochs=1, lr=0.05, batch_size=32, observe=average, folder=tmp_path, resume=True)
    first, again = (average.model.state_dict() for average in averages)
    assert all(torch.equal(one, again[name]) for name, one in first.items())
    # A state that was taken up and not used yet is not lost.
    third = WeightAverage(0.9)
    third.load_state_dict(averages[1].state_dict())
    assert third.state_dict()["average"].keys() == first.keys()


def test_the_best_robust_record_is_kept_and_restored(tmp_path: Path):
    splits = make_blobs()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
    average = WeightAverage(0.9, splits.validation)
    best = BestRobust(splits.validation, eps=0.1, steps=3, samples=0, average=average)
    history = fit(network, splits, epochs=3, lr=0.05, batch_size=32, observe=[average, best], folder=tmp_path)
    found = [row["robust_val_accuracy"] for row in history.rows]
    assert best.accuracy == max(found) > found[0]
    assert best.epoch == 1 + found.index(max(found))
    assert "average_val_accuracy" in history.rows[0]
    best.restore(network)
    x, y = splits.validation.inputs.float() / 255, splits.validation.labels
    assert standing(network, x, y, eps=0.1, steps=3) == max(found)


class Wave(nn.Module):
    """Right at x and a whole step away, wrong in between: what one-step training overfits to."""

    def forward(self, x):
        gap = torch.cos(2 * torch.pi * (x.flatten(1) - 0.5) / 0.1 + 0.5)
        return torch.cat([gap, -gap], dim=1)


def test_catastrophic_overfitting_is_noticed_and_said(caplog):
    data = Dataset(torch.full((8, 1), 0.5), torch.zeros(8, dtype=torch.int64), ("a", "b"), "points")
    network = Wave()
    network.unused = nn.Parameter(torch.zeros(1))
    follow = robust_monitor("catastrophic", data, eps=0.1, samples=0)
    with caplog.at_level(logging.WARNING, logger="gracile"):
        row = follow.observe(network)
    assert row == {"fgsm_val_accuracy": 1.0, "pgd_val_accuracy": 0.0, "overfitted": 1.0}
    assert "Catastrophic overfitting at record 1: 100 % stand under FGSM and 0 % under PGD-10" in caplog.text


def test_sound_training_is_not_accused():
    splits = make_blobs()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
    follow = CatastrophicOverfitting(splits.validation, eps=0.1, samples=0)
    fit(network, splits, epochs=2, lr=0.05, batch_size=32, objective=adversary("fgsm", eps=0.1), observe=[follow])
    assert follow.message == ""


def test_monitors_by_name_and_their_mistakes():
    splits = make_blobs()
    assert set(ROBUST_MONITORS) == {"average", "best", "catastrophic"}
    assert isinstance(robust_monitor("average", splits.validation, decay=0.5), WeightAverage)
    with pytest.raises(InputError, match="Did you mean 'best'"):
        robust_monitor("bets", splits.validation)
    with pytest.raises(InputError, match="has no option 'step'"):
        robust_monitor("best", splits.validation, step=3)
    with pytest.raises(InputError, match="decay is 1"):
        WeightAverage(decay=1.0)
    with pytest.raises(InputError, match="No record has been made"):
        BestRobust(splits.validation).restore(nn.Linear(2, 2))
    with pytest.raises(InputError, match="No step has been averaged"):
        _ = WeightAverage().model


def test_monitors_together_judge_the_average():
    splits = make_blobs()
    made = robust_monitors({"best": {"eps": 0.1, "after": 1}, "average": {"decay": 0.5}}, splits.validation)
    assert list(made) == ["average", "best"]
    assert made["best"].average is made["average"]
    assert made["best"].after == 1


def test_records_before_the_zeros_are_final_do_not_count():
    splits = make_blobs()
    best = BestRobust(splits.validation, eps=0.1, steps=1, samples=0, after=1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    best.observe(network)
    with pytest.raises(InputError, match=r"after=1 passes over every record made so far \(1\)"):
        best.restore(network)
    best.observe(network)
    assert best.epoch == 2


def adversarial_recipe(**more) -> TrainingSettings:
    values = {"epochs": 4, "checkpoint": "best-robust-validation", "monitors": {"best": {"eps": 0.1, "after": 2}}}
    return TrainingSettings.model_validate(values | more)


def test_a_recipe_keeps_the_checkpoint_of_best_robust_validation_accuracy():
    splits = make_blobs()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    asked = adversarial_recipe(monitors={"best": {"eps": 0.1, "steps": 2, "samples": 0}})
    robust = asked.robust_monitors(splits.validation)
    history = fit(network, splits, epochs=4, lr=0.5, batch_size=32, observe=list(robust.values()))
    found = [row["robust_val_accuracy"] for row in history.rows]
    told = asked.choose(network, robust, history)
    assert told["robust_val_accuracy"] == 100 * max(found)
    assert told["checkpoint_epoch"] == 1 + found.index(max(found))
    at = splits.validation.inputs.float() / 255
    assert standing(network, at, splits.validation.labels, eps=0.1, steps=2) == max(found)


@pytest.mark.parametrize(("more", "settle", "sparse", "message"), [
    ({"monitors": {}}, None, False, "nothing looks for it"),
    ({}, 0.25, True, "final after 3 epochs, and checkpoints count from 2 on"),
    ({"monitors": {"best": {}, "average": {}}}, None, True, "averaged weights keep no zeros"),
])  # fmt: skip
def test_a_checkpoint_that_cannot_be_chosen_is_refused_before_training(more, settle, sparse, message):
    with pytest.raises(InputError, match=message):
        adversarial_recipe(**more).check_choice("rvsm", settle, sparse=sparse)
    adversarial_recipe().check_choice("rvsm", 0.5, sparse=True)
    adversarial_recipe(**more, checkpoint="last").check_choice("rvsm", settle, sparse=sparse)
