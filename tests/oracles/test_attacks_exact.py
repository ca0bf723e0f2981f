"""Attacks against closed answers on affine classifiers, and against published implementations."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from torch import Tensor, nn

from gracile import attacks, data
from gracile.attacks.apgd import _start
from gracile.attacks.autoattack import PARTS
from gracile.attacks.fab import project_on_plane
from gracile.attacks.geometry import project
from gracile.attacks.losses import dlr, dlr_towards, margin
from gracile.core.seeding import generator
from gracile.models import build
from tests.models.attacked import affine, convolutional, distances
from tests.peers import peer

ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}


@pytest.fixture(scope="module")
def torchattacks():
    return peer("torchattacks")


def samples(network: nn.Linear, norm: str, limit: float):
    """Samples in the middle of the box whose nearest adversarial lies within it."""
    random = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(200, network.in_features, generator=random, dtype=torch.float64)
    y = network(x).argmax(dim=1)
    near = distances(network, x, y, norm)
    kept = near < limit
    assert int(kept.sum()) > 30
    return x[kept], y[kept], near[kept]


@pytest.mark.parametrize(("name", "norm"), [("fab", "linf"), ("fab", "l2"), ("fab", "l1"), ("cw", "l2")])
def test_minimal_attacks_find_the_nearest_adversarial(name: str, norm: str):
    network = affine()
    x, y, near = samples(network, norm, 0.25)
    more = {"steps": 20, "targets": 3} if name == "fab" else {}
    found = attacks.ATTACKS[name].attack(network, x, y, eps=None, norm=norm, **more)
    assert bool((network(found).argmax(dim=1) != y).all())
    ratio = (found - x).norm(ORDER[norm], dim=1) / near
    assert float(ratio.min()) >= 1 - 1e-9  # nearer than the nearest would be a wrong norm
    assert float(ratio.max()) <= (1.05 if name == "fab" else 1.25)


# The l2 form of C&W seeks the nearest point, and is tested for that above.
@pytest.mark.parametrize(
    ("attack", "norm"),
    [(attack, norm) for attack in (attacks.pgd, attacks.apgd, attacks.autoattack) for norm in ("linf", "l2")]
    + [(attacks.cw, "linf")],
)
def test_attacks_in_a_ball_succeed_exactly_where_the_margin_allows(attack, norm: str):
    network = affine(classes=2)  # with two classes the loss gradient points to the boundary everywhere
    x, y, near = samples(network, norm, 0.5)
    for eps in near.quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist():
        found = attack(
            network, x, y, eps=eps, norm=norm, steps=40, **({"search_steps": 5} if attack is attacks.autoattack else {})
        )
        broken = network(found).argmax(dim=1) != y
        sure = (near - eps).abs() > 1e-3 * eps  # at the very margin rounding decides
        assert torch.equal(broken[sure], (near < eps)[sure])


def most(network: nn.Sequential, x: Tensor, y: int, other: int, eps: float) -> float:
    """The exact largest lead of class `other` over `y` within the ball: an integer program with a binary a hidden unit."""
    (w, b), (v, c) = ((one.weight.detach().numpy(), one.bias.detach().numpy()) for one in (network[0], network[2]))
    hidden, n = w.shape
    low, high = np.maximum(x.numpy() - eps, 0), np.minimum(x.numpy() + eps, 1)
    least, largest = ((np.maximum(w, 0) @ one + np.minimum(w, 0) @ two + b) for one, two in ((low, high), (high, low)))
    least, largest = np.minimum(least, 0), np.maximum(largest, 0)
    lead, eye, none = v[other] - v[y], np.eye(hidden), np.zeros((hidden, hidden))
    # In (x, a, s): a >= w x + b; a <= largest s; a <= w x + b - least (1 - s).
    rows = np.concatenate(
        [np.hstack([w, -eye, none]), np.hstack([0 * w, eye, -np.diag(largest)]), np.hstack([-w, eye, -np.diag(least)])]
    )
    limits = np.concatenate([-b, np.zeros(hidden), b - least])
    found = milp(
        -np.concatenate([np.zeros(n), lead, np.zeros(hidden)]),
        constraints=LinearConstraint(rows, -np.inf, limits),
        bounds=Bounds(np.concatenate([low, np.zeros(2 * hidden)]), np.concatenate([high, largest, np.ones(hidden)])),
        integrality=np.repeat([0, 0, 1], [n, hidden, hidden]),
    )
    return -found.fun + float(c[other] - c[y])


def test_cw_in_a_ball_breaks_nearly_all_that_can_be_broken():
    # From a single start it found 20 of 27, and 26 of 36.
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        network[0].weight *= 4
    x = torch.rand(60, 6, dtype=torch.float64)[:40]
    y = network(x).argmax(dim=1)
    for eps in (0.2, 0.3):
        leads = [
            max(most(network, one, int(own), other, eps) for other in range(3) if other != own)
            for one, own in zip(x, y, strict=True)
        ]
        can = torch.tensor(leads) > 1e-6
        broken = network(attacks.cw(network, x, y, eps=eps)).argmax(dim=1) != y
        assert not bool((broken & ~can).any())
        assert 3 < int(can.sum()) < 40
        assert int(broken.sum()) >= 0.95 * int(can.sum())


@pytest.mark.parametrize("targeted", [False, True])
def test_cw_moves_saturated_pixels_as_fab_does(trained, targeted: bool):
    network, x, y = trained[0], trained[1][:20], trained[2][:20]
    y = (y + 1) % 10 if targeted else y
    assert float(((x == 0) | (x == 1)).double().mean()) > 0.4
    done = lambda at: (network(at).argmax(dim=1) == y) == targeted
    one, two = (attack(network, x, y, eps=None, norm="l2", targeted=targeted) for attack in (attacks.cw, attacks.fab))
    assert not bool((done(two) & ~done(one)).any())
    assert bool(done(one).all())
    ratio = ((one - x).flatten(1).norm(dim=1) / (two - x).flatten(1).norm(dim=1))[done(two) & ~done(x)]
    assert float(ratio.median()) <= 1.02
    assert float((ratio <= 1.1).double().mean()) >= 0.95


def nearest_in_the_box(network: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """The exact least l1 distance to the other of two classes within the box: the steepest coordinates go as far as they can."""
    weight = network.weight.detach()
    logits = network(x).detach()
    normal = weight[1 - y] - weight[y]
    missing = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).squeeze(1)
    room = torch.where(normal > 0, 1 - x, x)
    found = []
    for gap, row, left in zip(missing.tolist(), normal.abs(), room, strict=True):
        length = 0.0
        for i in row.argsort(descending=True).tolist():
            step = min(float(left[i]), gap / float(row[i]))
            length, gap = length + step, gap - step * float(row[i])
            if gap <= 1e-12:
                break
        found.append(length if gap <= 1e-12 else float("inf"))
    return torch.tensor(found, dtype=torch.float64)


def corners():
    """Samples near the edges of the box, where the nearest adversarial in l1 has to move several coordinates."""
    network = affine(classes=2)
    random = torch.Generator().manual_seed(2)
    x = torch.rand(120, 20, generator=random, dtype=torch.float64) ** 0.3
    y = network(x).argmax(dim=1)
    near = nearest_in_the_box(network, x, y)
    kept = torch.isfinite(near) & (near > 1.0)
    assert int(kept.sum()) > 30
    return network, x[kept], y[kept], near[kept]


def test_fab_in_l1_finds_the_nearest_adversarial_of_the_box():
    network, x, y, near = corners()
    found = attacks.fab(network, x, y, eps=None, norm="l1", steps=20)
    assert bool((network(found).argmax(dim=1) != y).all())
    ratio = (found - x).abs().sum(dim=1) / near
    assert float(ratio.min()) >= 1 - 1e-9
    assert float(ratio.max()) <= 1.05


@pytest.mark.parametrize(("attack", "share"), [(attacks.apgd, 0.97), (attacks.autoattack, 0.97), (attacks.square, 0.4)])
def test_attacks_in_l1_break_what_the_ball_and_the_box_allow_and_nothing_else(attack, share: float):
    network, x, y, near = corners()
    more = {"search_steps": 5} if attack is attacks.autoattack else {}
    eps = float(near.median())
    found = attack(network, x, y, eps=eps, norm="l1", steps=300 if attack is attacks.square else 100, **more)
    broken = network(found).argmax(dim=1) != y
    assert not bool(broken[near > eps * (1 + 1e-5)].any())
    assert bool(broken[near < share * eps].all())


def test_projection_in_l1_is_the_nearest_point_of_ball_and_box():
    random = torch.Generator().manual_seed(0)
    x = torch.rand(30, 12, generator=random, dtype=torch.float64)
    delta = 2 * torch.randn(30, 12, generator=random, dtype=torch.float64)
    for eps in (0.1, 1.0, 3.0, 50.0):
        found = project(x + delta, x, eps, "l1") - x
        room = torch.where(delta > 0, 1 - x, x)
        # The threshold by bisection, a hundred halvings.
        low, high = torch.zeros(30, 1, dtype=torch.float64), delta.abs().amax(dim=1, keepdim=True)
        cut = lambda lam, room=room: (delta.abs() - lam).clamp_min(0).minimum(room)
        for _ in range(100):
            middle = (low + high) / 2
            over = cut(middle).sum(dim=1, keepdim=True) > eps
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        inside = cut(torch.zeros_like(low)).sum(dim=1, keepdim=True) <= eps
        twin = torch.where(inside, cut(torch.zeros_like(low)), cut(high)) * delta.sign()
        assert torch.allclose(found, twin, atol=1e-6 * eps)


def test_apgd_in_l1_is_the_published_loop():
    """A plain transcription of algorithm 1 of Croce and Hein 2021, on a network that nothing breaks, so that none leaves."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(15, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, eps, steps = torch.rand(4, 15, dtype=torch.float64), 0.02, 60
    y = network(x).argmax(dim=1)
    loss = lambda at: nn.functional.cross_entropy(network(at), y, reduction="none")
    slope = lambda at: torch.autograd.grad(loss(at.requires_grad_()).sum(), at)[0]
    at = start = _start(x, eps, "l1", generator(0, "attack", "apgd"))
    for radius, taken in ((3 * eps, 18), (2 * eps, 18), (eps, 24)):
        at = project(at.detach(), x, radius, "l1")
        best, top, best_slope = at.clone(), loss(at).detach(), slope(at.clone())
        gradient, length = best_slope, torch.full((4,), radius, dtype=torch.float64)
        support = (at != x).sum(dim=1).double()
        share, every = support / 15 / 1.5, max(int(0.04 * taken), 1)
        for step in range(1, taken + 1):
            least = gradient.abs().sort(dim=1).values.gather(1, ((1 - share) * 15).long().clamp(0, 14)[:, None])
            sign = gradient.sign() * (gradient.abs() >= least)
            at = project(at.detach() + length[:, None] * sign / sign.abs().sum(dim=1, keepdim=True), x, radius, "l1")
            now, gradient = loss(at).detach(), slope(at.clone())
            up = now > top
            best[up], best_slope[up], top[up] = at[up].detach(), gradient[up], now[up]
            if step % every == 0:
                moved = (best != x).sum(dim=1).double()
                sparser = moved / support < 0.95
                share, support = moved / 15 / 1.5, moved
                length = torch.where(sparser, radius, (length / 1.5).clamp(radius / 10, radius))
                at = torch.where(sparser[:, None], best, at.detach())
                gradient = torch.where(sparser[:, None], best_slope, gradient)
        at = best
    found = attacks.apgd(network, x, y, eps=eps, norm="l1", steps=steps)
    assert torch.equal(network(found).argmax(dim=1), y)
    assert not torch.equal(start, at)
    assert torch.allclose(found, at, atol=1e-9)


