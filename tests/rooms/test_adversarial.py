"""Adversarial training: what each objective minimises, exact resumes, and its way through recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gracile import RVSM, fit
from gracile.attacks import pgd
from gracile.core.errors import InputError
from gracile.data import Splits
from gracile.models import enresnet, lenet, normalized
from gracile.recipes import load, run
from gracile.training import ADVERSARIES, adversary

OPTIONS = {"pgd": {"steps": 2}, "trades": {"steps": 2}, "fgsm": {}, "free": {"replays": 2}}


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    return torch.rand(16, 1, 8, 8, generator=random), torch.arange(16) % 3


def test_the_laws_cover_every_objective():
    assert set(OPTIONS) == set(ADVERSARIES)


@pytest.mark.parametrize("method", sorted(ADVERSARIES))
def test_a_resumed_run_ends_with_the_same_weights(method: str, blobs: Splits, tmp_path: Path):
    class Stop(Exception):
        pass

    def train(folder: Path, resume: bool, stop_after: int | None) -> nn.Module:
        network, seen = small(), []

        def observe(_: nn.Module) -> dict[str, float]:
            seen.append(1)
            if stop_after is not None and len(seen) > stop_after:
                raise Stop
            return {}

        objective = adversary(method, eps=0.1, ramp=1.5, **OPTIONS[method])
        # 192 samples in batches of 50: the last is smaller, which the free method's perturbation must survive.
        fit(
            network,
            blobs,
            epochs=3,
            batch_size=50,
            lr=0.02,
            objective=objective,
            folder=folder,
            resume=resume,
            observe=observe,
        )
        return network

    whole = train(tmp_path / "whole", False, None)
    with pytest.raises(Stop):
        train(tmp_path / "cut", False, 1)
    resumed = train(tmp_path / "cut", True, None)
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_pgd_minimises_the_loss_at_the_attacked_batch():
    network, (x, y) = small().train(), batch()
    attacked = pgd(network, x, y, eps=0.1, steps=3, seed=7)
    loss, logits = adversary("pgd", eps=0.1, steps=3).loss(network, x, y, 0.0, 7)
    torch.testing.assert_close(loss, F.cross_entropy(network(attacked), y))
    assert loss.item() > F.cross_entropy(network(x), y).item()
    assert logits.shape == (16, 3)


def test_the_attack_leaves_statistics_alone_in_evaluation_and_moves_them_when_found():
    moved = {}
    for mode in ("eval", "found"):
        network = small().train()
        adversary("pgd", eps=0.1, steps=4, mode=mode).loss(network, *batch(), 0.0, 0)
        moved[mode] = int(network[1].num_batches_tracked)
    assert moved == {"eval": 1, "found": 5}


def test_trades_is_cross_entropy_plus_the_weighted_divergence_and_nothing_more_at_weight_zero():
    network, (x, y) = small().eval(), batch()
    plain = F.cross_entropy(network(x), y)
    without, _ = adversary("trades", eps=0.1, steps=3, weight=0.0).loss(network, x, y, 0.0, 0)
    torch.testing.assert_close(without, plain)
    one, _ = adversary("trades", eps=0.1, steps=3, weight=1.0).loss(network, x, y, 0.0, 0)
    six, _ = adversary("trades", eps=0.1, steps=3, weight=6.0).loss(network, x, y, 0.0, 0)
    torch.testing.assert_close(six - plain, 6 * (one - plain))
    objective = adversary("trades", eps=0.1, steps=3)
    attacked = objective.attacked(network, x, y, 1.0, 0)  # type: ignore[attr-defined]
    p, q = network(x).softmax(1), network(attacked).softmax(1)
    torch.testing.assert_close(one - plain, (p * (p.log() - q.log())).sum(1).mean())
    assert (attacked - x).abs().max() <= 0.1 + 1e-6


def test_free_moves_the_perturbation_by_the_gradient_of_the_same_backward_pass():
    network, (x, y) = small().eval(), batch()
    objective = adversary("free", eps=0.1, replays=3)
    loss, _ = objective.loss(network, x, y, 0.0, 0)
    loss.backward()
    objective.follow()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(leaf), y), leaf)
    assert torch.equal(objective.state_dict()["delta"], 0.1 * gradient.sign())


def test_free_takes_its_replays_as_optimiser_steps(blobs: Splits):
    counted = []

    def counting(parameters) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, lr=0.01)
        optimizer.register_step_post_hook(lambda *_: counted.append(1))
        return optimizer

    fit(small(), blobs, epochs=1, batch_size=64, optimizer=counting, objective=adversary("free", eps=0.1, replays=4))
    assert len(counted) == 3 * 4


def test_the_radius_grows_along_the_ramp():
    objective = adversary("pgd", eps=0.2, ramp=4.0)
    assert [objective.share(at) for at in (0.0, 1.0, 3.0, 4.0, 9.0)] == [0.0, 0.25, 0.75, 1.0, 1.0]  # type: ignore[attr-defined]
    network, (x, y) = small().eval(), batch()
    start, _ = objective.loss(network, x, y, 0.0, 0)
    torch.testing.assert_close(start, F.cross_entropy(network(x), y))


@pytest.mark.parametrize("method", sorted(ADVERSARIES))
def test_it_goes_together_with_splitting_and_noise(method: str, blobs: Splits):
    torch.manual_seed(0)
    network = enresnet(2, 8, width=2, num_classes=3, in_channels=1, image_size=8)
    split = RVSM(network, "l0", lam=1e-3, beta=0.1)
    history = fit(
        network, blobs, epochs=1, batch_size=64, lr=0.05, sparsifier=split,
        objective=adversary(method, eps=0.05, **OPTIONS[method]),
    )  # fmt: skip
    assert 0 < history.rows[-1]["sparsity"] < 1


def test_it_makes_a_network_robust_that_plain_training_leaves_fragile(blobs: Splits):
    x, y = blobs.test.inputs.float() / 255, blobs.test.labels
    accuracy = {}
    for name, objective in (("plain", None), ("pgd", adversary("pgd", eps=0.15, steps=4))):
        network = small()
        fit(network, blobs, epochs=6, batch_size=32, lr=0.02, objective=objective)
        attacked = pgd(network, x, y, eps=0.15, steps=10)
        with torch.no_grad():
            accuracy[name] = (network.eval()(attacked).argmax(1) == y).float().mean().item()
    assert accuracy["pgd"] > accuracy["plain"] + 0.1


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("pdg", {}, "Did you mean 'pgd'"),
        ("pgd", {"step": 3}, "no option 'step'.*Did you mean 'steps'"),
        ("pgd", {"eps": 0.0}, "eps=0.0"),
        ("fgsm", {"eps": 8}, "eps=8"),
        ("pgd", {"ramp": -1.0}, "ramp=-1.0"),
        ("pgd", {"mode": "train"}, "mode is 'train'"),
        ("free", {"replays": 0}, "replays is 0"),
    ],
)
def test_mistakes_are_named(method: str, options: dict, says: str):
    with pytest.raises(InputError, match=says):
        adversary(method, **options)


RECIPE = """
title = "robust"
kind = "train"
[settings]
reuse = true
weights = true
compare.adversarial = { arm = "dense", to = "natural" }
data = { name = "digits", train_limit = 120, test_limit = 60, validation = 0.2 }
model = { name = "enresnet", options = { n = 1, depth = 8, width = 2, noise = 0.0 } }
training = { epochs = 1, lr = 0.05, batch_size = 32, adversarial = { options = { eps = 0.1, steps = 1 } } }
[settings.attacks]
eps = 0.1
attacks = ["fgsm", "cw_paper"]
expected = ["pgd"]
draws = 2
samples = 24
options = { cw_paper = { steps = 2 }, pgd = { steps = 2 } }
[settings.arms.natural]
natural = true
[settings.arms.dense]
[settings.arms.en2]
model = { name = "enresnet", options = { n = 2, depth = 8, width = 2 } }
[settings.arms.low]
method = "rgsm"
options = { penalty = "group_l0", lam = 0.1, beta = 1.0, grouping = "input_channel" }
[settings.arms.high]
method = "rgsm"
options = { penalty = "group_l0", lam = 0.9, beta = 1.0, grouping = "input_channel" }
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("robust")
    (folder / "robust.toml").write_text(RECIPE)
    run(load(str(folder / "robust.toml")), folder / "first")
    return folder


