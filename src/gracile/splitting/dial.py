"""A dial instead of a guess: name the budget, and the coefficient is steered to it during the one training run."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from gracile.channels import ChannelGraph, trace
from gracile.channels.op import Layer
from gracile.core.errors import InputError, nearest
from gracile.core.optimizers import StepHooks, opened
from gracile.core.shards import check_whole, full, local, local_part
from gracile.core.summary import Summary
from gracile.splitting.measured import Estimate, Measure, lives
from gracile.splitting.rgsm import RGSM
from gracile.splitting.rvsm import RVSM
from gracile.splitting.worth import Worth

log = logging.getLogger("gracile")
# How often the coefficient is set anew while the budget shrinks: a hundred times follows the cubic to a percent.
SETTINGS_PER_RUN = 100
# A run ends between a budget and this share of it below.
LANDING = 0.01
# Budgets that are measured; between a measurement and this share of it below a run ends there, aimed at by a margin, in so many tries.
MEASURED = ("latency", "file_size")
MEASURED_LANDING = 0.05
MARGIN = 0.01
TRIES = 8
# The share of the run over which the groups' worth is averaged.
MEMORY = 1 / 20
# Halvings of mu where zeros come entry by entry: to float32's precision.
BISECTIONS = 40

Ranking = Literal["worth", "size"]


class Dial:
    """Steers a splitting's lam so that the run ends at a budget, or at several at once.

    At any moment the weights' sizes tell exactly which lam would zero which of them, so no search over runs is needed:
    the dial asks for the share that the budget's schedule names at this step, everything at first, then a cubic to the target
    [@zhu2017, eq. 1], sets lam to it, and goes on setting it, because weights move. Groups go in the order of what they are
    worth to the loss over what they cost of the budget (`RGSM.reweigh`), as the gradients of the run tell it (`Worth`).

    A budget is a cap. At the last setting the groups that lam leaves and the budget does not are looked through from the weakest
    on: one that is too dear is passed over, and cheaper ones go, so that the run ends at most a percent of the budget below it
    wherever whole groups allow. `reached` says where.

    In the last part of the run the choice is final: what is zero in u is zero in w too, lam is 0, and the rest goes on training
    without it. A tight budget needs that: until then w keeps a part of the dead groups, of the size of their gradient over
    beta, and the sparse network would have to do without what the dense one still leans on. Steps beyond those announced keep
    to the choice.

    Take beta near 0.1 with group lasso. Steered far, it pulls the groups that stay with a force of up to beta times their size,
    and a network without batch-norm fades away under beta = 1.

    Args:
        split: an RVSM or RGSM, not yet attached; its own lam is not looked at.
        steps: optimiser steps of the whole run.
        macs: share in (0, 1) of multiply-adds that stay at most after physical removal; needs an RGSM and an example.
        params: likewise of parameters. One of a single budget or any of these together may be given.
        sparsity: share in (0, 1) of exact zeros over all parameters, at least.
        latency: share in (0, 1) of the dense network's latency that stays at most, as `measure` finds it; needs an RGSM and an
            example. A few networks are measured beforehand and the chosen one at the end, which ends at most 5 % below the budget;
            two runs from one seed measure differently, so they may choose differently.
        file_size: likewise of the bytes of the network's file.
        measure: what measures them, such as `gracile.deploy.Latency` and `gracile.deploy.FileSize`; one, or one for each.
        example: one input batch, to trace the network with.
        ranking: ``worth`` orders groups by the squared derivative of the loss along their gates; ``size`` by their norms, relative to
            the start, and by what their layer has left, which needs no gradients. For an RGSM with ``grouping="coupled"`` or a
            budget of sparsity alone; norms rank the rest.
        by_cost: weigh groups by what they cost of the budget. A budget of multiply-adds then takes first of the early layers,
            whose channels are few and dear; without it layers lose nearly alike.
        begin: share in [0, 1) of the run, at its start, that trains densely: until then little tells what a group is worth, and what goes
            early does not come back, since beta takes its weights within some tens of steps.
        ramp: share in (0, 1] of the run, after that, during which the budget shrinks.
        settle: share in [0, 1) of the run, at its end, during which the choice is final; 0 for plain splitting to the end.

    Attributes:
        budgets: the share that stays at most, by the budget's name.
        step: optimiser steps taken.
        reached: the shares that stayed at the last setting, by the budget's name.

    Raises:
        InputError: no budget, one out of range, one that nothing measures, multiply-adds for single weights, a budget that the network
            cannot reach, or a penalty that does not say which lam zeroes what.
    """

    def __init__(
        self,
        split: RVSM | RGSM,
        *,
        steps: int,
        macs: float | None = None,
        params: float | None = None,
        sparsity: float | None = None,
        latency: float | None = None,
        file_size: float | None = None,
        measure: Measure | Sequence[Measure] = (),
        example: Tensor | None = None,
        ranking: Ranking = "worth",
        by_cost: bool = True,
        begin: float = 0.3,
        ramp: float = 0.2,
        settle: float = 0.5,
    ) -> None:
        asked = {"macs": macs, "params": params, "sparsity": sparsity, "latency": latency, "file_size": file_size}
        given = {budget: value for budget, value in asked.items() if value is not None}
        if not given:
            raise InputError("A dial takes a budget, and none is given.", f"Give one of {', '.join(asked)}.")
        measures = _measures(measure, given)
        for budget, value in given.items():
            if not 0 < value < 1:
                raise InputError(
                    f"The budget {budget}={value} is not between 0 and 1.", "It is a share of the dense network."
                )
        check_shares(begin, ramp, settle)
        if ranking not in get_args(Ranking):
            raise InputError(f"There is no ranking '{ranking}'.", nearest(ranking, get_args(Ranking)))
        if steps < 1:
            raise InputError(f"steps={steps} must be at least 1.", "Give the number of optimiser steps of the run.")
        self.split, self.steps, self.begin, self.ramp, self.by_cost = split, steps, begin, ramp, by_cost
        self.final = steps if settle == 0 else max(1, math.ceil((1 - settle) * steps))
        # Inside, everything is a share that is kept.
        self.budgets = {budget: 1 - value if budget == "sparsity" else value for budget, value in given.items()}
        self.step = 0
        self.reached: dict[str, float] = {}
        self._chosen = False
        self._kept: list[Tensor] | None = None
        self._hooks: StepHooks | None = None
        self._prepare(example, measures)
        self._check_reach()
        if ranking == "worth" and isinstance(split, RGSM) and self._costs:
            split.worth = Worth(split.num_groups, MEMORY * steps)
        self.split.lam, self.split.steered_to = 0.0, ", ".join(f"{budget}={value:g}" for budget, value in given.items())
        if steps < SETTINGS_PER_RUN:
            log.warning(
                "A run of %d steps is short for a dial: the network has %d of them to get used to what goes, and may not "
                "recover. Take a smaller batch_size or more epochs, until there are some hundred.", steps, steps - self.final,
            )  # fmt: skip

    # What a choice leaves of the budgets.

    def _prepare(self, example: Tensor | None, measures: Mapping[str, Measure]) -> None:
        """Trace the network, and set out the costs of its groups."""
        split, physical = self.split, [name for name in self.budgets if name != "sparsity"]
        self._graph: ChannelGraph | None = None
        self._estimates: dict[str, Estimate] = {}
        # What groups cost of each budget, and of all together: ways to weigh them, of which the best serves.
        self._costs: list[Tensor] = []
        self._sizes: Tensor | None = None
        self._parameters = sum(parameter.numel() for parameter in split.model.parameters())
        split.critical_mus()  # refuses where lam steers nothing
        if isinstance(split, RVSM):
            if physical:
                raise InputError(
                    f"Zeroing single weights removes no {physical[0]}: dense kernels compute with zeros.",
                    "Use RGSM, or give a budget of sparsity.",
                )
            return
        self._sizes = split.group_sizes()
        if physical:
            if example is None:
                raise InputError(
                    f"A budget of {physical[0]} counts what can be removed, for which the network is traced.",
                    "Pass example=one input batch.",
                )
            check_whole(split.model)
            self._graph = trace(split.model, example)
            dense = self._graph.dense()
            self._dense = {"macs": dense.macs, "params": dense.parameters}
            self._estimates = {name: Estimate(one, split, self._graph) for name, one in measures.items()}
        if split.grouping != "coupled" and physical:
            return
        if physical and not self.by_cost:
            self._costs = [torch.ones(split.num_groups, dtype=torch.float64)]
            return
        for name in self.budgets:
            if name == "sparsity":
                own = self._sizes.cpu().double()
            else:
                assert self._graph is not None
                own = _costs(
                    self._graph, self._estimates[name].price if name in measures else _price(self._graph, name)
                )
            self._costs.append(own / own.mean())
        if len(self._costs) > 1:
            self._costs.append(torch.stack(self._costs).sum(0))

    def _check_reach(self) -> None:
        least = self._left_at(math.inf)
        for budget, kept in self.budgets.items():
            if least[budget] > kept:
                value, reach = (1 - kept, 1 - least[budget]) if budget == "sparsity" else (kept, least[budget])
                if isinstance(self.split, RVSM):
                    why, remedy = "with every split weight zero", "split more layers"
                elif self.split.keep_last:
                    why, remedy = "with one group left of each layer", "pass keep_last=False"
                else:
                    why, remedy = "with every group zero", "split more layers"
                raise InputError(
                    f"The budget {budget}={value:g} is out of reach: {why} it comes to {reach:.3g}.",
                    f"Choose a milder budget, or {remedy}.",
                )

    def _by_entries(self) -> bool:
        """Whether zeros come entry by entry, also inside groups that stay."""
        entrywise = isinstance(self.split, RGSM) and bool(self.split.penalty.entrywise)
        return isinstance(self.split, RVSM) or (entrywise and "sparsity" in self.budgets)

    def _left_at(self, mu: float) -> dict[str, float]:
        """The share that each budget keeps if lam / beta is mu."""
        if isinstance(self.split, RVSM):
            return {"sparsity": 1 - self.split.zeros_at(mu) / self._parameters}
        left = self._left(self.split.dead_at(mu))
        if self._by_entries():
            lam, self.split.lam = self.split.lam, mu * self.split.beta
            zeros = self._parameters - self.split.summary().nonzero
            self.split.lam = lam
            left["sparsity"] = 1 - zeros / self._parameters
        return left

    def _left(self, dead: Tensor) -> dict[str, float]:
        """The share that each budget keeps if these groups go, ``(groups,)`` of bool."""
        assert isinstance(self.split, RGSM)
        left: dict[str, float] = {}
        if self._graph is not None:
            live = lives(self.split, self._graph, dead)
            counts = self._graph.sizes(live)
            left = {"macs": counts.macs / self._dense["macs"], "params": counts.parameters / self._dense["params"]}
            left |= {budget: estimate.share(live) for budget, estimate in self._estimates.items()}
        if "sparsity" in self.budgets:
            assert self._sizes is not None
            left["sparsity"] = 1 - float(self._sizes[dead].sum()) / self._parameters
        return {budget: left[budget] for budget in self.budgets}

    # Steering.

    def plan(self, step: int) -> dict[str, float]:
        """The share to be kept after `step` steps, by the budget's name."""
        start, length = self.begin * self.steps, max(1.0, self.ramp * self.steps)
        progress = min(1.0, max(0.0, (step - start) / length))
        return {budget: kept + (1 - kept) * (1 - progress) ** 3 for budget, kept in self.budgets.items()}

    @torch.no_grad()
    def set_to(self, plan: Mapping[str, float]) -> dict[str, float]:
        """Set the splitting's lam so that these shares are kept at most; returns the shares kept.

        Args:
            plan: by the budget's name, as `plan` gives it.
        """
        if isinstance(self.split, RVSM):
            mu = self._weight_mus(plan)[1]
        elif self._by_entries():
            mu = self._entry_mu(plan)
        else:
            mu = self._edges(plan)[1]
        self.split.lam = mu * self.split.beta
        self.reached = self._left_at(mu)
        return self.reached

    def _weight_mus(self, plan: Mapping[str, float]) -> tuple[float, float, int]:
        """For single weights: a mu that zeroes too few, the next that zeroes enough, and how many are wanted."""
        assert isinstance(self.split, RVSM)
        count = math.ceil((1 - plan["sparsity"]) * self._parameters - 1e-6)
        if count <= 0:
            return 0.0, 0.0, 0
        sizes = self.split.critical_mus()
        mu = float(sizes.double().kthvalue(min(count, len(sizes))).values)
        below = sizes[sizes < mu]
        low = float(below.max()) if len(below) else 0.0
        # The proximal map rounds in its own way; a cap is one.
        high = next(
            (at for at in (mu, mu * (1 + 1e-6), mu * (1 + 1e-3)) if self.split.zeros_at(at) >= count), mu * 1.01
        )
        low = next((at for at in (low, low * (1 - 1e-6), low * (1 - 1e-3)) if self.split.zeros_at(at) <= count), 0.0)
        return low, high, count

    def _entry_mu(self, plan: Mapping[str, float]) -> float:
        """The least mu that keeps to the plan, where the shares fall all but evenly with it."""
        if all(share >= 1 for share in plan.values()):
            return 0.0
        low, high = 0.0, float(self.split.critical_mus().max()) * 1.001
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if _within(self._left_at(middle), plan) else (middle, high)
        return high

    def _edges(self, plan: Mapping[str, float]) -> tuple[float, float]:
        """Two neighbouring mus between which one group dies: the first keeps more than the plan, the second no more.

        Removing the k weakest groups, for k = 0 ... all: bisection over k, half-way between neighbouring critical values.
        """
        assert isinstance(self.split, RGSM)
        if len(self._costs) < 2:
            if self._costs:
                self.split.reweigh(self._costs[0])
            return self._bisected(plan)
        # The weighing that takes least beyond what is asked.
        used = []
        for costs in self._costs:
            self.split.reweigh(costs)
            left = self._left_at(self._bisected(plan)[1])
            used.append(sum(left[budget] / share for budget, share in plan.items()))
        self.split.reweigh(self._costs[max(range(len(used)), key=used.__getitem__)])
        return self._bisected(plan)

    def _bisected(self, plan: Mapping[str, float]) -> tuple[float, float]:
        """`_edges` at the groups' present weights."""
        ordered = self.split.critical_mus().sort().values.tolist()
        edges = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(ordered)), ordered[-1] * 1.001]
        if _within(self._left_at(0.0), plan):
            return 0.0, 0.0
        low, high = 0, len(edges) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _within(self._left_at(edges[middle]), plan) else (middle, high)
        return edges[low], edges[high]

    @torch.no_grad()
    def _land(self) -> None:
        """The last setting: at the budget, and never above."""
        split, plan = self.split, self.budgets
        if isinstance(split, RVSM):
            low, high, count = self._weight_mus(plan)
            split.lam = low * split.beta
            self._zero_weights(high, count)
            self.reached = self._left_at(low)
        elif self._by_entries():
            self.set_to(plan)
        elif self._estimates:
            self._land_measured()
        else:
            low, high = self._edges(plan)
            extra = self._extra_groups(low, high)
            split.lam = (low if extra is not None else high) * split.beta
            if extra is not None:
                split.zero_(extra)
            self.reached = self._left_at(split.mu)
        shares = {budget: 1 - kept if budget == "sparsity" else kept for budget, kept in self.reached.items()}
        log.info("The dial ended at %s.", ", ".join(f"{budget}={share:.4f}" for budget, share in shares.items()))

    def _land_measured(self) -> None:
        """Choose, measure what was chosen, and choose anew with what that tells, until it lies at the budget."""
        split, graph = self.split, self._graph
        assert isinstance(split, RGSM)
        assert graph is not None
        best, least, chosen = math.inf, {}, torch.empty(0)
        # Common factors of the estimates at which what was chosen lay above the budget, and too far below.
        above, below, factor = 0.0, math.inf, 1.0
        for attempt in range(TRIES):
            low, high = self._edges(self.budgets)
            extra = self._extra_groups(low, high)
            dead = split.dead_at(high) if extra is None else split.dead_at(low) | extra
            left, live = self._left(dead), lives(split, graph, dead)
            left |= {budget: one.measured(split, dead) / one.dense for budget, one in self._estimates.items()}
            used = _nearest(left, self.budgets)
            # A budget is a cap, if any choice is below it.
            missed = used if used > 1 else max(0.0, 1 - MEASURED_LANDING - used)
            if missed < best:
                best, least, chosen = missed, left, dead
            if not best:
                break
            if not attempt:
                for budget, estimate in self._estimates.items():
                    estimate.calibrate(live, left[budget] * (1 + MARGIN))
                continue
            above, below = (factor, below) if used > 1 else (above, factor)
            wanted = math.sqrt(above * below) if above and below < math.inf else factor * used * (1 + MARGIN)
            for estimate in self._estimates.values():
                estimate.scale *= wanted / factor
            factor = wanted
        # Chosen by measurement, so that no lam need have it.
        split.zero_(chosen)
        split.lam, self.reached = 0.0, least
        for budget, estimate in self._estimates.items():
            log.info(
                "%s: %.4g of the dense network's %.4g %s (%s).",
                budget, least[budget] * estimate.dense, estimate.dense, estimate.measure.unit, estimate.measure,
            )  # fmt: skip
            if least[budget] > self.budgets[budget]:
                log.warning(
                    "The budget %s=%.3g was missed: %.3f was measured at the end.",
                    budget,
                    self.budgets[budget],
                    least[budget],
                )

    def _zero_weights(self, mu: float, count: int) -> None:
        """Zero of the single weights that die up to this mu so many that `count` are; equals go in order, and no more."""
        assert isinstance(self.split, RVSM)
        u = self.split.shadow()
        missing = count - sum(int((full(tensor) == 0).sum()) for tensor in u.values())
        lam, self.split.lam = self.split.lam, mu * self.split.beta
        more = self.split.shadow()
        self.split.lam = lam
        for weight in self.split.weights:
            if missing <= 0:
                return
            dying = (full(more[weight.name]) == 0) & (full(u[weight.name]) != 0)
            dying &= (dying.flatten().cumsum(0) <= missing).view(dying.shape)
            missing -= int(dying.sum())
            local(weight.tensor).masked_fill_(local_part(dying, weight.tensor), 0.0)

    def _extra_groups(self, low: float, high: float) -> Tensor | None:
        """Which groups go beside those that die at `low`, ``(groups,)`` of bool; None if all up to `high` serve best.

        From the weakest on, one that would take the run far below the budget is passed over.
        """
        split = self.split
        assert isinstance(split, RGSM)
        if _landed(self._left_at(high), self.budgets):
            return None
        dead, able = split.dead_at(low), split.split_groups()
        extra = torch.zeros_like(dead)
        best, least = None, self._left_at(high)
        for group in split.critical_mus().argsort(stable=True).tolist():
            if dead[group] or not able[group] or split.is_last(group, dead | extra):
                continue
            extra[group] = True
            left = self._left(dead | extra)
            if _landed(left, self.budgets):
                return extra
            if _within(left, self.budgets):
                # Too dear; remembered in case that nothing lands.
                if _nearest(left, self.budgets) > _nearest(least, self.budgets):
                    best, least = extra.clone(), left
                extra[group] = False
        return best

    # A sparsifier like the splitting it steers.

    def attach(self, *optimizers: Any) -> StepHooks:
        """Attach the splitting and count the optimisers' steps; see `VariableSplitting.attach`.

        With several optimisers a step is counted when each of them has taken one.
        """
        handle = self.split.attach(*optimizers)
        self._hooks = StepHooks(
            [opened(optimizer) for optimizer in optimizers],
            [weight.tensor for weight in self.split.weights],
            couple=self._before_step,
            after=self._after_step,
        )
        return handle

    def detach(self) -> None:
        """Detach both; says so if the run ended before its steps."""
        if self._hooks is not None and 0 < self.step < self.steps:
            left = self._left_at(self.split.mu)
            far = ", ".join(
                f"{budget} is {1 - left[budget] if budget == 'sparsity' else left[budget]:.3f} and was to be "
                f"{1 - kept if budget == 'sparsity' else kept:.3f}"
                for budget, kept in self.budgets.items()
            )
            log.warning("The run ended after %d of the %d steps the dial was set for: %s.", self.step, self.steps, far)
        self.split.detach()
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    def _after_step(self, whole: bool) -> None:
        self._hold()
        self.step += whole
        if self._chosen or not whole:
            return
        if isinstance(self.split, RGSM) and self.split.worth is not None:
            self.split.worth.end_step()
        every = max(1, self.steps // SETTINGS_PER_RUN)
        if self.step == self.final:
            self._land()
            if self.final < self.steps:
                self._choose()
        elif self.step % every == 0:
            self.set_to(self.plan(self.step))

    @torch.no_grad()
    def _choose(self) -> None:
        """Make the zeros of u zeros of w, for good."""
        shadow = self.split.shadow()
        for weight, w in zip(self.split.weights, self.split.tensors(), strict=True):
            w.masked_fill_(local(shadow[weight.name]) == 0, 0.0)
        self.split.lam = 0.0
        self._chosen, self._kept = True, None
        if isinstance(self.split, RGSM):
            self.split.worth = None

    @torch.no_grad()
    def _hold(self) -> None:
        """Take back what the step did to the weights that are gone."""
        if self._kept is not None:
            for w, kept in zip(self.split.tensors(), self._kept, strict=True):
                w.mul_(kept)

    def _before_step(self, *_: Any) -> None:
        if self.step >= self.final and not self._chosen:
            # More steps than were announced.
            self._choose()
        # From the weights themselves, which a checkpoint holds, so that a resumed run needs nothing else.
        if self._chosen and self._kept is None:
            self._kept = [w != 0 for w in self.split.tensors()]

    def end_epoch(self) -> None:
        """The splitting's."""
        self.split.end_epoch()

    def sparsify_(self) -> None:
        """The splitting's."""
        self.split.sparsify_()

    def sparse_model(self) -> nn.Module:
        """The splitting's."""
        return self.split.sparse_model()

    def sparse_state_dict(self) -> dict[str, Tensor]:
        """The splitting's."""
        return self.split.sparse_state_dict()

    def apply_zeros_(self, module: nn.Module) -> None:
        """The splitting's."""
        self.split.apply_zeros_(module)

    def summary(self) -> Summary:
        """The splitting's."""
        return self.split.summary()

    def state_dict(self) -> dict[str, Any]:
        """The splitting's coefficients, the step, and whether the choice is final."""
        state = {"split": self.split.state_dict(), "step": self.step, "chosen": self._chosen, "reached": self.reached}
        return state | {"estimates": {budget: one.state_dict() for budget, one in self._estimates.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.split.load_state_dict(state["split"])
        self.step = int(state["step"])
        # States of version 0.1 do not say.
        self._chosen = bool(state.get("chosen", self.final <= self.step and self.final < self.steps))
        self.reached = dict(state.get("reached", {}))
        self._kept = None
        for budget, measured in state.get("estimates", {}).items():
            self._estimates[budget].load_state_dict(measured)


def check_shares(begin: float, ramp: float, settle: float) -> None:
    """Refuse shares of a run that a dial cannot follow.

    Args:
        begin: of the run, at its start, without any pull.
        ramp: after that, during which the budget shrinks.
        settle: at its end, during which the choice is final.

    Raises:
        InputError: one is out of range, or they sum to more than 1.
    """
    if not (0 <= begin < 1 and 0 < ramp <= 1 and 0 <= settle < 1 and begin + ramp + settle <= 1 + 1e-9):
        raise InputError(
            f"begin={begin}, ramp={ramp} and settle={settle} do not fit into the run.",
            "They are shares of it and sum to 1 at most.",
        )


def _measures(measure: Measure | Sequence[Measure], given: Mapping[str, float]) -> dict[str, Measure]:
    """What measures each of the budgets that need it."""
    every = list(measure) if isinstance(measure, Sequence) else [measure]
    measures = {one.budget: one for one in every}
    asked = [budget for budget in MEASURED if budget in given]
    for budget in asked:
        if budget not in measures:
            raise InputError(
                f"A budget of {budget} is measured, and nothing to measure it with is given.",
                f"Pass measure=gracile.deploy.{'Latency' if budget == 'latency' else 'FileSize'}(example).",
            )
    for budget in measures:
        if budget not in asked:
            raise InputError(
                f"measure= measures {budget}, for which there is no budget.", f"Give {budget}= too, or leave it out."
            )
    return {budget: measures[budget] for budget in asked}


def _within(left: Mapping[str, float], plan: Mapping[str, float]) -> bool:
    """Whether no budget is exceeded; shares are quotients of counts, so that rounding alone makes no difference."""
    return all(left[budget] <= share + 1e-12 for budget, share in plan.items())


def _nearest(left: Mapping[str, float], plan: Mapping[str, float]) -> float:
    """How much of the tightest budget is used, at most 1 where all are kept."""
    return max(left[budget] / share for budget, share in plan.items())


def _landed(left: Mapping[str, float], plan: Mapping[str, float]) -> bool:
    return _within(left, plan) and _nearest(left, plan) >= 1 - LANDING


def _price(graph: ChannelGraph, budget: str) -> Callable[[Layer], float]:
    """What a layer of the dense network costs, in multiply-adds or parameters."""
    return lambda layer: graph.parameter(layer.weight).numel() * (layer.positions if budget == "macs" else 1)


def _costs(graph: ChannelGraph, price: Callable[[Layer], float]) -> Tensor:
    """What each group costs in the dense network, ``(groups,)``: its slices and its filters, by what their layers cost."""
    costs = np.zeros(graph.num_groups)
    for layer in graph.layers:
        for side in (layer.inputs, layer.outputs):
            if side is not None:
                groups = graph.groups_of(side[1])
                np.add.at(costs, groups[groups >= 0], price(layer) / len(groups))
    return torch.from_numpy(costs)
