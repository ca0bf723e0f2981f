"""Passes that leave out what is gone: the same training, for less, and whole passes wherever it would not be the same."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gracile import RGSM, fit, models
from gracile.core.errors import InputError
from gracile.core.sparsifier import Sparsifier, settled
from gracile.data import Splits
from gracile.dynamics import watch
from gracile.pruning import ADMM, GradualMagnitude, L1Filters, RandomChannels, Scratch
from gracile.shrinking import LeanPasses, ParityError, shrink
from gracile.splitting import Dial
from gracile.training import adversary, lean

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": lambda: models.resnet20(width=4),
    "vgg16": lambda: models.vgg16(width=0.125),
    "mobilenet": lambda: models.mobilenet(width=0.25),
    "vit": lambda: models.vit(image_size=32, width=16, depth=2, heads=4),
    "lenet": lambda: models.lenet(in_channels=3, image_size=32),
}


def pruned(model: nn.Module, x: Tensor, share: float = 0.4) -> RandomChannels:
    """Random channels, which go after the first step."""
    return RandomChannels(model, steps=4, example=x, macs=share, prune_at=0.0)


def descend(model: nn.Module, through: nn.Module, method: Sparsifier, x: Tensor, y: Tensor, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-2)
    method.attach(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(through(x), y).backward()
        optimizer.step()
    method.detach()


@pytest.mark.parametrize("name", NETWORKS)
def test_training_through_lean_passes_ends_where_training_through_whole_ones_does(name: str):
    """In float64: outputs of both modes, with batch-norm's own statistics, after some steps."""
    torch.manual_seed(0)
    model = NETWORKS[name]().double().train()
    x, y = torch.randn(6, 3, 32, 32, dtype=torch.float64), torch.arange(6)
    descend(model, model, first := pruned(model, x), x, y, 1)
    ends = []
    for lean_ones in (False, True):
        here = copy.deepcopy(model)
        method = pruned(here, x)
        method.load_state_dict(first.state_dict())
        through = LeanPasses(here, x) if lean_ones else here
        descend(here, through, method, x, y, 3)
        ends.append((here, method.sparse_model()))
    (whole, _), (cut, _) = ends
    assert LeanPasses(cut, x).left <= 0.41
    moved = 0.0
    for mode in (True, False):
        outputs = [one.train(mode)(x) for one in (model, whole, cut)]
        moved = max(moved, float((outputs[0] - outputs[1]).detach().abs().max()))
        torch.testing.assert_close(outputs[2], outputs[1], rtol=1e-9, atol=1e-9)
    assert moved > 1e-3


def test_gradients_and_statistics_lie_where_the_whole_network_has_them():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    )
    with torch.no_grad():
        model[4].weight.view(4, 8, 36)[:, [1, 5]] = 0
    x = torch.randn(5, 3, 8, 8)
    other = copy.deepcopy(model)
    passes = LeanPasses(model, x)
    assert passes.left == 0.75
    assert passes.saved == other[0].weight.numel() // 4 * 36 + 2 * 36 * 4
    for one in (passes, other):
        one(x).square().sum().backward()
    stays = torch.tensor([0, 2, 3, 4, 6, 7])
    torch.testing.assert_close(model[0].weight.grad, other[0].weight.grad)
    torch.testing.assert_close(model[1].running_var[stays], other[1].running_var[stays])
    assert (model[1].running_var[[1, 5]] == 1).all()
    assert model[1].num_batches_tracked == 1
    passes.eval()
    assert not model.training
    torch.testing.assert_close(passes(x), model(x))
    assert model[1].num_batches_tracked == 1
    model[1].train()
    before = model[1].running_var.clone()
    passes(x)
    assert model[1].num_batches_tracked == 2
    assert (model[1].running_var[stays] != before[stays]).all()


def test_a_dial_and_every_method_say_when_their_zeros_stay():
    x = torch.randn(2, 1, 8, 8)

    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
        )

    def when(method: Sparsifier, model: nn.Module) -> list[bool]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        method.attach(optimizer)
        seen = [settled(method)]
        for _ in range(10):
            model(x).sum().backward()
            optimizer.step()
            seen.append(settled(method))
        return seen

    def after(step: int) -> list[bool]:
        return [place >= step for place in range(11)]

    def of(make: Callable[[nn.Module], Sparsifier]) -> list[bool]:
        model = network()
        return when(make(model), model)

    common = {"steps": 10, "example": x, "macs": 0.5}
    assert of(lambda model: Dial(RGSM(model, beta=0.1, example=x), settle=0.4, ramp=0.3, **common)) == after(6)
    assert of(lambda model: RGSM(model, example=x)) == after(11)
    assert of(lambda model: L1Filters(model, prune_at=0.3, **common)) == after(3)
    assert of(lambda model: GradualMagnitude(model, unit="channel", end=0.8, updates=3, **common)) == after(8)
    assert of(lambda model: ADMM(model, unit="channel", retrain=0.5, **common)) == after(5)
    found = pruned(small := network(), x)
    when(found, small)
    assert of(lambda model: Scratch(model, steps=10, example=x, found=found.sparse_model())) == after(0)
    assert not settled(None)