def test_a_recipe_measures_robustness_and_draws_weights(finished: Path):
    result = json.loads((finished / "first" / "result.json").read_text())
    row = next(row for row in result["rows"] if row["arm"] == "en2")
    assert {"FGSM %", "C&W as the papers' code has it %", "PGD-20 %", "worst case a sample %"} <= set(row)
    values = result["values"]
    assert values["adversarial.small_weights"] == pytest.approx(
        values["dense.small_weights"] - values["natural.small_weights"]
    )
    assert values["adversarial.accuracy"] == pytest.approx(values["dense.accuracy"] - values["natural.accuracy"])
    drawn = {path.name for path in (finished / "first" / "plots").glob("*.png")}
    assert {"all-weights.png", "layer-weights.png", "kernels.png", "channel-norms.png", "sparsity-lam.png"} <= drawn


def test_a_sibling_run_takes_over_arms_trained_from_the_same_settings_and_no_others(finished: Path):
    text = RECIPE.replace("lam = 0.9", "lam = 0.8").replace('title = "robust"', 'title = "again"')
    text = (
        text.replace("weights = true\n", "")
        .replace("reuse = true", 'reuse = true\nleave_out = ["natural", "en2", "low"]')
        .replace('compare.adversarial = { arm = "dense", to = "natural" }', "")
    )
    (finished / "again.toml").write_text(text)
    run(load(str(finished / "again.toml")), finished / "second")
    log = (finished / "second" / "log.txt").read_text()
    assert "dense is taken over" in log
    assert "high is taken over" not in log
    first, second = ((finished / name / "dense" / "arm.json").read_text() for name in ("first", "second"))
    assert first == second
    assert not (finished / "second" / "natural").exists()