def test_fgsm_on_two_classes_takes_the_closed_step():
    network = affine(classes=2)
    x, y, _ = samples(network, "linf", 0.5)
    weight = network.weight.detach()
    towards = (weight[1 - y] - weight[y]).sign()
    assert torch.allclose(attacks.fgsm(network, x, y, eps=0.1), (x + 0.1 * towards).clamp(0, 1), atol=1e-12)


def test_the_black_box_attacks_come_near_the_closed_answer():
    network = affine(classes=2, features=12)
    x, y, near = (one[:40] for one in samples(network, "linf", 0.3))
    for attack, more in (
        (attacks.square, {"steps": 500}),
        (attacks.nattack, {"steps": 40, "population": 50, "lr": 0.1}),
    ):
        queries = torch.zeros_like(y)
        eps = float(near.median())
        found = attack(network, x, y, eps=eps, queries=queries, **more)
        broken = network(found).argmax(dim=1) != y
        assert not bool(broken[near > eps * 1.001].any())
        # Random search needs room: where it is a third larger than the least, most samples fall.
        assert float(broken[near < eps / 4 * 3].double().mean()) >= 0.8
        assert int(queries.min()) >= 1
        assert float(queries[broken].double().mean()) < float(queries[~broken].double().mean())


def test_the_projection_on_a_plane_in_l1_is_the_linear_programs():
    random = torch.Generator().manual_seed(1)
    p = torch.rand(12, 9, generator=random, dtype=torch.float64)
    w = torch.randn(12, 9, generator=random, dtype=torch.float64)
    level = (w * torch.rand(12, 9, generator=random, dtype=torch.float64)).sum(dim=1)
    found = project_on_plane(p, w, level, "l1")
    assert torch.allclose((w * (p + found)).sum(dim=1), level, atol=1e-9)
    for point, normal, value, step in zip(p, w, level, found, strict=True):
        # d = up - down, both of them at least 0; least sum of both.
        room = [(0, 1 - float(c)) for c in point] + [(0, float(c)) for c in point]
        least = linprog(
            [1.0] * 18,
            A_eq=[[*normal.tolist(), *(-normal).tolist()]],
            b_eq=[float(value - normal @ point)],
            bounds=room,
        )
        assert float(step.abs().sum()) == pytest.approx(least.fun, abs=1e-9)


