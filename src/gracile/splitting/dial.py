"""A dial instead of a guess: name the budget, and the coefficient is steered to it during the one training run."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError, check_state, nearest
from gracile.core.optimizers import StepHooks, opened
from gracile.core.shards import local
from gracile.core.sparsifier import say_unfinished
from gracile.core.summary import Summary
from gracile.splitting.budgets import LANDING, Budgets, landed, within
from gracile.splitting.landing import chosen_groups, land_measured, mu_within, zero_weights
from gracile.splitting.measured import Measure
from gracile.splitting.rgsm import RGSM
from gracile.splitting.rvsm import RVSM
from gracile.splitting.worth import Worth

log = logging.getLogger("gracile")
# How often the coefficient is set anew while the budget shrinks: a hundred times follows the cubic to a percent.
SETTINGS_PER_RUN = 100
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
    on: one that is too dear is passed over, and cheaper ones go; where that ends more than a percent of the budget below it, groups
    that went come back, alone or for another. `reached` says where the run ended, and a warning where none of that came to within a
    percent.

    In the last part of the run the choice is final: what is zero in u is zero in w too, lam is 0, and the rest goes on training
    without it. A tight budget needs that: until then w keeps a part of the dead groups, of the size of their gradient over
    beta, and the sparse network would have to do without what the dense one still leans on. Steps beyond those announced keep
    to the choice.

    Take beta near 0.1. It sets how fast w follows where u is zero; group lasso, steered far, also pulls the groups that stay, with a
    force of up to beta times their size, and a network without batch-norm fades away under beta = 1.

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
            early does not come back, since beta takes its weights within some tens of steps. By default 0.3, for single weights 0.1.
        ramp: share in (0, 1] of the run, after that, during which the budget shrinks; by default 0.2, for single weights 0.4.
        settle: share in [0, 1) of the run, at its end, during which the choice is final; 0 for plain splitting to the end.

    Attributes:
        step: optimiser steps taken.
        said_at: the step at which it was last said that the run has not taken all of its steps.
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
        begin: float | None = None,
        ramp: float | None = None,
        settle: float = 0.5,
    ) -> None:
        asked = {"macs": macs, "params": params, "sparsity": sparsity, "latency": latency, "file_size": file_size}
        given = {budget: value for budget, value in asked.items() if value is not None}
        if not given:
            raise InputError("A dial takes a budget, and none is given.", f"Give one of {', '.join(asked)}.")
        begin, ramp = shares(isinstance(split, RVSM), begin, ramp, settle)
        if ranking not in get_args(Ranking):
            raise InputError(f"There is no ranking '{ranking}'.", nearest(ranking, get_args(Ranking)))
        if steps < 1:
            raise InputError(f"steps={steps} must be at least 1.", "Give the number of optimiser steps of the run.")
        self.split, self.steps, self.begin, self.ramp = split, steps, begin, ramp
        self.final = steps if settle == 0 else max(1, math.ceil((1 - settle) * steps))
        self._budgets = Budgets(split, given, measure, example, by_cost)
        self.step = 0
        self.reached: dict[str, float] = {}
        self._chosen = False
        self.said_at = 0
        self._kept: list[Tensor] | None = None
        self._hooks: StepHooks | None = None
        if ranking == "worth" and isinstance(split, RGSM) and self._budgets.costs:
            split.worth = Worth(split.num_groups, MEMORY * steps)
        self.split.lam, self.split.steered_to = 0.0, ", ".join(f"{budget}={value:g}" for budget, value in given.items())
        if steps < SETTINGS_PER_RUN:
            log.warning(
                "A run of %d steps is short for a dial: the network has %d of them to get used to what goes, and may not "
                "recover. Take a smaller batch_size or more epochs, until there are some hundred.", steps, steps - self.final,
            )  # fmt: skip

    @property
    def budgets(self) -> dict[str, float]:
        """The share that stays at most, by the budget's name."""
        return self._budgets.kept

    @property
    def settled(self) -> bool:
        """Whether the choice is final: what is gone is zero in w itself, and stays so."""
        return self._chosen

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
        mu = self._weight_mus(plan)[1] if isinstance(self.split, RVSM) else self._edges(plan)[1]
        self.split.lam = mu * self.split.beta
        self.reached = self._budgets.left_at(mu)
        return self.reached

    def _weight_mus(self, plan: Mapping[str, float]) -> tuple[float, float, int]:
        """For single weights: a mu that zeroes too few, the next that zeroes enough, and how many are wanted."""
        assert isinstance(self.split, RVSM)
        count = math.ceil((1 - plan["sparsity"]) * self._budgets.parameters - 1e-6)
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

    def _entry_edges(self, plan: Mapping[str, float]) -> tuple[float, float]:
        """As `_edges`, where zeros come entry by entry and the shares fall all but evenly with mu."""
        if all(share >= 1 for share in plan.values()):
            return 0.0, 0.0
        low, high = 0.0, float(self.split.critical_mus().max()) * 1.001
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if within(self._budgets.left_at(middle), plan) else (middle, high)
        return low, high

    def _edges(self, plan: Mapping[str, float]) -> tuple[float, float]:
        """Two neighbouring mus between which one group dies: the first keeps more than the plan, the second no more.

        Removing the k weakest groups, for k = 0 ... all: bisection over k, half-way between neighbouring critical values.
        """
        assert isinstance(self.split, RGSM)
        if self._budgets.by_entries():
            return self._entry_edges(plan)
        costs = self._budgets.costs
        if len(costs) < 2:
            if costs:
                self.split.reweigh(costs[0])
            return self._bisected(plan)
        # The weighing that takes least beyond what is asked.
        used = []
        for one in costs:
            self.split.reweigh(one)
            left = self._budgets.left_at(self._bisected(plan)[1])
            used.append(sum(left[budget] / share for budget, share in plan.items()))
        self.split.reweigh(costs[max(range(len(used)), key=used.__getitem__)])
        return self._bisected(plan)

    def _bisected(self, plan: Mapping[str, float]) -> tuple[float, float]:
        """`_edges` at the groups' present weights."""
        ordered = self.split.critical_mus().sort().values.tolist()
        edges = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(ordered)), ordered[-1] * 1.001]
        if within(self._budgets.left_at(0.0), plan):
            return 0.0, 0.0
        low, high = 0, len(edges) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if within(self._budgets.left_at(edges[middle]), plan) else (middle, high)
        return edges[low], edges[high]

    @torch.no_grad()
    def _land(self) -> None:
        """The last setting: at the budget, and never above."""
        split, budgets = self.split, self._budgets
        if isinstance(split, RVSM):
            low, high, count = self._weight_mus(budgets.kept)
            split.lam = low * split.beta
            zero_weights(split, high, count)
            self.reached = budgets.left_at(low)
        elif budgets.estimates:
            self.reached = land_measured(split, budgets, lambda: self._edges(budgets.kept))
        else:
            low, high = self._edges(budgets.kept)
            dead = chosen_groups(split, budgets, low, high)
            split.lam = high * split.beta
            if dead is not None:
                # No lam takes just these: the largest that takes none of the others, and the rest by hand.
                split.lam = mu_within(split, dead, low) * split.beta
                split.zero_(dead & ~split.dead_at(split.mu))
            self.reached = budgets.left_at(split.mu)
        ended = self._named(self.reached, ".4f")
        if budgets.estimates or landed(self.reached, budgets.kept):
            log.info("The dial ended at %s.", ended)
        else:
            log.warning(
                "The dial ended at %s, where %s was asked: whole groups that were tried come no nearer.",
                ended, split.steered_to,
            )  # fmt: skip

    # A sparsifier like the splitting it steers.

    def attach(self, *optimizers: Any) -> StepHooks:
        """Attach the splitting and count the optimisers' steps; see `VariableSplitting.attach`.

        With several optimisers a step is counted when each of them has taken one.
        """
        handle = self.split.attach_steered(*optimizers)
        self._hooks = StepHooks(
            [opened(optimizer) for optimizer in optimizers],
            [weight.tensor for weight in self.split.weights],
            couple=self._before_step,
            after=self._after_step,
        )
        return handle

    def detach(self) -> None:
        """Detach both; says so if the run ended before its steps."""
        if self._hooks is not None:
            self._say_unfinished()
        self.split.detach()
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    def _named(self, left: Mapping[str, float], form: str = "g") -> str:
        """Shares as they were asked for, by the budget's name."""
        return ", ".join(f"{budget}={share:{form}}" for budget, share in self._budgets.told(left).items())

    def _say_unfinished(self) -> None:
        """Warn that the run has not taken all of its steps, and how far from the budget it is."""
        say_unfinished(
            self,
            "the dial",
            lambda: (
                f"{self._named(self._budgets.left_at(self.split.mu), '.3f')} where {self.split.steered_to} is asked"
            ),
        )

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
            left = self._budgets.left_at(0.0)
            counted = {budget: share for budget, share in self.reached.items() if budget not in self._budgets.estimates}
            if any(left[budget] > share + LANDING for budget, share in counted.items()):
                log.warning(
                    "The dial's choice was final at %s, and these weights keep %s: load the model's saved weights as well.",
                    self._named(counted, ".3f"), self._named({budget: left[budget] for budget in counted}, ".3f"),
                )  # fmt: skip

    def end_epoch(self) -> None:
        """The splitting's."""
        self.split.end_epoch()

    def sparsify_(self) -> None:
        """The splitting's; warns if the run has not taken all of its steps."""
        self._say_unfinished()
        self.split.sparsify_()

    def sparse_model(self) -> nn.Module:
        """The splitting's; warns if the run has not taken all of its steps."""
        self._say_unfinished()
        return self.split.sparse_model()

    def sparse_so_far(self) -> nn.Module:
        """As `sparse_model`, to look at on the way: without a word about the steps to come."""
        return self.split.sparse_model()

    def sparse_state_dict(self) -> dict[str, Tensor]:
        """As `sparse_model`."""
        self._say_unfinished()
        return self.split.sparse_state_dict()

    def apply_zeros_(self, module: nn.Module) -> None:
        """The splitting's."""
        self.split.apply_zeros_(module)

    def summary(self) -> Summary:
        """The splitting's."""
        return self.split.summary()

    def state_dict(self) -> dict[str, Any]:
        """The splitting's coefficients, the step, whether the choice is final, and the run they are of."""
        state = {"split": self.split.state_dict(), "step": self.step, "chosen": self._chosen, "reached": self.reached}
        state |= {"budgets": dict(self.budgets), "steps": self.steps}
        return state | {"estimates": {budget: one.state_dict() for budget, one in self._budgets.estimates.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state.

        Raises:
            InputError: it is no state of a dial, or of a run to another budget or of another length.
        """
        check_state(state, ("split", "step"), self)
        theirs = dict(state.get("budgets", self.budgets)), int(state.get("steps", self.steps))
        if theirs != (self.budgets, self.steps):
            raise InputError(
                f"This state is of a run to {self._named(theirs[0])} in {theirs[1]} steps, and this dial is set to "
                f"{self._named(self.budgets)} in {self.steps}.",
                "Build it alike, or load the weights alone and start a new dial.",
            )
        self.split.load_state_dict(state["split"])
        self.step = int(state["step"])
        # States of version 0.1 do not say.
        self._chosen = bool(state.get("chosen", self.final <= self.step and self.final < self.steps))
        self.reached = dict(state.get("reached", {}))
        self._kept = None
        for budget, measured in state.get("estimates", {}).items():
            self._budgets.estimates[budget].load_state_dict(measured)


def shares(single: bool, begin: float | None, ramp: float | None, settle: float) -> tuple[float, float]:
    """When a dial begins, and how long it takes.

    Args:
        single: whether single weights go, which may come back by themselves, or groups.
        begin: share of the run, at its start, without any pull; None for what validation images chose, see ``docs/comparison.md``.
        ramp: after that, during which the budget shrinks; likewise.
        settle: at its end, during which the choice is final.

    Returns:
        `begin` and `ramp`.

    Raises:
        InputError: one is out of range, or they sum to more than 1.
    """
    begin = (0.1 if single else 0.3) if begin is None else begin
    ramp = (0.4 if single else 0.2) if ramp is None else ramp
    if not (0 <= begin < 1 and 0 < ramp <= 1 and 0 <= settle < 1 and begin + ramp + settle <= 1 + 1e-9):
        raise InputError(
            f"begin={begin}, ramp={ramp} and settle={settle} do not fit into the run.",
            "They are shares of it and sum to 1 at most.",
        )
    return begin, ramp
