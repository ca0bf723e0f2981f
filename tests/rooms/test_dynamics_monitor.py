"""The monitor: what it grants, what it records, and that it leaves training alone."""

from __future__ import annotations

import copy
import json
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gracile import fit
from gracile.core.errors import InputError
from gracile.data import Splits
from gracile.dynamics import find, watch
from gracile.models import build
from gracile.training import Cosine


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Dropout(0.3), nn.BatchNorm1d(5), nn.Linear(5, 3)
    )


def train(model: nn.Module, steps: int, optimizer: torch.optim.Optimizer, classes: int = 3) -> None:
    random = torch.Generator().manual_seed(1)
    x, y = torch.randn(12, 4, generator=random), torch.randint(classes, (12,), generator=random)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def sgd(model: nn.Module, **how: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.05, **how})


def test_watching_changes_neither_weights_nor_buffers_nor_random_numbers() -> None:
    plain, watched = small(), small()
    torch.manual_seed(7)
    train(plain, 6, sgd(plain, momentum=0.9))
    after = torch.get_rng_state()
    torch.manual_seed(7)
    optimizer = sgd(watched, momentum=0.9)
    monitor = watch(watched, torch.zeros(2, 4), optimizer=optimizer, every=1, full_every=2)
    train(watched, 6, optimizer)
    assert len(monitor.rows) == 6
    assert torch.equal(torch.get_rng_state(), after)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name]), name
    assert watched.training


def test_recording_leaves_gradients_and_detaching_leaves_no_hook() -> None:
    model = small()
    optimizer = sgd(model)
    monitor = watch(model, torch.zeros(2, 4), optimizer=optimizer)
    train(model, 1, optimizer)
    before = copy.deepcopy([one.grad for one in model.parameters()])
    monitor.record(full=True)
    for one, old in zip(model.parameters(), before, strict=True):
        assert one.grad is not None
        assert torch.equal(one.grad, old)  # type: ignore[arg-type]
    monitor.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize(
    ("between", "invariance", "reason"),
    [
        ([], "full", "linear"),
        ([nn.ReLU()], "pattern", "switches"),
        ([nn.Dropout()], "diagonal", "homogeneous"),
        ([nn.ReLU(), nn.LeakyReLU()], "diagonal", "homogeneous"),
        ([nn.Tanh()], "none", "'1' (Tanh) is not positively homogeneous"),
        ([nn.ReLU6()], "none", "not positively homogeneous"),
        ([nn.BatchNorm1d(5)], "none", "batch-norm '1'"),
        ([nn.LayerNorm(5)], "none", "LayerNorm '1'"),
    ],
)
def test_what_theory_grants_and_why(between: list[nn.Module], invariance: str, reason: str) -> None:
    (junction,) = find(nn.Sequential(nn.Linear(4, 5), *between, nn.Linear(5, 2)), torch.zeros(2, 4))
    assert junction.invariance == invariance
    assert reason in junction.reason


def test_frozen_weights_conserve_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    model[1].weight.requires_grad_(False)
    (junction,) = find(model, torch.zeros(2, 4))
    assert junction.invariance == "none"
    assert "'1.weight' is frozen" in junction.reason


def test_shared_weights_are_refused() -> None:
    shared = nn.Linear(4, 4)
    with pytest.raises(InputError, match=r"one parameter.*of their own"):
        watch(nn.Sequential(shared, nn.ReLU(), shared), torch.zeros(2, 4))


def test_resnet20_finds_every_pair_and_blames_batch_norm() -> None:
    junctions = find(build("resnet20"), torch.zeros(1, 3, 32, 32))
    pairs = [one for one in junctions if one.case != "residual stream"]
    assert len(pairs) == 19  # 19 convolutions, each read by the next layer
    assert all(one.invariance == "none" and "batch-norm" in one.reason for one in pairs)
    assert sum(one.case == "within block" for one in pairs) == 9


def test_gradient_descents_drift_is_explained_to_rounding() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    optimizer = sgd(model, lr=0.1, weight_decay=0.01)
    monitor = watch(model, torch.zeros(2, 4, dtype=torch.float64), optimizer=optimizer, every=1)
    random = torch.Generator().manual_seed(1)
    x = torch.randn(12, 4, generator=random, dtype=torch.float64)
    y = torch.randint(3, (12,), generator=random)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    found = monitor.rows[-1]["junctions"]["0 -> 2"]
    assert found["drift_diagonal"] > 1e-3
    assert found["drift_unexplained"] < 1e-14
    assert found["law"] == "gradient descent"


def test_no_law_is_claimed_for_adam() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    optimizer = torch.optim.Adam(model.parameters())
    monitor = watch(model, torch.zeros(2, 4), optimizer=optimizer, every=1)
    train(model, 3, optimizer)
    assert "drift_unexplained" not in monitor.rows[-1]["junctions"]["0 -> 1"]


def test_neurons_switched_alike_join_what_must_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([50.0, 60.0, 0.0]))
    optimizer = sgd(model, lr=1e-4)
    monitor = watch(model, torch.zeros(2, 4), optimizer=optimizer, every=1)
    train(model, 2, optimizer)
    found = monitor.rows[-1]["junctions"]["0 -> 2"]
    assert found["always_active"] == pytest.approx(2 / 3)
    assert found["alike"] == pytest.approx(1 / 3)  # one pair of three
    alike = monitor.patterns.alike(monitor.junctions[0])
    assert alike is not None
    assert alike.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_evaluation_passes_are_not_looked_at() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    monitor = watch(model, torch.zeros(2, 4), optimizer=sgd(model), every=1)
    with torch.no_grad():
        model(torch.randn(5, 4))
    assert monitor.patterns.alike(monitor.junctions[0]) is None


