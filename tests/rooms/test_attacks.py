"""Attacks: what is refused, expectation over noise, evaluation and its warnings, the command, the page."""

from __future__ import annotations

import errno
import inspect
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gracile.attacks import (
    ATTACKS,
    ENTRIES,
    Cost,
    autoattack,
    card,
    checks,
    cw,
    cw_paper,
    evaluate,
    fab,
    fgsm,
    nattack,
    pgd,
    save_examples,
    square,
)
from gracile.attacks.autoattack import VERSIONS
from gracile.attacks.evaluation import Score
from gracile.attacks.victim import DRAWS, attacking
from gracile.cli import main
from gracile.commands.options import fraction
from gracile.core.errors import InputError, NonFiniteError, StorageError
from gracile.deploy import attack as attacked
from gracile.deploy.cards import cost
from gracile.report import reading
from gracile.report.writing import render
from tests.conftest import make_blobs
from tests.models.attacked import Noisy, Rounded, convolutional
from tests.peers import peer


def batch(n: int = 24, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(n, 2, 6, 6, generator=random), torch.randint(5, (n,), generator=random)


# What is refused, and how


@pytest.mark.parametrize(("change", "message"), [
    ({"eps": -0.1}, "eps is -0.1. Give a size from 0 on"),
    ({"eps": float("nan")}, "eps is nan"),
    ({"eps": 8.0}, "write 8/255"),
    ({"steps": 0}, "steps is 0"),
    ({"steps": 2.5}, "steps is 2.5. Give a whole number"),
    ({"precision": "half"}, "precision is 'half'"),
    ({"draws": 0}, "draws is 0"),
    ({"chunk": 0}, "chunk is 0"),
    ({"norm": "l0"}, "norm is 'l0'"),
    ({"alpha": 0.0}, "alpha is 0.0"),
    ({"loss": "cee"}, "Did you mean 'ce'"),
    ({"mode": "train"}, "mode is 'train'"),
    ({"restarts": 2, "random_start": False}, "take the same way"),
    ({"start": torch.zeros(2, 2)}, "one point in"),
])  # fmt: skip
def test_an_argument_that_cannot_be_used_is_named(change: dict, message: str):
    with pytest.raises(InputError, match=message):
        pgd(convolutional(), *batch(), **change)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda x, y: (x, y.float()), "labels are torch.float32"),
    (lambda x, y: (x, y[:3]), r"shape \(3,\) for 24 inputs"),
    (lambda x, y: (x, nn.functional.one_hot(y)), r"shape \(24, 5\)"),
    (lambda x, y: (x, y - 1), "A label is -1"),
    (lambda x, y: (x, y + 5), "labels go up to 9, and the network has 5"),
    (lambda x, y: (x * 4 - 2, y), "put the normalisation into the network"),
    (lambda x, y: (x.where(x > 0.01, float("nan")), y), "nan"),
    (lambda x, y: ((x * 255).byte(), y), "inputs are torch.uint8"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["pgd", "square", "autoattack"])
def test_data_that_cannot_be_attacked_are_refused_before_anything_happens(name: str, spoil, message: str):
    with pytest.raises(InputError, match=message):
        ATTACKS[name].attack(convolutional(), *spoil(*batch()), eps=0.1)


def test_gradients_that_are_not_finite_are_an_error_and_not_a_robust_sample():
    class Root(nn.Module):
        def forward(self, x):
            # sqrt has no finite slope at 0, and 0 * infinity is NaN.
            return x.flatten(1)[:, :3] + (0 * x.flatten(1)[:, :3]).sqrt()

    for attack in (pgd, cw, fab, ATTACKS["apgd"].attack):
        x = torch.rand(4, 1, 2, 2)
        y = Root()(x).argmax(dim=1)
        with pytest.raises(NonFiniteError, match="float32"):
            attack(Root(), x, y, eps=0.01)


def test_a_network_without_gradients_is_told_of_black_box_attacks():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)[:, :3]

    x = torch.rand(4, 1, 2, 2)
    y = Cut()(x).argmax(dim=1)
    with pytest.raises(InputError, match="square or nattack"):
        pgd(Cut(), x, y)
    assert square(Cut(), x, y, eps=0.5, steps=20).shape == x.shape