def test_the_projection_on_a_plane_is_the_linear_programs():
    random = torch.Generator().manual_seed(0)
    p = torch.rand(12, 9, generator=random, dtype=torch.float64)
    w = torch.randn(12, 9, generator=random, dtype=torch.float64)
    w[:, 0] = 0
    level = (w * torch.rand(12, 9, generator=random, dtype=torch.float64)).sum(dim=1)
    found = project_on_plane(p, w, level, "linf")
    assert torch.allclose((w * (p + found)).sum(dim=1), level, atol=1e-5)
    for point, normal, value, step in zip(p, w, level, found, strict=True):
        # min t with -t <= d <= t, w . (p + d) = level, 0 <= p + d <= 1, in the variables (d, t).
        eye, ones = torch.eye(9, dtype=torch.float64), torch.ones(9, 1, dtype=torch.float64)
        least = linprog(
            [0.0] * 9 + [1.0],
            A_ub=torch.cat([torch.cat([eye, -ones], 1), torch.cat([-eye, -ones], 1)]).numpy(),
            b_ub=[0.0] * 18,
            A_eq=[[*normal.tolist(), 0.0]],
            b_eq=[float(value - normal @ point)],
            bounds=[(-float(c), 1 - float(c)) for c in point] + [(0, None)],
        )
        assert float(step.abs().max()) == pytest.approx(least.fun, abs=1e-5)