def test_record_measures_what_it_says() -> None:
    """Every number against its definition."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False)).double()
    monitor = watch(model, torch.zeros(2, 4, dtype=torch.float64))
    w1, w2 = model[0].weight.detach().clone(), model[1].weight.detach().clone()
    start = w1 @ w1.T - w2.T @ w2
    scale = w1.square().sum() + w2.square().sum()
    with torch.no_grad():
        model[0].weight.mul_(-1.5)
    outputs, targets = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0]]), torch.tensor([0, 1])
    row = monitor.record(full=True, outputs=outputs, targets=targets, loss=1.25)
    w1 = model[0].weight.detach()
    found = row["junctions"]["0 -> 1"]
    change = w1 @ w1.T - w2.T @ w2 - start
    u1, s1, _ = torch.linalg.svd(w1)
    v2 = torch.linalg.svd(w2)[2][0]
    assert found["drift_conserved"] == pytest.approx((change.norm() / scale).item())
    assert found["drift_free"] == 0
    assert found["singular_values"] == pytest.approx(s1.tolist())
    assert found["norm"] == pytest.approx(s1[0].item(), rel=1e-6)
    assert found["ratio"] == pytest.approx((s1[0] ** 2 / s1.square().sum()).item(), rel=1e-6)
    assert found["stable_rank"] == pytest.approx(1 / found["ratio"])
    assert found["alignment"] == pytest.approx(abs(u1[:, 0] @ v2).item(), rel=1e-3)
    assert row["margin"] == -3.0
    assert row["loss"] == 1.25
    assert row["sign_changes"] == pytest.approx(20 / 35)


def test_a_weight_of_two_junctions_is_iterated_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    monitor = watch(model, torch.zeros(2, 4, dtype=torch.float64))
    room, iterated = sys.modules["gracile.dynamics.watch"], []
    plain = room.leading
    monkeypatch.setattr(room, "leading", lambda *given: iterated.append(given[0].shape) or plain(*given))
    row = [monitor.record() for _ in range(10)][-1]
    assert len(iterated) == 10 * 3
    weights = [model[place].weight.detach() for place in (0, 2, 4)]
    for found, first, second in zip(row["junctions"].values(), weights, weights[1:], strict=False):
        left, sizes, _ = torch.linalg.svd(first)
        right = torch.linalg.svd(second)[2][0]
        assert found["norm"] == pytest.approx(sizes[0].item(), rel=1e-6)
        assert found["next_norm"] == pytest.approx(torch.linalg.matrix_norm(second, 2).item(), rel=1e-6)
        assert found["alignment"] == pytest.approx(abs(left[:, 0] @ right).item(), rel=1e-4)


def test_a_saved_state_stays_as_it_was_saved() -> None:
    model = small()
    monitor = watch(model, torch.zeros(2, 4))
    monitor.record()
    state = monitor.state_dict()
    with torch.no_grad():
        model[0].weight.neg_()
    changed = monitor.record(full=True)
    assert changed["sign_changes"] > 0
    monitor.load_state_dict(state)
    again = monitor.record(full=True)
    for key in ("sign_changes", "sign_changes_from_start"):
        assert again[key] == changed[key]


def test_rows_go_to_metrics_and_to_tensorboard_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, place: str) -> None:
            self.place = place

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

    double = types.ModuleType("torch.utils.tensorboard")
    double.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", double)
    model = small()
    optimizer = sgd(model)
    watch(model, torch.zeros(2, 4), optimizer=optimizer, every=2, folder=tmp_path)
    train(model, 4, optimizer)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert ("dynamics/junctions/0 -> 2/drift_diagonal", rows[0]["junctions"]["0 -> 2"]["drift_diagonal"], 2) in written


def test_without_tensorboard_nothing_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert watch(small(), torch.zeros(2, 4), folder=tmp_path).board is None


def test_the_table_names_every_pair() -> None:
    text = str(watch(build("lenet", image_size=28, in_channels=1), torch.zeros(1, 1, 28, 28)))
    for name in ("conv1 -> conv2", "conv2 -> linear1", "conv-linear (5)", "diagonal", "pattern"):
        assert name in text


def test_functional_relu_is_seen_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    model = Net()
    optimizer = sgd(model)
    monitor = watch(model, torch.zeros(2, 4), optimizer=optimizer, every=1)
    train(model, 1, optimizer)
    assert "alike" in monitor.rows[-1]["junctions"]["a -> b"]


def test_inside_fit_the_law_of_plain_descent_explains_the_drift(blobs: Splits) -> None:
    """Records at every step, so that the second-order term is seen at each of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12, bias=False), nn.ReLU(), nn.Linear(12, 3, bias=False))
    monitor = watch(model, torch.zeros(2, 1, 8, 8))
    rows = fit(
        model, blobs, steps=12, record_every=1, batch_size=32, lr=0.2, momentum=0.0, weight_decay=1e-2,
        schedule=Cosine(2), observe=monitor,
    ).rows  # fmt: skip
    [junction] = monitor.rows[-1]["junctions"].values()
    assert junction["drift_diagonal"] > 1e-3
    assert rows[-1]["drift_unexplained"] < 1e-3 * junction["drift_diagonal"]
    assert {"margin", "alignment"} <= set(rows[-1])
    assert "alike" in junction