def test_outputs_that_are_no_logits_are_refused():
    with pytest.raises(InputError, match="gives logits"):
        pgd(nn.Identity(), *batch())


def test_the_linf_form_of_cw_wants_a_ball_and_choosing_targets_twice_is_refused():
    with pytest.raises(InputError, match="eps is None"):
        cw(convolutional(), *batch(), eps=None)
    with pytest.raises(InputError, match="chooses its targets itself"):
        ATTACKS["apgd"].attack(convolutional(), *batch(), loss="dlr-targeted", targeted=True)


# How the network is asked


def test_no_weight_gradient_is_computed_and_a_training_network_is_attacked_in_evaluation_mode():
    model, (x, y) = convolutional(), batch()
    seen = []
    model[1].register_forward_hook(lambda module, *_: seen.append((module.training, model[0].weight.requires_grad)))
    found = pgd(model.train(), x, y, steps=2)
    assert set(seen) == {(False, False)}
    assert torch.equal(found, pgd(model.eval(), x, y, steps=2))


def test_in_the_mode_found_batch_norm_moves_as_in_any_pass():
    model, (x, y) = convolutional().train(), batch()
    before = model[1].running_mean.clone()
    pgd(model, x, y, steps=3, mode="found")
    assert int(model[1].num_batches_tracked) == 3  # one pass of the whole batch a step, never pieces
    assert not torch.equal(model[1].running_mean, before)


def test_networks_that_view_activations_are_attacked_too():
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.linear = nn.Conv2d(2, 3, 3), nn.Linear(48, 5)

        def forward(self, x):
            return self.linear(self.convolution(x).view(len(x), -1))

    torch.manual_seed(0)
    model, (x, y) = Views(), batch()
    assert torch.equal(pgd(model, x, y), pgd(model, x, y, channels_last=False))


def test_attacks_work_where_gradients_are_switched_off():
    model, (x, y) = convolutional(), batch()
    expected = pgd(model, x, y)
    with torch.no_grad():
        assert torch.equal(pgd(model, x, y), expected)
    with torch.inference_mode():
        assert torch.equal(pgd(model, x.clone(), y.clone()), expected)


def test_restarts_and_early_stop_only_break_more():
    model, (x, y) = convolutional().eval(), batch(60)
    y = model(x).argmax(dim=1)
    broken = lambda **more: model(pgd(model, x, y, eps=0.02, steps=3, **more)).argmax(dim=1) != y
    once, often = broken(), broken(restarts=8)
    assert 0 < int(once.sum()) < 60
    assert not bool((once & ~often).any())
    assert not bool((once & ~broken(early_stop=True)).any())


def test_a_gradient_is_the_mean_over_the_draws():
    class Doubling(nn.Module):
        """Logits scaled by 1, 2, 3, ... from pass to pass: the mean over n draws is known."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return self.calls * x.flatten(1)

    x, y = torch.rand(2, 1, 1, 3), torch.tensor([0, 1])
    with attacking(Doubling(), x, y, eps=0.1, draws=4) as (victim, inside, labels):
        losses, logits, gradient = victim.gradient(inside, lambda z, y: z.gather(1, y[:, None]).squeeze(1), labels)
    assert torch.allclose(logits, 2.5 * x.flatten(1))
    assert torch.allclose(losses, 2.5 * x.flatten(1).gather(1, y[:, None]).squeeze(1))
    assert torch.allclose(gradient.flatten(1), 2.5 * nn.functional.one_hot(y, 3).float())
    assert victim.queries == 8


def test_expectation_over_the_noise_breaks_a_noisy_network_more_often():
    class Shaken(nn.Module):
        """A linear network whose gradient is shaken in every pass, by noise with mean zero."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x):
            shake = (x * torch.randn_like(x)).flatten(1).sum(dim=1, keepdim=True)
            return self.network(x) + shake * torch.tensor([1.0, 0.0])

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 2)).eval()
    x = torch.rand(200, 2, 6, 6)
    y = model(x).argmax(dim=1)
    # Judged without the noise: that is the mean answer, with which its draws agree in expectation.
    stands = lambda draws: int(
        (model(fgsm(Shaken(model), x, y, eps=0.08, draws=draws, loss="margin")).argmax(1) == y).sum()
    )
    assert stands(40) < stands(1) - 40