def test_constants_that_others_read_are_refused():
    """The reader learns how to weigh the constant, which a folded one would not let it."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].weight[1:3] = 0
        model[0].bias[1:3] = 1
    x = torch.randn(3, 4)
    assert shrink(model, x)[0].out_features == 4
    with pytest.raises(InputError, match="constant and not zero is read by '2'"):
        LeanPasses(model, x)


class Attention(nn.Module):
    """Reads two of four heads."""

    shape = (5, 8)

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.TransformerEncoderLayer(8, 4, 16, dropout=0.0, batch_first=True), nn.Linear(8, 3)
        with torch.no_grad():
            self.layer.self_attn.out_proj.weight[:, :4] = 0
            self.layer.self_attn.in_proj_weight.view(3, 8, 8)[:, :4] = 0
            self.layer.self_attn.in_proj_bias.view(3, 8)[:, :4] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x).mean(1))


class Tied(nn.Module):
    """Two layers share a weight; a third is half gone."""

    shape = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.out = (
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 12),
            nn.Linear(12, 2),
        )
        self.second.weight = self.first.weight
        with torch.no_grad():
            self.out.weight[:, 6:] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.third(self.second(self.first(x).relu())).relu())


class Recurrent(nn.Module):
    """Nobody reads half of the state."""

    shape = (5, 4)

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 2)
        with torch.no_grad():
            self.out.weight[:, 4:] = 0
            self.layer.weight_hh_l0[:, 4:] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0][:, -1])


@pytest.mark.parametrize("kind", [Attention, Tied, Recurrent])
def test_gradients_are_the_whole_networks_where_there_are_any(kind: Callable[[], nn.Module]):
    torch.manual_seed(0)
    model = kind().double()
    x = torch.randn(4, *model.shape, dtype=torch.float64)  # type: ignore[misc]
    passes = LeanPasses(model, x)
    assert passes.left < 1
    gradients = []
    for through in (model, passes):
        model.zero_grad()
        through(x).square().sum().backward()
        gradients.append([one.grad.clone() for one in model.parameters() if one.grad is not None])
    for whole, cut in zip(*gradients, strict=True):
        torch.testing.assert_close(cut, torch.where(cut != 0, whole, 0.0), rtol=1e-9, atol=1e-12)
        assert (cut != 0).any() or not (whole.abs() > 1e-12).any()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_network_that_does_something_else_in_training_is_refused(dropout: float):
    """Sizes in its forward make a smaller one of it whose forward is generated, as in evaluation."""

    class Auxiliary(nn.Module):
        def __init__(self, *, aside: bool) -> None:
            super().__init__()
            self.first, self.last, self.drop = nn.Linear(4, 6), nn.Linear(6, 2), nn.Dropout(dropout)
            self.aside = aside

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            hidden = self.drop(self.first(x).relu().view(-1, 6))
            return (self.last(hidden), hidden) if self.aside and self.training else self.last(hidden)

    x = torch.randn(3, 4)
    for aside in (False, True):
        model = Auxiliary(aside=aside).train()
        with torch.no_grad():
            model.last.weight[:, :3] = 0
        assert shrink(model, x).first.out_features == 3
        if aside:
            with pytest.raises(ParityError, match="In training mode"):
                LeanPasses(model, x)
        else:
            assert LeanPasses(model, x)(x).shape == (3, 2)


# In `gracile.fit`.

SETTINGS = {"batch_size": 48, "lr": 0.05, "seed": 4, "precision": "float32", "epochs": 4}
STEPS = 16


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 3),
    )  # fmt: skip


def trained(data: Splits, **settings: object) -> tuple[Tensor, float | None]:
    model = network()
    x = torch.zeros(2, 1, 8, 8)
    dial = Dial(RGSM(model, beta=0.1, example=x), steps=STEPS, macs=0.4, example=x)
    history = fit(model, data, sparsifier=dial, **{**SETTINGS, **settings})  # type: ignore[arg-type]
    return dial.sparse_model().double().eval()(data.test.inputs.double() / 255).detach(), history.lean


def test_fit_takes_them_once_the_choice_is_final(blobs: Splits, caplog: pytest.LogCaptureFixture):
    whole, none = trained(blobs, lean_passes=False)
    with caplog.at_level(logging.INFO, "gracile"):
        cut, left = trained(blobs, lean_passes=True)
    assert none is None
    assert left is not None
    assert 0.3 < left <= 0.4
    assert f"the passes take {100 * left:.1f} % of the multiply-adds" in caplog.text
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-4)
    assert not torch.equal(cut, whole)


@pytest.mark.parametrize("adversarial", ["pgd", "trades"])
def test_attacks_go_through_them_too(blobs: Splits, adversarial: str):
    objective = lambda: adversary(adversarial, eps=0.1, steps=2)
    whole, _ = trained(blobs, lean_passes=False, objective=objective())
    cut, left = trained(blobs, lean_passes=True, objective=objective())
    assert left is not None
    assert left <= 0.4
    # Signs of gradients near zero may turn.
    assert float((cut - whole).abs().mean() / whole.abs().mean()) < 0.05


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_resumed_run_ends_with_the_same_bits(blobs: Splits, tmp_path: Path, epochs: int):
    """Before the choice, at it and after it."""
    through, _ = trained(blobs, lean_passes=True)
    trained(blobs, lean_passes=True, folder=tmp_path, epochs=epochs)
    again, left = trained(blobs, lean_passes=True, folder=tmp_path, resume=True)
    assert left is not None
    assert torch.equal(again, through)


def test_auto_goes_by_what_is_saved(blobs: Splits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    whole, _ = trained(blobs, lean_passes=False)
    with caplog.at_level(logging.INFO, "gracile"):
        auto, left = trained(blobs)
    assert left == 1
    assert "the passes stay whole: that would save too little" in caplog.text
    assert torch.equal(auto, whole)
    monkeypatch.setattr(lean, "SAVES", 0.0)
    assert trained(blobs)[1] <= 0.4  # type: ignore[operator]
    monkeypatch.setattr(lean, "LEFT", {"float32": 0.2})
    assert trained(blobs)[1] == 1


def test_the_rule_goes_by_whole_batches_and_a_resumed_run_keeps_what_it_chose(
    blobs: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Batches of 60, 60, 60 and 12 samples; the last one would save too little."""
    monkeypatch.setattr(lean, "SAVES", 2e5)

    def run(step: int, epochs: int = 3, **more: object) -> tuple[Tensor, float | None]:
        model = network()
        method = L1Filters(model, steps=12, example=torch.zeros(2, 1, 8, 8), channels=0.5, prune_at=step / 12)
        settings = {**SETTINGS, "epochs": epochs, "batch_size": 60, **more}
        left = fit(model, blobs, sparsifier=method, **settings).lean  # type: ignore[arg-type]
        return torch.cat([one.detach().flatten() for one in model.parameters()]), left

    whole, left = run(3)
    assert left == run(2)[1] < 0.4  # type: ignore[operator]
    run(3, epochs=1, folder=tmp_path)
    # Nor does it choose again where the rule would be another by now.
    monkeypatch.setattr(lean, "SAVES", 1e12)
    with pytest.raises(
        InputError, match=r"leave out what is gone since its choice was final, and lean_passes=False is asked"
    ):
        run(3, folder=tmp_path, resume=True, lean_passes=False)
    again, kept = run(3, folder=tmp_path, resume=True)
    assert kept == left
    assert torch.equal(again, whole)
    # Once more, when it is through.
    caplog.clear()
    assert run(3, folder=tmp_path, resume=True, lean_passes=True)[1] == left
    assert "never final" not in caplog.text


