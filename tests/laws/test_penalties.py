"""The laws of the penalties room: every row of its table obeys them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gracile.core.errors import InputError, NonFiniteError
from gracile.penalties import L0, L1, TABLE, TransformedL1
from gracile.penalties.table import ELEMENTWISE, GROUPED
from gracile.penalties.transformed_l1 import threshold

# T-l1 stands here three times, so that both branches of its threshold and both of its limits are under every law.
ELEMENT_MEMBERS = {
    **{name: row() for name, row in ELEMENTWISE.items()},
    "transformed_l1(a=0.1)": TransformedL1(0.1),
    "transformed_l1(a=20)": TransformedL1(20.0),
}
GROUP_MEMBERS = {name: row() for name, row in GROUPED.items()}
MEMBERS = {**ELEMENT_MEMBERS, **GROUP_MEMBERS}

each_element = pytest.mark.parametrize("penalty", ELEMENT_MEMBERS.values(), ids=ELEMENT_MEMBERS.keys())
each_group = pytest.mark.parametrize("penalty", GROUP_MEMBERS.values(), ids=GROUP_MEMBERS.keys())
each = pytest.mark.parametrize("penalty", MEMBERS.values(), ids=MEMBERS.keys())
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])

mus = st.floats(1e-4, 3.0)
weights = st.floats(-4.0, 4.0, allow_subnormal=False)


def test_every_row_of_the_table_is_a_member():
    assert {penalty.name for penalty in MEMBERS.values()} == set(TABLE)
    assert len(TABLE) >= 5


def objective(penalty, u: Tensor, w: float, mu: float) -> Tensor:
    """``1/2 (u - w)^2 + mu P(u)`` at each entry of `u`."""
    return (u - w).square() / 2 + mu * torch.vmap(penalty.value)(u[:, None])


@each_element
@given(w=weights, mu=mus)
@settings(max_examples=60, deadline=None)
def test_prox_attains_the_least_objective_on_a_dense_grid(penalty, w: float, mu: float):
    grid = torch.linspace(-abs(w) - 0.1, abs(w) + 0.1, 801, dtype=torch.float64)
    grid = torch.cat([grid, torch.tensor([0.0, w], dtype=torch.float64)])
    found = penalty.prox(torch.tensor([w], dtype=torch.float64), mu)
    assert objective(penalty, found, w, mu)[0] <= objective(penalty, grid, w, mu).min() + 1e-12


@each_group
@given(w=st.lists(st.floats(-3.0, 3.0), min_size=2, max_size=2), mu=mus)
@settings(max_examples=40, deadline=None)
def test_group_prox_attains_the_least_objective_on_a_plane(penalty, w: list[float], mu: float):
    target = torch.tensor([w], dtype=torch.float64)
    axis = torch.linspace(-3.2, 3.2, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    grid = torch.cat([grid, torch.zeros(1, 2, dtype=torch.float64), target])
    cost = (grid - target).square().sum(1) / 2 + mu * penalty.norm_values(grid.norm(dim=1))
    found = penalty.prox(target, mu)
    assert (found - target).square().sum() / 2 + mu * penalty.value(found) <= cost.min() + 1e-12


@each_element
@precisions
@given(w=weights, mu=mus)
@settings(max_examples=60, deadline=None)
def test_prox_in_lower_precision_attains_the_same_objective(penalty, dtype, w: float, mu: float):
    exact = torch.tensor([w], dtype=dtype).double()
    found = penalty.prox(exact.to(dtype), mu)
    assert found.dtype == dtype
    reference = penalty.prox(exact, mu)
    gap = objective(penalty, found.double(), exact.item(), mu) - objective(penalty, reference, exact.item(), mu)
    assert abs(gap.item()) <= 8 * torch.finfo(dtype).eps * max(1.0, w * w, mu)


@each_element
@given(w=st.lists(weights, min_size=1, max_size=8), mu=mus, seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_prox_commutes_with_sign_and_permutation(penalty, w: list[float], mu: float, seed: int):
    vector = torch.tensor(w, dtype=torch.float64)
    order = torch.randperm(len(w), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(penalty.prox(-vector, mu), -penalty.prox(vector, mu), rtol=0, atol=0)
    torch.testing.assert_close(penalty.prox(vector[order], mu), penalty.prox(vector, mu)[order], rtol=0, atol=0)


@each_group
@given(seed=st.integers(0, 999), mu=mus)
@settings(max_examples=40, deadline=None)
def test_group_prox_commutes_with_rotations_of_a_group_and_permutation_of_groups(penalty, seed: int, mu: float):
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(5, 3, dtype=torch.float64, generator=random)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=random))
    order = torch.randperm(5, generator=random)
    torch.testing.assert_close(penalty.prox(w @ rotation, mu), penalty.prox(w, mu) @ rotation, rtol=0, atol=1e-12)
    torch.testing.assert_close(penalty.prox(w[order], mu), penalty.prox(w, mu)[order], rtol=0, atol=0)


@each
@given(seed=st.integers(0, 999), mu=mus)
@settings(max_examples=40, deadline=None)
def test_convex_members_are_firmly_non_expansive(penalty, seed: int, mu: float):
    random = torch.Generator().manual_seed(seed)
    a, b = (2 * torch.randn(4, 3, dtype=torch.float64, generator=random) for _ in range(2))
    pa, pb = penalty.prox(a, mu), penalty.prox(b, mu)
    firm = (pa - pb).square().sum() <= ((pa - pb) * (a - b)).sum() + 1e-12
    assert firm or not penalty.convex


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if not row.convex])
def test_a_member_that_is_not_convex_says_so_rightly(name: str):
    # A jump, or a slope above 1, near the threshold: two points that the map drives apart.
    penalty = MEMBERS[name]
    a = torch.tensor([[1.0]], dtype=torch.float64)
    mu = float(penalty.critical_mu(a[0, 0])) * 1.0000001
    b = a * 1.001
    pa, pb = penalty.prox(a, mu), penalty.prox(b, mu)
    assert ((pa - pb) * (pa - pb)).sum() > ((pa - pb) * (a - b)).sum()


@each
@precisions
@given(size=st.floats(1e-3, 50.0))
@settings(max_examples=40, deadline=None)
def test_critical_mu_is_where_a_weight_dies(penalty, dtype, size: float):
    w = torch.tensor([[size]], dtype=dtype)
    critical = float(penalty.critical_mu(w[0, 0].double()))
    slack = 1e-5
    assert penalty.prox(w, critical * (1 + slack)).item() == 0
    assert penalty.prox(w, critical * (1 - slack)).item() != 0


@each
@precisions
def test_prox_at_the_exact_threshold_is_zero_or_the_tie(penalty, dtype):
    # 1/2 is exact in binary for every member's threshold formula, so the tie is met exactly and must go to zero.
    w = torch.tensor([[0.5]], dtype=dtype)
    mu = float(penalty.critical_mu(w[0, 0].double()))
    assert penalty.prox(w, mu).item() == 0


@each
def test_prox_without_weight_is_the_identity(penalty):
    w = torch.tensor([[0.0, 1e-3, -2.0]])
    torch.testing.assert_close(penalty.prox(w, 0.0), w, rtol=1e-6, atol=0)


@each
@precisions
def test_zero_stays_zero(penalty, dtype):
    assert torch.equal(penalty.prox(torch.zeros(2, 3, dtype=dtype), 0.7), torch.zeros(2, 3, dtype=dtype))


@each
@precisions
def test_very_large_and_infinite_weights_survive(penalty, dtype):
    large = torch.finfo(dtype).max / 4
    w = torch.tensor([[large], [-large], [math.inf], [-math.inf]], dtype=dtype)
    torch.testing.assert_close(penalty.prox(w, 0.5), w, rtol=1e-6, atol=0)


@each
@precisions
def test_nan_surfaces_as_an_error_and_not_as_zero(penalty, dtype):
    w = torch.tensor([[1.0, math.nan]], dtype=dtype)
    with pytest.raises(NonFiniteError, match="NaN"):
        penalty.prox(w, 0.5)


@each_element
def test_the_unchecked_shadow_lets_nan_through(penalty):
    assert penalty.shadow(torch.tensor([math.nan]), 0.5).isnan().all()


@each_group
def test_the_unchecked_scale_lets_nan_through(penalty):
    assert penalty.scale(torch.tensor([math.nan]), 0.5).isnan().all()


@each
@pytest.mark.parametrize("mu", [-0.1, math.nan])
def test_a_negative_mu_is_refused(penalty, mu: float):
    with pytest.raises(InputError, match="mu >= 0"):
        penalty.prox(torch.ones(1, 1), mu)


@each_group
def test_group_members_want_a_matrix(penalty):
    with pytest.raises(InputError, match=r"\(groups, members\)"):
        penalty.prox(torch.ones(3), 0.1)


@given(w=weights, mu=st.floats(1e-3, 1.0))
@settings(max_examples=100, deadline=None)
def test_transformed_l1_tends_to_l0(w: float, mu: float):
    vector = torch.tensor([w], dtype=torch.float64)
    if abs(abs(w) - math.sqrt(2 * mu)) < 1e-3:
        return  # At the jump itself the limit is not uniform.
    torch.testing.assert_close(TransformedL1(1e-9).prox(vector, mu), L0().prox(vector, mu), rtol=0, atol=1e-5)


@given(w=weights, mu=st.floats(1e-3, 1.0))
@settings(max_examples=100, deadline=None)
def test_transformed_l1_tends_to_l1_also_in_float32(w: float, mu: float):
    # The published form of the root loses all digits here: it subtracts 2a/3 from something as large.
    vector = torch.tensor([w], dtype=torch.float32)
    torch.testing.assert_close(TransformedL1(1e6).prox(vector, mu), L1().prox(vector, mu), rtol=0, atol=1e-4)


@given(w=st.floats(-4.0, 4.0), mu=mus, a=st.floats(0.05, 20.0))
@settings(max_examples=100, deadline=None)
def test_transformed_l1_equals_the_published_root(w: float, mu: float, a: float):
    found = TransformedL1(a).prox(torch.tensor([w], dtype=torch.float64), mu).item()
    limit = threshold(mu, a)
    if abs(w) <= limit:
        assert found == 0
        return
    cosine = 1 - 27 * mu * a * (a + 1) / (2 * (a + abs(w)) ** 3)
    phi = math.acos(max(-1.0, min(1.0, cosine)))
    root = 2 / 3 * (a + abs(w)) * math.cos(phi / 3) - 2 * a / 3 + abs(w) / 3
    assert found == pytest.approx(math.copysign(root, w), abs=2e-7)


@pytest.mark.parametrize(("mu", "a"), [(0.1, 1.0), (0.25, 1.0), (0.2500001, 1.0), (2.0, 1.0), (0.01, 0.1), (3.0, 20.0)])
def test_both_branches_of_the_transformed_l1_threshold_separate_zero_from_the_root(mu: float, a: float):
    limit = threshold(mu, a)
    penalty = TransformedL1(a)
    for factor, dies in ((1 - 1e-6, True), (1 + 1e-6, False)):
        w = limit * factor
        found = penalty.prox(torch.tensor([w], dtype=torch.float64), mu).item()
        assert (found == 0) is dies
        grid = torch.linspace(0, w, 20001, dtype=torch.float64)
        best = objective(penalty, grid, w, mu).min().item()
        assert objective(penalty, torch.tensor([found], dtype=torch.float64), w, mu).item() <= best + 1e-12


@pytest.mark.parametrize("a", [0.0, -1.0, math.nan, math.inf])
def test_transformed_l1_wants_a_positive_shape(a: float):
    with pytest.raises(InputError, match="a > 0"):
        TransformedL1(a)