def test_autoattack_takes_the_random_version_for_networks_that_draw():
    model, (x, _) = Noisy(convolutional(), 0.01), batch(6)
    asked = []
    model.register_forward_hook(lambda *_: asked.append(torch.is_grad_enabled()))
    autoattack(model, x, model.network.eval()(x).argmax(dim=1), eps=1e-6, steps=2, draws=3)
    # Two runs of APGD: each asks for 3 gradients of 3 draws on samples that stand to the end.
    assert sum(asked) == 2 * 3 * 3


@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_a_lucky_draw_is_no_break(name: str):
    model, (x, y) = Noisy(convolutional(), 5.0), batch(6)
    asked = []
    model.register_forward_hook(lambda _, given, __: asked.append(len(given[0])) if torch.is_grad_enabled() else None)
    more = {"early_stop": True} if name == "pgd" else {}
    ATTACKS[name].attack(model, x, y, eps=0.01, steps=4, draws=2, **more)
    # Noise this loud breaks most samples in most draws, yet those that stood at first are climbed to the last step.
    assert len(asked) == 2 * (4 if name == "pgd" else 5)
    assert len(set(asked)) == 1


def test_the_papers_attack_does_nothing_at_the_scale_it_was_shipped_with():
    model, (x, y) = convolutional().eval(), batch()
    assert float((cw_paper(model, x, y, scale=0.031) - x).abs().max()) < 0.5 / 255  # half a grey level
    assert 0.01 < float((cw_paper(model, x, y) - x).abs().max()) < 0.05


def test_queries_are_counted_exactly():
    model, (x, _) = convolutional().eval(), batch(5)
    y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 5  # wrong already: no query is spent on it
    for attack, spent in ((square, 7), (nattack, 2 * 6 + 1)):
        queries = torch.ones_like(y)
        attack(model, x, y, eps=0.0 if attack is nattack else 1e-6, queries=queries,
               **({"steps": 7} if attack is square else {"steps": 2, "population": 6}))  # fmt: skip
        assert queries.tolist() == [1, *[1 + spent] * 4]


# What a network may return


