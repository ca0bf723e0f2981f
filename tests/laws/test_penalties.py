"""The laws of the penalties room: every row of its table obeys them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gracile.core.errors import InputError, NonFiniteError
from gracile.penalties import (
    L0,
    L1,
    MCP,
    NM,
    SCAD,
    TABLE,
    ElasticNet,
    Grid,
    GroupLasso,
    LHalf,
    SparseGroupLasso,
    TopK,
    TransformedL1,
    elementwise,
    grouped,
)
from gracile.penalties.base import row_norms
from gracile.penalties.table import CONSTRAINTS, ELEMENTWISE, GROUPED
from gracile.penalties.transformed_l1 import threshold

# T-l1, MCP and SCAD stand here more than once, so that all regimes of their thresholds and their limits are under every
# law.
ELEMENT_MEMBERS = {
    **{name: row() for name, row in ELEMENTWISE.items()},
    "transformed_l1(a=0.1)": TransformedL1(0.1),
    "transformed_l1(a=20)": TransformedL1(20.0),
    "mcp(gamma=0.1)": MCP(0.1),
    "mcp(gamma=20)": MCP(20.0),
    "scad(knot=0.1)": SCAD(knot=0.1),
    "scad(a=1.5)": SCAD(a=1.5),
    "elastic_net(l1_ratio=1)": ElasticNet(1.0),
}
GROUP_MEMBERS = {
    **{name: row() for name, row in GROUPED.items()},
    "sparse_group_lasso(l1_ratio=1)": SparseGroupLasso(1.0),
}
CONSTRAINT_MEMBERS = {
    **{name: row() for name, row in CONSTRAINTS.items() if row is not Grid},
    "top_k(k=3)": TopK(k=3),
    "n_m(1, 3)": NM(1, 3),
}
# Constraints on where weights lie, and not on how many there are.
GRIDS = {"grid": Grid(), "grid(levels=127)": Grid(127), "grid(levels=1)": Grid(1)}
PENALTIES = {**ELEMENT_MEMBERS, **GROUP_MEMBERS}
MEMBERS = {**PENALTIES, **CONSTRAINT_MEMBERS, **GRIDS}

each_element = pytest.mark.parametrize("penalty", ELEMENT_MEMBERS.values(), ids=ELEMENT_MEMBERS.keys())
each_group = pytest.mark.parametrize("penalty", GROUP_MEMBERS.values(), ids=GROUP_MEMBERS.keys())
each_constraint = pytest.mark.parametrize("penalty", CONSTRAINT_MEMBERS.values(), ids=CONSTRAINT_MEMBERS.keys())
each_grid = pytest.mark.parametrize("penalty", GRIDS.values(), ids=GRIDS.keys())
each_penalty = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES.keys())
each = pytest.mark.parametrize("penalty", MEMBERS.values(), ids=MEMBERS.keys())
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])

mus = st.floats(1e-4, 3.0)
weights = st.floats(-4.0, 4.0, allow_subnormal=False)


def test_every_row_of_the_table_is_a_member():
    assert {penalty.name for penalty in MEMBERS.values()} == set(TABLE)
    assert len(TABLE) >= 12


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
    cost = (grid - target).square().sum(1) / 2 + mu * torch.vmap(penalty.value)(grid[:, None])
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
def test_group_prox_commutes_with_what_keeps_the_norms_and_with_permutation_of_groups(penalty, seed: int, mu: float):
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(5, 3, dtype=torch.float64, generator=random)
    # An l1 norm inside P is kept by signed permutations alone, an l2 norm by all rotations.
    signed = torch.eye(3, dtype=torch.float64)[torch.randperm(3, generator=random)] * torch.tensor([1.0, -1.0, 1.0])
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=random))
    kept = signed.double() if penalty.entrywise else rotation
    order = torch.randperm(5, generator=random)
    torch.testing.assert_close(penalty.prox(w @ kept, mu), penalty.prox(w, mu) @ kept, rtol=0, atol=1e-12)
    torch.testing.assert_close(penalty.prox(w[order], mu), penalty.prox(w, mu)[order], rtol=0, atol=0)


@each_group
@given(seed=st.integers(0, 999), mu=mus)
@settings(max_examples=40, deadline=None)
def test_a_group_penalty_is_its_l1_part_and_its_norms(penalty, seed: int, mu: float):
    w = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    parts = penalty.entrywise * w.abs().sum() + penalty.norm_values(row_norms(w)).sum()
    torch.testing.assert_close(penalty.value(w), parts)
    left = w - w.clamp(-mu * penalty.entrywise, mu * penalty.entrywise)
    torch.testing.assert_close(penalty.prox(w, mu), left * penalty.scale(row_norms(left), mu)[:, None])
    assert (penalty.prox(w, float(penalty.critical_mu(row_norms(w)).max()) * (1 + 1e-12)) == 0).all()


@each_penalty
@given(seed=st.integers(0, 999), mu=mus)
@settings(max_examples=40, deadline=None)
def test_convex_members_are_firmly_non_expansive(penalty, seed: int, mu: float):
    random = torch.Generator().manual_seed(seed)
    a, b = (2 * torch.randn(4, 3, dtype=torch.float64, generator=random) for _ in range(2))
    pa, pb = penalty.prox(a, mu), penalty.prox(b, mu)
    firm = (pa - pb).square().sum() <= ((pa - pb) * (a - b)).sum() + 1e-12
    assert firm or not penalty.convex


@pytest.mark.parametrize("name", [name for name, penalty in PENALTIES.items() if not penalty.convex])
def test_a_member_that_is_not_convex_says_so_rightly(name: str):
    # A jump, or a slope above 1, somewhere from the threshold on: two neighbours that the map drives apart.
    penalty = PENALTIES[name]
    mu = float(penalty.critical_mu(torch.tensor(1.0, dtype=torch.float64))) * 1.0000001
    w = torch.linspace(1.0, 2 + 40 * mu, 20001, dtype=torch.float64)[:, None]
    steps, moved = w.diff(dim=0), penalty.prox(w, mu).diff(dim=0)
    assert (moved.square() > moved * steps * (1 + 1e-6)).any()


@each_penalty
@precisions
@given(size=st.floats(1e-3, 50.0))
@settings(max_examples=40, deadline=None)
def test_critical_mu_is_where_a_weight_dies(penalty, dtype, size: float):
    w = torch.tensor([[size]], dtype=dtype)
    critical = float(penalty.critical_mu(w[0, 0].double()))
    slack = 1e-5
    assert penalty.prox(w, critical * (1 + slack)).item() == 0
    assert penalty.prox(w, critical * (1 - slack)).item() != 0


@each_penalty
@precisions
def test_prox_at_the_exact_threshold_is_zero_or_the_tie(penalty, dtype):
    # Sizes that are exact in binary for the member's threshold formula, so that the tie is met exactly and must go to zero.
    w = torch.tensor([[1.5 if isinstance(penalty, LHalf) else 0.5]], dtype=dtype)
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
    # Where P grows like w^2 a large weight is shrunk by a factor.
    factor = 1 + 0.5 * (1 - penalty.l1_ratio) if isinstance(penalty, ElasticNet) else 1.0
    torch.testing.assert_close(penalty.prox(w, 0.5) * factor, w, rtol=1e-6, atol=0)


@each
@precisions
def test_nan_surfaces_as_an_error_and_not_as_zero(penalty, dtype):
    w = torch.tensor([[1.0, math.nan]], dtype=dtype)
    with pytest.raises(NonFiniteError, match="NaN"):
        penalty.prox(w, 0.5)


@pytest.mark.parametrize("penalty", [*ELEMENT_MEMBERS.values(), *CONSTRAINT_MEMBERS.values(), *GRIDS.values()])
def test_the_unchecked_proximal_map_lets_nan_through(penalty):
    w = torch.tensor([[math.nan, 1.0, 0.5, 0.3, 2.0]])
    assert penalty.unchecked_prox(w, 0.5)[0, 0].isnan()


@each_group
def test_the_unchecked_scale_lets_nan_through(penalty):
    assert penalty.scale(torch.tensor([math.nan]), 0.5).isnan().all()


@each
@pytest.mark.parametrize("mu", [-0.1, math.nan])
def test_a_negative_mu_is_refused(penalty, mu: float):
    with pytest.raises(InputError, match="mu >= 0"):
        penalty.prox(torch.ones(1, 1), mu)


@pytest.mark.parametrize("penalty", [*GROUP_MEMBERS.values(), *CONSTRAINT_MEMBERS.values(), *GRIDS.values()])
def test_members_that_act_on_rows_want_a_matrix(penalty):
    with pytest.raises(InputError, match=r"\((groups|vectors), members\)"):
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


# Constraints: the laws of a projection.


@each_constraint
@given(w=st.lists(st.integers(-3, 3).map(float), min_size=6, max_size=6), mu=mus)
@settings(max_examples=60, deadline=None)
def test_a_constraint_projects_onto_the_nearest_of_all_supports(penalty, w: list[float], mu: float):
    # Whole numbers, so that ties are common; the nearest point is sought among all 64 supports.
    vector = torch.tensor([w], dtype=torch.float64)
    supports = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6)
    points = supports * vector
    costs = [((p - vector).square().sum() + penalty.value(p[None])).item() for p in points]
    found = penalty.prox(vector, mu)
    assert penalty.value(found).item() == 0
    assert (found - vector).square().sum().item() == min(costs)


@each_constraint
@precisions
@given(seed=st.integers(0, 999), mu=mus)
@settings(max_examples=30, deadline=None)
def test_a_projection_is_idempotent_blind_to_mu_and_keeps_what_it_keeps(penalty, dtype, seed: int, mu: float):
    w = torch.randn(3, 12, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    found = penalty.prox(w, mu)
    assert torch.equal(penalty.prox(found, mu), found)
    assert torch.equal(penalty.prox(w, 7.0), found)
    assert torch.equal(penalty.prox(-w, mu), -found)
    assert torch.equal(found[found != 0], w[found != 0])
    assert penalty.value(w).isinf()


@each_constraint
def test_equals_are_kept_in_order_and_never_more_than_allowed(penalty):
    w = torch.ones(2, 12)
    kept = penalty.prox(w, 0.5).count_nonzero(1)
    number = int(kept[0])
    assert torch.equal(penalty.prox(w, 0.5)[:, :number], w[:, :number])
    assert kept.tolist() == [number] * 2
    assert penalty.value(penalty.prox(w, 0.5)) == 0


@each_grid
@precisions
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_a_grid_takes_the_nearest_of_its_points_and_leaves_them_be(penalty, dtype, seed: int, scale: float):
    w = scale * torch.randn(3, 12, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    found, most = penalty.prox(w, 0.3), w.abs().amax(1, keepdim=True)
    points = torch.arange(-penalty.levels, penalty.levels + 1, dtype=dtype) / penalty.levels
    nearest = (w[..., None] - most[..., None] * points).abs().amin(-1)
    torch.testing.assert_close((w - found).abs(), nearest, rtol=0, atol=4 * torch.finfo(dtype).eps * float(most.max()))
    # To the last bit, so that u stays where it is once w is there.
    assert torch.equal(penalty.prox(found, 7.0), found)
    assert torch.equal(penalty.prox(-w, 0.3), -found)
    assert torch.equal(found.abs().amax(1, keepdim=True), most)
    assert penalty.value(found) == 0
    assert penalty.value(w).isinf()


def test_half_way_between_two_points_goes_to_the_one_nearer_to_zero():
    w = torch.tensor([[1.0, 0.5, -0.5, 0.25, 0.75]])
    assert Grid(1).prox(w, 1.0).tolist() == [[1.0, 0.0, 0.0, 0.0, 1.0]]


# Closed forms and limits of single members.


@given(w=weights, mu=mus)
@settings(max_examples=100, deadline=None)
def test_mcp_and_scad_tend_to_l1_and_far_below_hard_threshold(w: float, mu: float):
    vector = torch.tensor([w], dtype=torch.float64)
    for penalty in (MCP(1e9), SCAD(knot=1e9)):
        torch.testing.assert_close(penalty.prox(vector, mu), L1().prox(vector, mu), rtol=0, atol=1e-7)
    # P is then its flat value wherever w is not 0, so that what is left is l0.
    for penalty, flat in ((MCP(1e-9), 0.5e-9), (SCAD(3.0, 1e-9), 2e-9)):
        # At l0's threshold itself both values are minimisers.
        if abs(w * w / 2 - mu) > 1e-9 * mu:
            assert torch.equal(penalty.prox(vector, mu / flat), L0().prox(vector, mu))


@pytest.mark.parametrize(("penalty", "edges"), [(MCP(0.8), [0.8]), (SCAD(3.0, 0.4), [0.8, 1.6])])
@pytest.mark.parametrize("offset", [-1e-9, 0.0, 1e-9])
@precisions
def test_every_regime_of_mcp_and_scad_meets_the_next(penalty, edges: list[float], offset: float, dtype):
    # At the boundary of weak convexity, and where SCAD's jump starts from 0, slopes are all but upright.
    for edge in edges:
        mu = edge + offset
        for size in torch.linspace(0.01, 4.0, 57, dtype=dtype).tolist():
            found = penalty.prox(torch.tensor([size], dtype=dtype), mu).double()
            grid = torch.linspace(0, size + 0.1, 4001, dtype=torch.float64)
            best = objective(penalty, grid, size, mu).min().item()
            assert objective(penalty, found, size, mu).item() <= best + 8 * torch.finfo(dtype).eps * max(1.0, size**2)


@pytest.mark.parametrize("mu", [0.3, 1.0, 1.7, 1.9, 2.5])
def test_scad_is_the_published_rule_where_the_knot_is_mu(mu: float):
    # Fan and Li 2001, eq. 2.8, with its lam as knot: mu P is then the published penalty over lam.
    w = torch.linspace(-9, 9, 181, dtype=torch.float64)
    a, lam, size = 3.7, mu, w.abs()
    middle = ((a - 1) * w - torch.sign(w) * a * lam) / (a - 2)
    published = torch.where(size <= 2 * lam, L1().prox(w, lam), torch.where(size <= a * lam, middle, w))
    torch.testing.assert_close(SCAD(a, knot=mu).prox(w, mu), published, rtol=0, atol=1e-12)


@given(w=st.floats(-6.0, 6.0), mu=mus)
@settings(max_examples=100, deadline=None)
def test_l_half_equals_the_published_root(w: float, mu: float):
    found = LHalf().prox(torch.tensor([w], dtype=torch.float64), mu).item()
    lam, size = 2 * mu, abs(w)
    if size <= 54 ** (1 / 3) / 4 * lam ** (2 / 3) * (1 + 1e-12):
        assert found == 0 or size > 1.5 * mu ** (2 / 3)
        return
    phi = math.acos(lam / 8 * (size / 3) ** -1.5)
    assert found == pytest.approx(2 / 3 * w * (1 + math.cos(2 * math.pi / 3 - 2 * phi / 3)), rel=1e-12)
    assert found == pytest.approx(math.copysign(size - mu / (2 * math.sqrt(abs(found))), w), rel=1e-12)


def test_sparse_group_lasso_lies_between_its_parts():
    w = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(SparseGroupLasso(1.0).prox(w, 0.6), L1().prox(w, 0.6))
    torch.testing.assert_close(SparseGroupLasso(1e-12).prox(w, 0.6), GroupLasso().prox(w, 0.6))
    found = SparseGroupLasso(0.5).prox(w, 1.0)
    alive = found[found.any(1)]
    assert 0 < len(alive) <= 4
    assert (alive == 0).any()


@pytest.mark.parametrize(("build", "message"), [
    (lambda: MCP(0.0), "gamma > 0"),
    (lambda: MCP(math.inf), "finite gamma"),
    (lambda: SCAD(a=1.0), "a > 1"),
    (lambda: SCAD(knot=-1.0), "knot > 0"),
    (lambda: ElasticNet(0.0), r"l1_ratio in \(0, 1\]"),
    (lambda: SparseGroupLasso(1.5), r"l1_ratio in \(0, 1\]"),
    (lambda: TopK(keep=0.0), r"keep in \(0, 1\]"),
    (lambda: TopK(k=0), "k=0"),
    (lambda: TopK(keep=0.5, k=2), "not both"),
    (lambda: NM(5, 4), "5:4 sparsity cannot be"),
    (lambda: Grid(0), "levels=0 has no points"),
    (lambda: elementwise({"name": "mcp", "gama": 0.1}), "no setting 'gama'.*Did you mean 'gamma'"),
    (lambda: elementwise({"name": "l0", "a": 0.1}), "no setting 'a'. It has none"),
    (lambda: elementwise({"gamma": 0.1}), "do not say which penalty"),
    (lambda: elementwise("sparse_group_lasso"), "acts on groups.*RGSM"),
    (lambda: elementwise(GroupLasso()), "acts on groups.*RGSM"),
    (lambda: grouped("top_k"), "acts on single weights.*RVSM"),
    (lambda: grouped(NM()), "acts on single weights.*RVSM"),
])  # fmt: skip
def test_settings_that_make_no_penalty_are_refused(build, message: str):
    with pytest.raises(InputError, match=message):
        build()


def test_a_row_with_settings_is_built():
    assert elementwise({"name": "mcp", "gamma": 0.1}).gamma == 0.1
    assert grouped({"name": "sparse_group_lasso", "l1_ratio": 0.2}).entrywise == 0.2


@pytest.mark.parametrize("penalty", MEMBERS.values(), ids=MEMBERS.keys())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("mu", [1e-30, 1e-3, 1e5, 1e30, 1e39, 1e300])
def test_no_mu_is_too_large_or_too_small_for_a_precision(penalty, dtype, mu: float):
    w = torch.tensor([[3.0, -0.5, 0.0, 60000.0]], dtype=dtype)
    u = penalty.prox(w, mu)
    assert u.dtype == dtype
    torch.testing.assert_close(u.double(), penalty.prox(w.double(), mu), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("penalty", MEMBERS.values(), ids=MEMBERS.keys())
@pytest.mark.parametrize("shape", [(3, 0), (0, 3)])
def test_nothing_is_left_of_nothing(penalty, shape: tuple[int, int]):
    assert penalty.prox(torch.zeros(shape), 1.0).shape == shape
    assert float(penalty.value(torch.zeros(shape))) == 0


class OnlyValue:
    def value(self, w):
        return w.sum()


class Groups(OnlyValue):
    def prox(self, w, mu):
        return w

    def scale(self, norms, mu):
        return norms


@pytest.mark.parametrize(("build", "message"), [
    (lambda: elementwise(OnlyValue()), "OnlyValue has no prox"),
    (lambda: grouped(OnlyValue()), "OnlyValue has no prox and no scale and no norm_values and no entrywise"),
    (lambda: grouped(Groups()), "Groups has no norm_values and no entrywise"),
    (lambda: elementwise(Groups()), "acts on groups.*RGSM"),
])  # fmt: skip
def test_what_a_penalty_of_ones_own_lacks_is_said_by_name(build, message: str):
    with pytest.raises(InputError, match=message):
        build()
