"""The last setting of a dial: at the budget, and never above, where whole groups or equal weights would miss it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

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


def extra_groups(split: RGSM, budgets: Budgets, low: float, high: float) -> Tensor | None:
    """Which groups go beside those that die at `low`, ``(groups,)`` of bool; None if all up to `high` serve best.

    From the weakest on, one that would take the run far below the budget is passed over.

    Args:
        split: whose groups they are.
        budgets: to land at.
        low: a mu that keeps more than they allow.
        high: the next, that keeps no more.
    """
    if landed(budgets.left_at(high), budgets.kept):
        return None
    dead, able = split.dead_at(low), split.split_groups()
    extra = torch.zeros_like(dead)
    best, least = None, budgets.left_at(high)
    for group in split.critical_mus().argsort(stable=True).tolist():
        if dead[group] or not able[group] or split.is_last(group, dead | extra):
            continue
        extra[group] = True
        left = budgets.left(dead | extra)
        if landed(left, budgets.kept):
            return extra
        if within(left, budgets.kept):
            # Too dear; remembered in case that nothing lands.
            if nearest_use(left, budgets.kept) > nearest_use(least, budgets.kept):
                best, least = extra.clone(), left
            extra[group] = False
    return best


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
        extra = extra_groups(split, budgets, low, high)
        dead = split.dead_at(high) if extra is None else split.dead_at(low) | extra
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
        if least[budget] > budgets.kept[budget]:
            log.warning(
                "The budget %s=%.3g was missed: %.3f was measured at the end.",
                budget, budgets.kept[budget], least[budget],
            )  # fmt: skip
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