class Returning(nn.Module):
    """A network whose logits go through `wrap`."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.network, self.wrap = convolutional().eval(), wrap

    def forward(self, x):
        return self.wrap(self.network(x))


@pytest.mark.parametrize("wrap", [
    lambda z: (z,), lambda z: [z, None], lambda z: {"logits": z, "features": 2 * z}, lambda z: {"scores": z},
    lambda z: (z, z[:, :, None]), lambda z: SimpleNamespace(logits=z, loss=None),
])  # fmt: skip
def test_logits_are_found_in_what_a_network_returns(wrap):
    model, (x, y) = Returning(wrap), batch(6)
    assert torch.equal(pgd(model, x, y, steps=2), pgd(model.network, x, y, steps=2))


@pytest.mark.parametrize(("wrap", "message"), [
    (lambda z: (z, z), "returns a tuple, in which 2 tensors could be logits. Attack a module whose forward picks"),
    (lambda z: {"boxes": z[:, :, None]}, "returns a dict. Attack"),
    (lambda z: None, "returns a NoneType. Attack"),
    (lambda z: z.detach().numpy(), "returns a ndarray. Attack"),
])  # fmt: skip
def test_an_output_without_clear_logits_is_refused_in_a_sentence(wrap, message: str):
    with pytest.raises(InputError, match=message):
        pgd(Returning(wrap), *batch(6), steps=2)


def test_transformers_outputs_are_taken():
    transformers = peer("transformers")
    output = transformers.modeling_outputs.ImageClassifierOutput
    model, (x, y) = Returning(lambda z: output(logits=z, hidden_states=(z, z))), batch(6)
    assert torch.equal(pgd(model, x, y, steps=2), pgd(model.network, x, y, steps=2))


# Networks that draw random numbers


def test_a_network_that_draws_is_found_out_and_attacked_over_twenty_draws():
    calls = []
    model, (x, y) = Noisy(convolutional()), batch(6)
    model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    pgd(model, x, y, steps=2)
    assert sum(calls) == 2 * DRAWS
    calls.clear()
    pgd(model.network, x, y, steps=2)
    pgd(model, x, y, steps=2, draws=1)
    assert len(calls) == 2  # asked for one draw, it is not even probed


@pytest.mark.parametrize("draws", [None, 1])
@pytest.mark.parametrize("name", sorted(name for name, row in ATTACKS.items() if row.norms))
def test_no_attack_counts_a_lucky_draw_as_a_break(name: str, draws: int | None):
    class Coin(nn.Module):
        """Answers class 1 in one pass of four, whatever it is shown; in the mean it answers class 0."""

        def forward(self, x):
            lucky = (torch.rand(len(x), 1) < 0.25).float()
            return 0 * x.flatten(1)[:, :2] + lucky * torch.tensor([0.0, 1.0]) + (1 - lucky) * torch.tensor([1.0, 0.0])

    x, y = torch.rand(12, 1, 4, 4), torch.zeros(12, dtype=torch.int64)
    options = {"steps": 8, "restarts": 2, "population": 4, "searches": 2, "early_stop": True}
    known = inspect.signature(ATTACKS[name].attack).parameters
    found = ATTACKS[name].attack(
        Coin(), x, y, eps=0.1, draws=draws, **{key: value for key, value in options.items() if key in known}
    )
    with attacking(Coin(), found, y, eps=0.1, draws=200) as (victim, at, labels):
        assert not bool(victim.verdict(at, labels).any())
    evaluated = evaluate(Coin(), x, y, eps=0.1, attacks=("pgd",), draws=draws)
    assert evaluated["pgd"].correct == len(x)
    assert evaluated.judged == DRAWS
    assert "mean of 20 fresh draws" in str(evaluated)
    assert evaluated.to_json()["judged"] == DRAWS


def test_early_stop_no_longer_flatters_a_network_behind_noise(fitted):
    # Frozen at its first lucky draw, IFGSM used to come out weaker than FGSM, a single step of it.
    model, x, y = fitted
    found = evaluate(
        Noisy(model, 0.35), x, y, eps=0.25, attacks=("fgsm", "ifgsm", "pgd", "cw"), options={"cw": {"steps": 20}}
    )
    assert found["ifgsm"].correct <= found["fgsm"].correct
    assert found["pgd"].correct <= found["fgsm"].correct + 1
    assert found["cw"].correct <= found["fgsm"].correct + 1
    assert found["worst"].correct < found["clean"].correct - 10


# Evaluation


@pytest.fixture(scope="module")
def fitted():
    """A network that tells the blobs apart, and its test samples."""
    from gracile.training import fit

    splits = make_blobs()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
    fit(model, splits, epochs=8, lr=0.05, batch_size=32)
    return model.eval(), splits.test.inputs.float() / 255, splits.test.labels


BRIEF = {
    "nattack": {"steps": 10, "population": 20},
    "autoattack": {"steps": 10, "search_steps": 40},
    "cw": {"steps": 10},
}


def test_an_evaluation_reports_every_attack_and_the_worst_case(fitted):
    model, x, y = fitted
    found = evaluate(model, x, y, eps=0.1, options=BRIEF, limits={"nattack": 5})
    names = [score.name for score in found.scores]
    assert names == ["clean", "fgsm", "ifgsm", "cw", "nattack", "autoattack", "worst"]
    assert found["clean"].percent == 100 * float((model(x).argmax(1) == y).double().mean())
    assert found["worst"].correct <= min(score.correct for score in found.scores if score.samples == len(x))
    assert found["nattack"].samples == 5
    assert (found["nattack"].queries or 0) > 1
    assert found.warnings == ()
    assert "AutoAttack" in str(found)
    assert json.loads(json.dumps(found.to_json()))["scores"][0]["name"] == "clean"


def test_the_interval_is_wilsons():
    # 0 of 10: the upper end is z^2 / (n + z^2).
    low, high = Score("a", "A", 0, 10).interval
    assert low == pytest.approx(0, abs=1e-9)
    assert high == pytest.approx(100 * 1.959964**2 / (10 + 1.959964**2), rel=1e-5)


def test_a_network_that_is_sound_earns_no_warning_and_each_fault_its_own(fitted):
    model, x, y = fitted
    assert checks.network(model, x, y, eps=0.05) == []
    told = lambda net, **more: " ".join(checks.network(net, x, y, eps=0.05, **more))
    assert "probabilities" in told(nn.Sequential(model, nn.Softmax(dim=1)))
    assert "--draws 20" in told(Noisy(model), draws=1)
    assert "--draws" not in told(Noisy(model))
    assert "exactly zero" in told(Rounded(model))
    saturated = nn.Sequential(model, nn.Linear(3, 3, bias=False))
    saturated[1].weight.data = 1e4 * torch.eye(3)
    assert "softmax saturates" in told(saturated)
    assert "the attack fails, not the adversary" in told(Rounded(model))


def test_a_loss_that_falls_as_the_attack_grows_is_reported(fitted):
    class Backwards(nn.Module):
        """Right answers, none of them too sure, and a gradient of the wrong sign."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x):
            return 0.1 * self.network(2 * x.detach() - x)

    model, x, y = fitted
    found = " ".join(checks.network(Backwards(model), x, y, eps=0.05))
    assert "as the ball doubles" in found
    # Five steps nearly fill this ball; what twenty take away is told from chance by the same test.
    few = torch.linspace(1.0, 2.0, 40)
    assert checks._falls(few, few - 0.01)
    assert not checks._falls(few, few.flip(0))


