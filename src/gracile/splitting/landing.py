"""The last setting of a dial: at the budget, and never above, where whole groups or equal weights would miss it."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gracile.core.shards import full, local, local_part
from gracile.splitting.budgets import Budgets, landed, nearest_use, within
from gracile.splitting.measured import lives
from gracile.splitting.rgsm import RGSM
from gracile.splitting.rvsm import RVSM

log = logging.getLogger("gracile")
# Between a measurement and this share of it below a run ends at a budget that is measured, aimed at by a margin, in so many tries.
MEASURED_LANDING = 0.05
MARGIN = 0.01
TRIES = 8
# Choices looked at in which groups of a layer come back for others that go, and how many at most.
EXCHANGES, EXCHANGED = 2000, 4


def chosen_groups(split: RGSM, budgets: Budgets, low: float, high: float) -> Tensor | None:
    """Which groups go, ``(groups,)`` of bool; None if those that die at `high` serve best.

    First those that die at `low` and, from the weakest on, others, of which one that would take the run far below the budget is passed
    over. Where that does not land, the strongest that went come back as far as the budgets allow, and then a few of a layer come back
    for a few of another; not where a penalty zeroes entries too, since those are gone at `low`.

    Args:
        split: whose groups they are.
        budgets: to land at.
        low: a mu that keeps more than they allow.
        high: the next, that keeps no more.
    """
    least = budgets.left_at(high)
    if landed(least, budgets.kept):
        return None
    entries = bool(split.penalty.entrywise)
    dead, able, mu = split.dead_at(low), split.split_groups(), low if entries else 0.0
    order = split.critical_mus().argsort(stable=True).tolist()
    best = None
    for group in order:
        if dead[group] or not able[group] or split.is_last(group, dead):
            continue
        dead[group] = True
        left = budgets.left(dead, mu)
        if landed(left, budgets.kept):
            return dead
        if within(left, budgets.kept):
            # Too dear; remembered in case that nothing lands.
            if nearest_use(left, budgets.kept) > nearest_use(least, budgets.kept):
                best, least = dead.clone(), left
            dead[group] = False
    return best if entries else _exchanged(split, budgets, best, high, order)


def _exchanged(split: RGSM, budgets: Budgets, best: Tensor | None, high: float, order: list[int]) -> Tensor | None:
    """As `chosen_groups`, from the best choice so far on, with groups in this order, the weakest first."""
    dead, able = split.dead_at(high) if best is None else best, split.split_groups()
    # What was zero before nothing brings back.
    gone, came_back = split.dead_at(0.0), False
    back = [group for group in reversed(order) if dead[group] and not gone[group]]
    for group in back:
        dead[group] = False
        left = budgets.left(dead)
        if landed(left, budgets.kept):
            return dead
        dead[group] = not within(left, budgets.kept)
        came_back |= not dead[group]
    returning = _by_layer(split, [group for group in back if dead[group]])
    going = _by_layer(split, [group for group in order if able[group] and not dead[group]])
    for those, others in itertools.islice(_exchanges(returning, going), EXCHANGES):
        trial = dead.clone()
        trial[those] = False
        for other in others:
            trial[other] = not split.is_last(other, trial)
        if landed(budgets.left(trial), budgets.kept):
            return trial
    return dead if came_back else best


def _by_layer(split: RGSM, groups: list[int]) -> list[list[int]]:
    """The first few of these groups of each layer."""
    layers: dict[int, list[int]] = {}
    for group, layer in zip(groups, split.first_layers()[groups].tolist(), strict=True):
        layers.setdefault(layer, []).append(group)
    return [some[:EXCHANGED] for some in layers.values()]


def _exchanges(returning: list[list[int]], going: list[list[int]]) -> Iterator[tuple[list[int], list[int]]]:
    """Groups of a layer that come back, and of a layer that go for them, the fewest first."""
    for back, gone in sorted(itertools.product(range(1, EXCHANGED + 1), repeat=2), key=sum):
        for those, others in itertools.product(returning, going):
            if len(those) >= back and len(others) >= gone:
                yield those[:back], others[:gone]


def mu_within(split: RGSM, dead: Tensor, low: float) -> float:
    """The largest mu, up to `low`, at which none die but these.

    Args:
        split: whose groups they are.
        dead: ``(groups,)`` of bool.
        low: where the search begins.
    """
    below = split.critical_mus()
    below = below[below <= low].sort(descending=True).values.tolist()
    edges = (low, *((one + other) / 2 for one, other in itertools.pairwise(below)))
    return next((mu for mu in edges if bool(dead[split.dead_at(mu)].all())), 0.0)


def land_measured(split: RGSM, budgets: Budgets, edges: Callable[[], tuple[float, float]]) -> dict[str, float]:
    """Choose, measure what was chosen, and choose anew with what that tells, until it lies at the budget.

    Args:
        split: its groups are zeroed, and its lam is 0 afterwards.
        budgets: some of which are measured.
        edges: finds two neighbouring mus around the budgets, by the estimates as they are.

    Returns:
        the shares kept, as measured.
    """
    graph, estimates = budgets.graph, budgets.estimates
    assert graph is not None
    best, least, chosen = math.inf, {}, torch.empty(0)
    # Common factors of the estimates at which what was chosen lay above the budget, and too far below.
    above, below, factor = 0.0, math.inf, 1.0
    for attempt in range(TRIES):
        low, high = edges()
        found = chosen_groups(split, budgets, low, high)
        dead = split.dead_at(high) if found is None else found
        left, live = budgets.left(dead), lives(split, graph, dead)
        left |= {budget: one.measured(split, dead) / one.dense for budget, one in estimates.items()}
        used = nearest_use(left, budgets.kept)
        # A budget is a cap, if any choice is below it.
        missed = used if used > 1 else max(0.0, 1 - MEASURED_LANDING - used)
        if missed < best:
            best, least, chosen = missed, left, dead
        if not best:
            break
        if not attempt:
            for budget, estimate in estimates.items():
                estimate.calibrate(live, left[budget] * (1 + MARGIN))
            continue
        above, below = (factor, below) if used > 1 else (above, factor)
        wanted = math.sqrt(above * below) if above and below < math.inf else factor * used * (1 + MARGIN)
        for estimate in estimates.values():
            estimate.scale *= wanted / factor
        factor = wanted
    # Chosen by measurement, so that no lam need have it.
    split.zero_(chosen)
    split.lam = 0.0
    for budget, estimate in estimates.items():
        log.info(
            "%s: %.4g of the dense network's %.4g %s (%s).",
            budget, least[budget] * estimate.dense, estimate.dense, estimate.measure.unit, estimate.measure,
        )  # fmt: skip
    if best:
        tightest = max(budgets.kept, key=lambda budget: least[budget] / budgets.kept[budget])
        asked, found = (budgets.told(one)[tightest] for one in (budgets.kept, least))
        log.warning(
            "The budget %s=%.3g was missed: it is %.3f at the end, and nothing that was tried lies nearer.",
            tightest,
            asked,
            found,
        )
    return least


def zero_weights(split: RVSM, mu: float, count: int) -> None:
    """Zero of the single weights that die up to this mu so many that `count` are; equals go in order, and no more."""
    u = split.shadow()
    missing = count - sum(int((full(tensor) == 0).sum()) for tensor in u.values())
    lam, split.lam = split.lam, mu * split.beta
    more = split.shadow()
    split.lam = lam
    for weight in split.weights:
        if missing <= 0:
            return
        dying = (full(more[weight.name]) == 0) & (full(u[weight.name]) != 0)
        dying &= (dying.flatten().cumsum(0) <= missing).view(dying.shape)
        missing -= int(dying.sum())
        local(weight.tensor).masked_fill_(local_part(dying, weight.tensor), 0.0)