def test_a_resumed_run_stays_whole_where_it_did(blobs: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, left = trained(blobs)
    trained(blobs, folder=tmp_path, epochs=3)
    monkeypatch.setattr(lean, "SAVES", 0.0)
    again, kept = trained(blobs, folder=tmp_path, resume=True)
    assert kept == left == 1
    assert torch.equal(again, whole)


def test_what_would_be_another_training_stays_whole_or_is_refused(blobs: Splits, caplog: pytest.LogCaptureFixture):
    model = network()
    x = torch.zeros(2, 1, 8, 8)
    seen = watch(model, x, every=1)
    with caplog.at_level(logging.INFO, "gracile"):
        fit(model, blobs, sparsifier=pruned(model, x), observe=seen, **SETTINGS)  # type: ignore[arg-type]
    assert "the passes stay whole: hooks look into those of" in caplog.text
    with pytest.raises(InputError, match="cannot leave out what is gone: hooks look into"):
        fit(model, blobs, sparsifier=pruned(model, x), observe=seen, lean_passes=True, **SETTINGS)  # type: ignore[arg-type]
    noisy = nn.Sequential(models.GaussianNoise(0.1), network())
    with pytest.raises(InputError, match="draws noise"):
        fit(noisy, blobs, sparsifier=pruned(noisy, x), lean_passes=True, **SETTINGS)  # type: ignore[arg-type]


def test_what_never_settles_stays_whole_and_says_so_where_it_was_asked_for(
    blobs: Splits, caplog: pytest.LogCaptureFixture
):
    model, x = network(), torch.zeros(2, 1, 8, 8)
    splitting = RGSM(model, example=x)
    for method, why in ((None, "no method of sparse training is there"), (splitting, "RGSM does not say when")):
        assert fit(model, blobs, sparsifier=method, **SETTINGS).lean is None  # type: ignore[arg-type]
        with pytest.raises(InputError, match=why):
            fit(model, blobs, sparsifier=method, lean_passes=True, **SETTINGS)  # type: ignore[arg-type]
    dial = Dial(RGSM(model, beta=0.1, example=x), steps=STEPS, macs=0.4, example=x, settle=0)
    assert fit(model, blobs, sparsifier=dial, lean_passes=True, **SETTINGS).lean is None  # type: ignore[arg-type]
    assert "The choice was never final" in caplog.text
