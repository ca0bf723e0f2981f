"""What holds for every attack of the table: ball and range, seed, state left as found, samples already broken."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gracile.attacks import ATTACKS
from gracile.attacks.geometry import direction, project, random_in_ball, size
from tests.models.attacked import Noisy, convolutional

# Few steps of everything: laws hold from the first.
SHORT = {
    "steps": 4, "population": 6, "searches": 2, "search_steps": 6, "targets": 2, "restarts": 2,
}  # fmt: skip
BALLS = [(name, norm) for name, row in ATTACKS.items() for norm in row.norms]


def call(name: str, model, x, y, **more):
    attack = ATTACKS[name].attack
    known = inspect.signature(attack).parameters
    options = {key: value for key, value in {**SHORT, **more}.items() if key in known}
    return attack(model, x, y, **options)


def batch(n: int = 6, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 2, 6, 6, generator=random)
    # Pixels at the ends of the range are where clamping goes wrong.
    x[0], x[1] = 0.0, 1.0
    return x, torch.randint(5, (n,), generator=random)


def test_the_table_holds_every_attack():
    import gracile.attacks as room

    functions = {name for name in room.__all__ if inspect.isfunction(getattr(room, name))} - {
        "card", "evaluate", "preset", "proven", "save_examples", "smoothed",
    }  # fmt: skip
    assert set(ATTACKS) == functions
    assert len(functions) == 9


@pytest.mark.parametrize(("name", "norm"), BALLS)
@settings(max_examples=6, deadline=None)
@given(eps=st.sampled_from([0.0, 1e-4, 8 / 255, 0.3]), seed=st.integers(0, 99))
def test_points_stay_in_the_ball_and_in_the_range(name: str, norm: str, eps: float, seed: int):
    model, (x, y) = convolutional(seed), batch(seed=seed)
    found = call(name, model, x, y, eps=eps, norm=norm, seed=seed)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert not found.requires_grad
    assert bool(((found >= 0) & (found <= 1)).all())
    # A stored pixel is rounded by up to 6e-8, and in l1 that adds up over all of them.
    rounding = 6e-8 * x[0].numel() if norm == "l1" else 1e-6
    assert float(size(found - x, norm).max()) <= eps * (1 + 1e-5) + rounding


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_the_seed_decides_and_the_world_does_not(name: str):
    model, (x, y) = Noisy(convolutional()), batch()
    one = call(name, model, x, y, eps=0.1, seed=3)
    torch.manual_seed(99)
    assert torch.equal(one, call(name, model, x, y, eps=0.1, seed=3))


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_the_network_and_the_world_are_left_as_found(name: str):
    model, (x, y) = convolutional(), batch()
    model.train()
    model[1].eval()  # a module that its user froze
    model[0].weight.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes, needs = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    world = torch.random.get_rng_state()
    given_x, given_y = x.clone().requires_grad_(), y.clone()
    non_leaf = given_x * 1.0
    call(name, model, non_leaf, given_y, eps=0.1)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == needs
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model[0].weight.grad is None
    assert torch.equal(model[5].weight.grad, torch.ones_like(model[5].weight))
    assert torch.equal(torch.random.get_rng_state(), world)
    assert given_x.grad is None
    assert torch.equal(given_x.detach(), x)
    assert torch.equal(given_y, y)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_a_failure_half_way_leaves_the_network_as_found(name: str):
    class Explodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.calls = convolutional(), 0

        def forward(self, x):
            self.calls += 1
            if self.calls > (0 if name == "fgsm" else 2):
                raise KeyError("a bug in the network")
            return self.network(x)

    model, (x, _) = Explodes().train(), batch()
    with pytest.raises(KeyError):
        # Right answers, so that no attack is done before it begins.
        call(name, model, x, model.network.eval()(x).argmax(1), eps=0.1, steps=20)
    assert all(p.requires_grad for p in model.parameters())
    assert model.training


@pytest.mark.parametrize(
    "name", sorted(name for name, row in ATTACKS.items() if row.norms and name not in ("fgsm", "pgd"))
)
def test_samples_already_broken_come_back_as_they_were(name: str):
    model, (x, _) = convolutional().eval(), batch()
    wrong = (model(x).argmax(1) + 1) % 5
    assert torch.equal(call(name, model, x, wrong, eps=0.1, restarts=1, random_start=False), x)


@pytest.mark.parametrize("name", sorted(name for name, row in ATTACKS.items() if row.targeted))
def test_targeted_attacks_reach_the_class_wanted(name: str):
    model, (x, _) = convolutional(2).eval(), batch()
    wanted = (model(x).argmax(1) + 1) % 5
    found = call(name, model, x, wanted, eps=0.9, targeted=True, steps=60, population=60, lr=0.2, restarts=1)
    reached = float((model(found).argmax(1) == wanted).double().mean())
    assert reached >= (0.5 if name == "fgsm" else 0.8)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_a_single_channel_and_features_are_attacked_too(name: str):
    torch.manual_seed(0)
    x, y = torch.rand(4, 7), torch.tensor([0, 1, 0, 1])
    model = nn.Linear(7, 2)  # two classes: DLR has no third logit
    found = call(name, model, x, y, eps=0.3)
    assert found.shape == x.shape
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_empty_batch_comes_back_empty(name: str):
    x, y = batch()
    found = call(name, convolutional(), x[:0], y[:0], eps=0.1)
    assert found.shape == (0, 2, 6, 6)
    assert found.dtype == x.dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_half_precision_is_attacked_too(name: str, dtype: torch.dtype):
    model, (x, y) = convolutional().to(dtype), batch()
    found = call(name, model, x.to(dtype), y, eps=0.1)
    assert found.dtype == dtype
    assert bool(torch.isfinite(found).all())
    assert not torch.equal(found, x.to(dtype))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), eps=st.floats(0, 2), norm=st.sampled_from(["linf", "l2", "l1"]), far=st.floats(0, 10)
)
def test_projection_lands_in_ball_and_box_and_moves_nothing_that_is_there(seed: int, eps: float, norm: str, far: float):
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 8, generator=random, dtype=torch.float64)
    inside = project(x + far * torch.randn(3, 8, generator=random, dtype=torch.float64), x, eps, norm)
    assert float(size(inside - x, norm).max()) <= eps * (1 + 1e-12) + 1e-12
    assert bool(((inside >= 0) & (inside <= 1)).all())
    assert torch.allclose(project(inside, x, eps, norm), inside, atol=1e-12)


def test_a_random_start_is_uniform_in_the_ball():
    x = torch.full((4000, 3), 0.5, dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    for norm in ("linf", "l2", "l1"):
        radii = size(random_in_ball(x, 0.2, norm, random) - x, norm)
        assert float(radii.max()) <= 0.2
        # The ball of half the radius holds an eighth of the volume; four standard errors are 2.1 points.
        assert abs(float((radii <= 0.1).double().mean()) - 0.5**3) < 0.021


def test_tiny_gradients_keep_their_direction():
    gradient = torch.tensor([[3e-30, 4e-30], [0.0, 0.0]])
    assert torch.allclose(direction(gradient, "l2"), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert torch.equal(direction(gradient, "linf"), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
