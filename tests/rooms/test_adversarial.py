"""Adversarial training: what each objective minimises, exact resumes, and its way through recipes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gracile import fit
from gracile.attacks import pgd
from gracile.core.errors import InputError
from gracile.core.files import write_json
from gracile.core.runs import RunFolder
from gracile.data import Splits
from gracile.models import enresnet, lenet, normalized, set_noise
from gracile.recipes import load, methods, run
from gracile.recipes.robust import AttackSettings, robustness
from gracile.shrinking import shrink
from gracile.training import ADVERSARIES, adversary
from tests.models.attacked import OBJECTIVES


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    return torch.rand(16, 1, 8, 8, generator=random), torch.arange(16) % 3


def test_the_laws_cover_every_objective():
    assert set(OBJECTIVES) == set(ADVERSARIES)


# 192 samples in batches of 50: the last is smaller, which the free method's perturbation must survive. Steps 4 and 8 end an epoch.
@pytest.mark.parametrize("step", [2, 4, 7])
@pytest.mark.parametrize("method", sorted(ADVERSARIES))
def test_an_interrupted_run_resumes_bit_for_bit(method: str, step: int, blobs: Splits, tmp_path: Path):
    def train(folder: Path, *, stop: int = 0) -> dict[str, torch.Tensor]:
        network, objective = small(), adversary(method, eps=0.1, ramp=1.5, **OBJECTIVES[method])
        # A replay in which the signal comes is no place to stop at: the step is taken whole.
        left = [stop * objective.replays - (objective.replays - 1)]

        def optimizer(parameters) -> torch.optim.Optimizer:
            made = torch.optim.SGD(parameters, lr=0.02, momentum=0.9)
            made.register_step_post_hook(interrupt)
            return made

        def interrupt(*_: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGTERM)

        fit(
            network,
            blobs,
            epochs=3,
            batch_size=50,
            optimizer=optimizer,
            objective=objective,
            folder=folder,
            resume=True,
        )
        return network.state_dict()

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop=step)
    for key, value in train(tmp_path / "cut").items():
        assert torch.equal(value, whole[key]), key


def test_a_rule_that_fills_gradients_itself_is_not_attacked(blobs: Splits, tmp_path: Path):
    with pytest.raises(InputError, match="without an objective, and both are given"):
        fit(small(), blobs, epochs=1, learning_rule=lambda x, y: (x, y), objective=adversary("pgd"))
    (tmp_path / "rule.toml").write_text(
        RECIPE[: RECIPE.index("[settings.arms.natural]")].replace("compare.adv", "#")
        + '[settings.arms.ff]\nmethod = "forward-forward"\nmodel = { name = "mlp", options = { widths = [8] } }\n'
    )
    with pytest.raises(InputError, match="'ff' learns by a rule of its own"):
        run(load(str(tmp_path / "rule.toml")), tmp_path / "out")


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


SPARSE = {
    "rvsm": ("rvsm", {"lam": 1e-3, "beta": 0.1}),
    "input channel": ("rgsm", {"penalty": "group_l0", "lam": 0.9, "beta": 1.0, "grouping": "input_channel"}),
    "coupled": ("rgsm", {"penalty": "group_l0", "lam": 0.5, "beta": 1.0, "grouping": "coupled"}),
    "admm": ("admm", {"sparsity": 0.5, "every": 2}),
    "admm, channels": ("admm", {"sparsity": 0.5, "every": 2, "unit": "channel"}),
}


@pytest.mark.parametrize(
    ("method", "sparse"),
    [(method, "rvsm") for method in sorted(ADVERSARIES)]
    + [(method, sparse) for method in ("pgd", "free") for sparse in SPARSE if sparse != "rvsm"],
)
def test_every_way_to_sparsity_hooks_into_the_steps_on_attacked_samples(method: str, sparse: str, blobs: Splits):
    torch.manual_seed(0)
    network = enresnet(2, 8, width=4, num_classes=3, in_channels=1, image_size=8)
    objective = adversary(method, eps=0.05, **OBJECTIVES[method])
    name, options = SPARSE[sparse]
    example = torch.zeros(2, 1, 8, 8)
    steps = 3 * objective.replays
    split = methods.build(name, network, example, options, steps=steps)
    history = fit(network, blobs, epochs=1, batch_size=64, lr=0.02, sparsifier=split, objective=objective)
    row, kept = history.rows[-1], split.sparse_model().eval()
    zeros = sum(int((one == 0).sum()) for one in kept.parameters() if one.ndim > 1)
    assert zeros > 0.02 * sum(one.numel() for one in kept.parameters())
    if sparse == "admm":
        # Half of the weights, of all parameters a little less.
        assert row["sparsity"] == pytest.approx(0.5, abs=0.02)
    if sparse in ("coupled", "admm, channels"):
        assert 0 < row["channel_sparsity"] < 1
        set_noise(kept, "off")
        lean = shrink(kept, example).eval()
        torch.testing.assert_close(lean(example + 0.5), kept(example + 0.5), rtol=1e-4, atol=1e-5)
        assert sum(one.numel() for one in lean.parameters()) < sum(one.numel() for one in kept.parameters())


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
expected = ["pgd", "ifgsm"]
draws = 2
samples = 12
limits = { pgd = 6 }
options = { cw_paper = { steps = 2 }, pgd = { steps = 2 }, ifgsm = { steps = 2 } }
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
    assert float(row["weights below 1e-3 %"]) == pytest.approx(result["values"]["en2.small_weights"], abs=0.01)
    said = (
        "on 12 test samples, PGD-20 on the first 6 of them, C&W as the papers' code has it with steps=2, PGD-20 with steps=2, "
        "IFGSM-20 with steps=2, PGD-20 and IFGSM-20 over 2 draws of a network's noise, the worst case over FGSM and IFGSM-20, "
        "verdicts on a network that draws random numbers by the mean of 20 fresh draws"
    )
    assert any(said in note for note in result["notes"])
    [measured] = [json.loads(file.read_text()) for file in (finished / "first" / "en2").rglob("robust.json")]
    assert measured["judged"] == {"fgsm": 20, "cw_paper": 20, "worst": 20, "pgd": 20, "ifgsm": 20}
    # The worst case is over both sets, but for attacks that keep to no ball or are tried on fewer samples.
    stands = measured["stands"]
    both = ["1" if pair == ("1", "1") else "0" for pair in zip(stands["fgsm"], stands["ifgsm"], strict=True)]
    assert stands["worst"] == "".join(both)
    assert measured["accuracies"]["worst"] == pytest.approx(100 * both.count("1") / 12)
    [single] = [warning for warning in measured["warnings"] if "each gradient saw a single draw" in warning]
    assert single.startswith("FGSM and C&W as the papers' code has it: The network draws")
    values = result["values"]
    assert values["adversarial.small_weights"] == pytest.approx(
        values["dense.small_weights"] - values["natural.small_weights"]
    )
    assert values["adversarial.accuracy"] == pytest.approx(values["dense.accuracy"] - values["natural.accuracy"])
    drawn = {path.name for path in (finished / "first" / "plots").glob("*.svg")}
    assert {"all-weights.svg", "layer-weights.svg", "kernels.svg", "channel-norms.svg", "sparsity-lam.svg"} <= drawn


def test_an_earlier_worst_case_over_some_attacks_is_told_anew_from_what_each_sample_had(tmp_path: Path):
    part = RunFolder(tmp_path)
    kept = {"accuracies": {"fgsm": 75.0, "pgd": 50.0, "autoattack": 50.0, "worst": 75.0}, "judged": {"fgsm": 1, "worst": 1, "pgd": 1},
            "stands": {"clean": "1111", "fgsm": "1101", "pgd": "1010", "autoattack": "01", "worst": "1101"}}  # fmt: skip
    for expected, worst in ((["pgd", "autoattack"], "1000"), (["autoattack"], None)):
        settings = AttackSettings(attacks=["fgsm"], expected=expected, limits={"autoattack": 2}, samples=4)
        (tmp_path / "robust.json").write_text(json.dumps({"settings": settings.model_dump(), **kept, "warnings": []}))
        found = robustness(torch.nn.Identity(), None, settings, part)  # type: ignore[arg-type]
        assert found["stands"].get("worst") == worst
        assert found["accuracies"].get("worst") == (worst and 25.0)


def test_a_sibling_run_takes_over_arms_trained_from_the_same_settings_and_no_others(finished: Path):
    text = RECIPE.replace("lam = 0.9", "lam = 0.8").replace('title = "robust"', 'title = "again"')
    text = (
        text.replace("weights = true\n", "")
        .replace("reuse = true", 'reuse = true\nleave_out = ["natural", "en2", "low"]')
        .replace('compare.adversarial = { arm = "dense", to = "natural" }', "")
    )
    (finished / "again.toml").write_text(text)
    file = finished / "first" / "dense" / "environment.json"
    write_json(file, json.loads(file.read_text()) | {"commit": "0123456789abcdef"})
    run(load(str(finished / "again.toml")), finished / "second")
    notes = json.loads((finished / "second" / "result.json").read_text())["notes"]
    assert "trained at commit 0123456789ab: dense" in notes
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