def test_a_plane_out_of_reach_gives_the_nearest_corner():
    step = project_on_plane(torch.tensor([[0.25, 0.5]]), torch.tensor([[1.0, -2.0]]), torch.tensor([9.0]), "l2")
    assert torch.allclose(step, torch.tensor([[0.75, -0.5]]))


def test_the_losses_are_their_formulas():
    logits, y = torch.tensor([[4.0, 1.0, 2.0, 0.0], [1.0, 3.0, 2.5, 0.5]]), torch.tensor([0, 2])
    assert torch.allclose(margin(logits, y), torch.tensor([-2.0, 0.5]))
    assert torch.allclose(dlr(logits, y), torch.tensor([-2.0 / 3.0, 0.5 / 2.0]))
    assert torch.allclose(dlr_towards(logits, y, torch.tensor([1, 0])), torch.tensor([-3.0 / 3.5, -1.5 / 2.25]))


@pytest.mark.parametrize("name", ["small", "resnet20"])
@pytest.mark.parametrize("chunk", [None, 5])
def test_pgd_is_torchattacks_bit_for_bit(torchattacks, name: str, chunk: int | None):
    torch.manual_seed(0)
    network = (
        convolutional() if name == "small" else build("resnet20", num_classes=5, in_channels=2, image_size=12)
    ).eval()
    x, y = torch.rand(24, 2, *([6, 6] if name == "small" else [12, 12])), torch.randint(5, (24,))
    start = (x + torch.empty_like(x).uniform_(-0.03, 0.03)).clamp(0, 1)
    theirs = torchattacks.PGD(network, eps=8 / 255, alpha=2 / 255, steps=7, random_start=False)
    ours = attacks.pgd(network, x, y, steps=7, alpha=2 / 255, random_start=False, chunk=chunk, channels_last=False)
    assert torch.equal(ours, theirs(x, y))
    # The same from a start of one's own: what follows from it is the plain loop.
    twin = _plain_pgd(network, x, y, start, 8 / 255, 2 / 255, 7)
    assert torch.equal(attacks.pgd(network, x, y, steps=7, start=start, chunk=chunk, channels_last=False), twin)