def test_an_arm_on_other_training_is_not_the_same(finished: Path):
    marks = {json.loads(file.read_text())["fingerprint"] for file in (finished / "first").glob("*/fingerprint.json")}
    assert len(marks) == 5


def test_the_weights_command_counts_what_its_figures_show(finished: Path, capsys):
    from gracile.cli import main

    assert (
        main(["weights", str(finished / "first"), "--arm", "high", "--arm", "dense", "--layer", "stages.0.0.conv1"])
        == 0
    )
    assert "kernels" in capsys.readouterr().out
    numbers = json.loads((finished / "first" / "weights" / "weights.json").read_text())
    assert set(numbers) == {"high", "dense"}
    result = json.loads((finished / "first" / "high" / "arm.json").read_text())
    assert 100 * numbers["high"]["zero_channels"] / numbers["high"]["channels"] == pytest.approx(
        result["channel_sparsity"]
    )
    assert 100 * numbers["high"]["below_1e-3"] == pytest.approx(result["small_weights"])
    assert numbers["high"]["zero_channels"] > 0
    assert main(["weights", str(finished / "first"), "--layer", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_comparison_names_known_arms(tmp_path: Path):
    file = tmp_path / "robust.toml"
    file.write_text(RECIPE.replace('to = "natural"', 'to = "natrual"'))
    with pytest.raises(InputError, match="Did you mean 'natural'"):
        run(load(str(file)), tmp_path / "run")


def test_normalisation_stays_inside_the_attacked_network(blobs: Splits):
    network = normalized(lenet(num_classes=3, image_size=12), 0.5, 0.1)
    x, y = torch.rand(4, 1, 12, 12), torch.zeros(4, dtype=torch.int64)
    loss, _ = adversary("fgsm", eps=0.1).loss(network, x, y, 0.0, 0)
    assert torch.isfinite(loss)