def test_black_box_and_transfer_that_beat_gradients_are_reported(fitted):
    model, x, y = fitted
    masked = Rounded(model, levels=200)
    found = evaluate(masked, x, y, eps=0.25, attacks=("fgsm", "pgd", "square"), surrogate=model,
                     options={"square": {"steps": 200}})  # fmt: skip
    text = " ".join(found.warnings)
    assert "Square breaks" in text
    assert "transfer from its surrogate breaks" in text
    assert found["worst"].correct <= found["square"].correct
    assert found["pgd"].correct > found["transfer"].correct


def test_an_iterative_attack_weaker_than_one_step_is_reported_and_does_not_count(fitted):
    model, x, y = fitted
    found = evaluate(model, x, y, eps=0.3, attacks=("fgsm", "cw_paper"))
    assert found["cw_paper"].correct > found["fgsm"].correct
    assert any("C&W as the papers' code has it breaks" in warning for warning in found.warnings)
    assert found["worst"].correct == found["fgsm"].correct


def test_what_has_no_gradients_is_attacked_by_search(fitted):
    model, x, y = fitted
    found = evaluate(lambda z: model(z).detach(), x, y, eps=0.2, attacks=("square",), surrogate=model,
                     options={"square": {"steps": 60}})  # fmt: skip
    assert found["worst"].correct < found["clean"].correct
    with pytest.raises(InputError, match="knows no l2 ball"):
        evaluate(model, x, y, attacks=("nattack",), norm="l2")


def test_a_card_has_the_fields_of_robustbench_and_the_cost(fitted, tmp_path: Path):
    model, x, y = fitted
    found = evaluate(model, x, y, eps=64 / 255, attacks=("pgd", "autoattack"), options=BRIEF)
    made = card(
        found, name="small", architecture="MLP", dataset="blobs", cost=Cost(zeros=50.0, parameters=1091, latency=0.02),
        venue="none",
    )  # fmt: skip
    written = json.loads(json.dumps(made.to_json()))
    robustbench = {
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps",
        "clean_acc", "reported", "autoattack_acc", "footnote",
    }  # fmt: skip
    assert robustbench <= set(written)
    assert written["eps"] == "64/255"
    assert written["clean_acc"] == f"{found['clean'].percent:.2f}"
    assert (written["zeros"], written["parameters"], written["bytes"]) == (50.0, 1091, None)
    assert made.row()["robust %"] == f"{found['worst'].percent:.2f}"
    assert made.row()["bytes"] == ""
    with pytest.raises(InputError, match="no field 'clean'"):
        card(found, name="a", architecture="b", dataset="c", clean=100)