def test_pgd_is_foolboxs_bit_for_bit():
    foolbox = peer("foolbox")
    network, x, y = convolutional().eval(), torch.rand(24, 2, 6, 6), torch.randint(5, (24,))
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=2 / 255, steps=7, random_start=False)
    _, found, _ = theirs(foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu"), x, y, epsilons=8 / 255)
    ours = attacks.pgd(network, x, y, steps=7, alpha=2 / 255, random_start=False, channels_last=False)
    assert torch.equal(ours, found)


def test_targeted_and_l2_pgd_agree_with_torchattacks(torchattacks):
    network, x, y = convolutional().eval(), torch.rand(16, 2, 6, 6), torch.randint(5, (16,))
    theirs = torchattacks.PGDL2(network, eps=0.5, alpha=0.1, steps=7, random_start=False)
    ours = attacks.pgd(network, x, y, eps=0.5, alpha=0.1, steps=7, norm="l2", random_start=False)
    assert float((ours - theirs(x, y)).abs().max()) < 1e-5
    wanted = (y + 1) % 5
    twin = _plain_pgd(network, x, wanted, x, 8 / 255, 2 / 255, 7, sign=-1.0)
    assert torch.equal(
        attacks.pgd(network, x, wanted, steps=7, targeted=True, random_start=False, channels_last=False), twin
    )


def _plain_pgd(network: nn.Module, x: Tensor, y: Tensor, at: Tensor, eps: float, alpha: float, steps: int, sign=1.0):
    for _ in range(steps):
        at = at.detach().requires_grad_()
        loss = sign * nn.functional.cross_entropy(network(at), y)
        (gradient,) = torch.autograd.grad(loss, at)
        at = x + (at.detach() + alpha * gradient.sign() - x).clamp(-eps, eps)
        at = at.clamp(0, 1)
    return at.detach()


@pytest.fixture(scope="module")
def trained():
    """A small network trained on digits, and the samples it did not see."""
    from gracile.training import fit

    splits = data.load("digits")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip
    fit(network, splits, epochs=5, lr=0.05, batch_size=64, augment=None)
    held = [splits.test, splits.validation]
    x, y = torch.cat([one.inputs for one in held]) / 255, torch.cat([one.labels for one in held])
    return network.eval(), x, y


@pytest.fixture(scope="module")
def hardened(trained):
    """The same network trained on attacked digits."""
    from gracile.training import adversary, fit

    splits = data.load("digits")
    network = copy.deepcopy(trained[0])
    objective = adversary("pgd", eps=0.15, steps=3)
    fit(network, splits, epochs=4, lr=0.05, batch_size=64, augment=None, objective=objective)
    return network.eval(), trained[1], trained[2]


def accuracy(network: nn.Module, at: Tensor, y: Tensor) -> float:
    return 100 * float((network(at).argmax(dim=1) == y).double().mean())


@pytest.mark.parametrize(("part", "count", "theirs"), [
    ("apgd-ce", 503, lambda lib, net: lib.APGD(net, eps=0.08, steps=20)),
    ("apgd-dlr", 503, lambda lib, net: lib.APGD(net, eps=0.08, steps=20, loss="dlr")),
    ("apgd-t", 200, lambda lib, net: lib.APGDT(net, eps=0.08, steps=20)),
    ("fab-t", 200, lambda lib, net: lib.FAB(net, eps=0.08, steps=20, multi_targeted=True)),
])  # fmt: skip
def test_the_parts_of_autoattack_agree_with_a_published_implementation(torchattacks, trained, part, count, theirs):
    network, x, y = trained[0], trained[1][:count], trained[2][:count]
    attack, options = PARTS[part]
    ours = accuracy(network, attack(network, x, y, eps=0.08, steps=20, **options), y)
    assert 20 < ours < 90
    assert ours == pytest.approx(accuracy(network, theirs(torchattacks, network)(x, y), y), abs=0.5)


@pytest.mark.parametrize("rescaled", [False, True])
def test_square_is_no_weaker_than_the_published_implementation(torchattacks, trained, rescaled: bool):
    network, x, y = trained[0], trained[1][:220], trained[2][:220]
    published = torchattacks.Square(network, eps=0.08, n_queries=500, resc_schedule=rescaled)
    theirs = accuracy(network, published(x, y), y)
    ours = accuracy(network, attacks.square(network, x, y, eps=0.08, steps=500, rescaled=rescaled), y)
    # Theirs never paints the last row and column: ours breaks more.
    assert ours <= theirs + 0.5


@pytest.mark.parametrize("kind", ["natural", "adversarial"])
def test_autoattack_whole_agrees_with_a_published_implementation(torchattacks, trained, hardened, kind: str):
    network, x, y = trained if kind == "natural" else hardened
    x, y, eps = x[:60], y[:60], 0.08 if kind == "natural" else 0.15
    more = {"eps": eps, "steps": 50}
    published = torchattacks.MultiAttack([
        torchattacks.APGD(network, **more), torchattacks.APGDT(network, n_classes=10, **more),
        torchattacks.FAB(network, multi_targeted=True, n_classes=10, **more),
        torchattacks.Square(network, eps=eps, n_queries=2000, resc_schedule=False),
    ])  # fmt: skip
    theirs = accuracy(network, published(x, y), y)
    ours = accuracy(network, attacks.autoattack(network, x, y, eps=eps, steps=50, search_steps=2000), y)
    assert 10 < ours < 90
    # Two samples of sixty: starts and searches are drawn.
    assert ours == pytest.approx(theirs, abs=3.4)


def test_the_ensemble_is_as_strong_as_each_of_its_parts(trained):
    network, x, y = trained
    x, y = x[:100], y[:100]
    stands = lambda at: network(at).argmax(dim=1) == y
    whole = stands(attacks.autoattack(network, x, y, eps=0.08, steps=10, search_steps=50))
    single = stands(attacks.apgd(network, x, y, eps=0.08, steps=10))
    assert not bool((whole & ~single).any())
