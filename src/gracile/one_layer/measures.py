"""What theorems 3.1 and 3.2 state, as numbers over the starts that they admit."""

from __future__ import annotations

import math

from gracile.one_layer.verification import Verification, gradient_ratio

# Of these the least over starts and settings tells whether the theorem held; of all others the largest.
LEAST = frozenset({"concluded", "constant"})


def share_error(share: float, starts: int) -> float:
    """The standard error of a measured share whose expectation is `share`; never 0, so that one can divide by it."""
    return math.sqrt(max(share * (1 - share), 0.25 / starts) / starts)


def statements(found: Verification, k: int, *, delta: float, beta: float) -> dict[str, float]:
    """Every statement of a theorem as one number over the admitted starts: the worst of them, or a share.

    Args:
        found: by `verify`, with the same k, delta and beta.
        k: patches.
        delta: the theorem's.
        beta: the coupling.

    Returns:
        ``z``: measured share of admitted starts against the exact one, in standard errors; ``concluded``: share; of L_beta the
        angle, over delta, from which it rose (``lagrangian_rise_from``), the share of starts where (``lagrangian_rose``) and the
        most in a step (``lagrangian_rise``); ``angle_rise_from``, over delta; ``potential_rise``; ``angle_over_delta`` at the end;
        ``residual`` and ``constant`` of the limit; and by theorem ``gradient_ratio`` and ``constant_over_bound``, or
        ``distance_over_bound``, at most 1 each.
    """
    seen, limit, here = found.seen, found.limit, found.admitted
    lr = next(one.value for one in found.conditions.conditions if "step" in one.name)
    numbers = {
        "z": abs(float(here.double().mean()) - found.exact) / share_error(found.exact, len(here)),
        "concluded": float(found.concluded[here].double().mean()),
        "lagrangian_rise_from": float(seen.lagrangian_rise_from[here].max()) / delta,
        "lagrangian_rose": float((seen.lagrangian_rise_from > 0)[here].double().mean()),
        "lagrangian_rise": float(seen.lagrangian_rise[here].max()),
        "angle_rise_from": float(seen.angle_rise_from[here].max()) / delta,
        "potential_rise": float(seen.potential_rise[here].max()),
        "angle_over_delta": float(limit.theta[here].max()) / delta,
        "residual": float(limit.residual[here].max()),
        "constant": float(limit.constant[here].min()),
    }
    if found.conditions.theorem == "3.1":
        bound = k * math.pi / (math.pi - limit.theta)
        numbers["gradient_ratio"] = float(gradient_ratio(seen, k, beta=beta, lr=lr)[here].max())
        numbers["constant_over_bound"] = float((limit.constant / bound)[here].max())
    else:
        numbers["distance_over_bound"] = float((limit.distance / limit.bound)[here].max())
    return numbers