def test_adversarial_examples_are_kept_and_break_the_network(fitted, tmp_path: Path):
    model, x, y = fitted
    found = evaluate(model, x, y, eps=0.3, attacks=("fgsm", "pgd"))
    save_examples(found, x, y, tmp_path / "examples.safetensors")
    kept = load_file(tmp_path / "examples.safetensors")
    assert int((model(kept["adversarial"]).argmax(1) == kept["labels"]).sum()) == found["worst"].correct < len(x)
    assert float((kept["adversarial"] - kept["clean"]).abs().max()) <= 0.3 + 1e-6
    with pytest.raises(InputError, match="no adversarial examples of these"):
        save_examples(found, x[:3], y[:3], tmp_path / "other.safetensors")


def test_autoattack_tells_which_part_broke_what(fitted):
    model, x, y = fitted
    found = evaluate(model, x, y, eps=0.3, attacks=("autoattack",), options=BRIEF)
    score = found["autoattack"]
    assert list(score.parts or {}) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert sum((score.parts or {}).values()) == found["clean"].correct - score.correct > 0
    assert "by the part that broke them first: apgd-ce" in str(found)


@pytest.mark.parametrize("version", ["standard", "plus", "random"])
def test_versions_of_autoattack_take_the_published_parts(fitted, version):
    model, x, y = fitted
    broken: dict = {}
    found = autoattack(model, x, y, eps=0.25, version=version, steps=5, search_steps=20, broken_by=broken)
    assert list(broken) == list(VERSIONS[version])
    assert torch.equal(model(found).argmax(1) != y, torch.stack([*broken.values(), model(x).argmax(1) != y]).any(dim=0))
    with pytest.raises(InputError, match="Leave one out"):
        autoattack(model, x, y, version="plus", parts=("square",))
    with pytest.raises(InputError, match="version of AutoAttack"):
        autoattack(model, x, y, version="rand")


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacked")
    splits = make_blobs()
    np.savez(
        folder / "blobs.npz",
        x_train=splits.train.inputs.numpy()[:, 0], y_train=splits.train.labels,
        x_test=splits.test.inputs.numpy()[:, 0], y_test=splits.test.labels,
    )  # fmt: skip
    (folder / "blobs.toml").write_text(
        f'title = "Blobs"\nkind = "train"\n[settings.data]\nname = "{folder / "blobs.npz"}"\n[settings.model]\nname = "mlp"\n'
        "[settings.training]\nepochs = 4\nbatch_size = 32\nlr = 0.05\n[settings.arms.dense]\n[settings.arms.rgsm]\n"
        'method = "rgsm"\noptions = { lam = 0.02, beta = 1.0, grouping = "coupled" }\n'
    )
    assert main(["run", str(folder / "blobs.toml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_is_attacked_and_its_page_tells(run: Path, capsys):
    options = ["--eps", "20/255", "--samples", "30", "--attacks", "fgsm,ifgsm,cw", "--quick"]
    assert main(["attack", str(run), *options]) == 0
    printed = capsys.readouterr().out
    assert "IFGSM-20" in printed
    found = json.loads((run / "attacked/rgsm/attack.json").read_text())
    assert set(found["networks"]) == {"dense", "rgsm"}
    assert [one["name"] for one in found["networks"]["rgsm"]["scores"]] == [
        "clean", "transfer", "fgsm", "ifgsm", "cw", "worst",
    ]  # fmt: skip
    assert found["networks"]["dense"]["scores"][0]["samples"] == 30
    last = printed.split("\n\nEverything is in")[0].split("\n\n")[-1]
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in last.splitlines()]
    assert heads == ["network", "clean %", "robust %", "zeros %", "parameters", "multiply-adds"]
    assert [row[0] for row in rows] == ["dense", "rgsm"]
    for row in rows:
        kept = json.loads((run / f"attacked/rgsm/{row[0]}.card.json").read_text())
        assert kept == found["cards"][row[0]]
        scores = {one["name"]: one["accuracy"] for one in found["networks"][row[0]]["scores"]}
        assert row[1:3] == [f"{scores['clean']:.2f}", f"{scores['worst']:.2f}"]
        assert row[4:] == [f"{kept['parameters']:,}", f"{kept['multiply_adds']:,}"]
        assert kept["dataset"] == "blobs"
        assert "overstated" in kept["footnote"]
        tried = load_file(run / f"attacked/rgsm/{row[0]}.examples.safetensors")
        assert tried["adversarial"].shape == tried["clean"].shape == (30, 1, 8, 8)
        assert float((tried["adversarial"] - tried["clean"]).abs().max()) <= 20 / 255 + 1e-6
    page = render([reading.read(run)])
    assert "Robust accuracy" in page
    assert "robustness is overstated" in page
    assert "robustness is overstated" in printed
    assert "linf 0.07843 (20/255)" in page
    worst = found["networks"]["rgsm"]["scores"][-1]
    assert f"{worst['accuracy']:.2f} ({worst['low']:.1f} to {worst['high']:.1f})" in page


def test_a_network_of_ones_own_is_attacked(run: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "import torch\n\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))\n"
    )
    save_file({"1.weight": torch.eye(64)[:3].contiguous(), "1.bias": torch.zeros(3)}, "w.safetensors")
    data = str(run.parent / "blobs.npz")
    options = ["--data", data, "--weights", "w.safetensors", "--attacks", "fgsm", "--samples", "0"]
    assert main(["attack", "net.py:make", *options]) == 0
    assert json.loads(Path("attacked/make/attack.json").read_text())["networks"]["make"]["scores"][0]["samples"] == 60
    assert "95 % interval" in capsys.readouterr().out


def test_where_numbers_cannot_be_written_no_attack_is_begun_and_none_is_lost(tmp_path: Path, monkeypatch, caplog):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    (tmp_path / "note.txt").touch()
    with (
        caplog.at_level("INFO", "gracile"),
        pytest.raises(StorageError, match=r"No files can be written in .*note\.txt"),
    ):
        attacked(network, make_blobs(), attacks=["fgsm"], samples=6, folder=tmp_path / "note.txt")
    assert not caplog.records

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="is full"):
        attacked(network, make_blobs(), attacks=["fgsm"], samples=6, folder=tmp_path)
    assert "What was measured is not written" in caplog.text
    assert "| network" in caplog.text


def test_a_cost_is_what_can_be_counted():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    with torch.no_grad():
        network[0].weight[:2] = 0
    found = cost(network, torch.rand(2, 1, 8, 8))
    assert found == Cost(
        zeros=pytest.approx(100 * 18 / (36 + 432)), parameters=36 + 4 + 432 + 3, multiply_adds=36 * 36 + 432
    )

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            return self.linear(x) if float(x.sum()) > 0 else self.linear(-x)

    assert cost(Branching(), torch.rand(2, 4)) == Cost(zeros=0.0, parameters=10, multiply_adds=None)


def test_a_network_that_draws_is_attacked_over_twenty_draws_unasked(run: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "import torch\n\nclass Noisy(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.linear = torch.nn.Linear(64, 3)\n    def forward(self, x):\n"
        "        return self.linear((x + torch.randn_like(x)).flatten(1))\n"
    )
    options = ["--data", str(run.parent / "blobs.npz"), "--attacks", "fgsm", "--samples", "6"]
    assert main(["attack", "net.py:Noisy", *options]) == 0
    assert "each answer is the mean of 20 fresh draws, each gradient of 20" in capsys.readouterr().out
    assert json.loads(Path("attacked/Noisy/attack.json").read_text())["networks"]["Noisy"]["draws"] == 20
    assert main(["attack", "net.py:Noisy", *options, "--draws", "3"]) == 0
    assert "each answer is the mean of 20 fresh draws, each gradient of 3" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--eps", "eight"], "--eps takes a number"),
    (["--eps", "8"], "write 8/255"),
    (["--attacks", "pgdd"], "Did you mean 'pgd'"),
    (["--samples", "-1"], "number of samples is -1"),
    (["--weights", "w"], "does not go with a run"),
    (["--arm", "rgms"], "Did you mean 'rgsm'"),
    (["--device", "cuda:99"], "The device 'cuda:99' is not there"),
])  # fmt: skip
def test_a_users_mistake_is_one_line(run: Path, arguments: list[str], message: str, capsys):
    assert main(["attack", str(run), *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_eps_is_read_as_a_fraction():
    assert fraction("--eps", "8/255") == 8 / 255
    assert fraction("--eps", "0.5") == 0.5


def test_entries_name_rows():
    assert {entry.attack for entry in ENTRIES.values()} <= set(ATTACKS)
    assert {"fgsm", "ifgsm", "cw", "nattack", "autoattack"} <= set(ENTRIES)
