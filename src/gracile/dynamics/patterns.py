"""Which neurons are switched alike, from the forward passes that training makes anyway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gracile.channels import ChannelGraph
from gracile.core.seeding import generator
from gracile.dynamics.junctions import Junction
from gracile.dynamics.operations import title

# Rows (examples times positions) looked at in a forward pass; a wide image has more than tell anything new.
ROWS = 8192


class Patterns:
    """Remembers, for junctions with one ReLU between, which neurons were on for all examples seen, and which were always alike.

    A neuron's pattern is kept as a sum of random whole numbers, one per example it is on for, so that equal sums mean
    equal patterns but for one chance in about 2^36 a pair.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, junctions: Sequence[Junction]) -> None:
        self.due = False
        self.sums: dict[str, Tensor] = {}
        self.active: dict[str, Tensor] = {}
        self.passes: Counter[str] = Counter()
        self._places: list[tuple[nn.Module, bool, Junction]] = []
        modules = dict(model.named_modules())
        calls = Counter(str(node.target) for node in graph.by_node if node.op == "call_module")
        for junction in junctions:
            if junction.mask is None:
                continue
            nodes = [node for node in graph.by_node if title(node).strip("'") == junction.mask]
            if len(nodes) != 1:
                continue
            source = nodes[0].all_input_nodes[0]
            if nodes[0].op == "call_module" and calls[str(nodes[0].target)] == 1:
                self._places.append((modules[str(nodes[0].target)], True, junction))
            elif source.op == "call_module" and [one.name for one in junction.makers] == [str(source.target)]:
                self._places.append((modules[str(source.target)], False, junction))

    def attach(self) -> list[Any]:
        """Hooks that look at inputs of activations, or at outputs of layers where the activation is a function."""
        handles = []
        for module, before, junction in self._places:
            if before:
                handles.append(module.register_forward_pre_hook(partial(self._before, junction)))
            else:
                handles.append(module.register_forward_hook(partial(self._after, junction)))
        return handles

    def _before(self, junction: Junction, _module: nn.Module, inputs: Any) -> None:
        self._see(junction, inputs[0])

    def _after(self, junction: Junction, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._see(junction, output)

    def _see(self, junction: Junction, x: Any) -> None:
        if not self.due or not torch.is_grad_enabled() or not isinstance(x, Tensor):
            return
        with torch.no_grad():
            last = junction.makers[0].kind == "linear"
            on = (x.detach() > 0) if last else (x.detach() > 0).movedim(1, -1)
            on = on.reshape(-1, on.shape[-1])[:ROWS]
            on = junction.makers[0].picked(on, 1)
            number = self.passes[junction.name]
            self.passes[junction.name] += 1
            draw = generator(number, "patterns", junction.name)
            weights = torch.randint(2**36, (len(on),), generator=draw).to(x.device, torch.float64)
            units = on.double()
            sums = weights @ units  # of whole numbers below 2^53: exact in any order
            everywhere = units.amin(0) > 0
            if number:
                sums = (sums + self.sums[junction.name]) % 2**50
                everywhere &= self.active[junction.name]
            self.sums[junction.name], self.active[junction.name] = sums, everywhere

    def __deepcopy__(self, memo: dict[int, Any]) -> Patterns:
        # As for the monitor: a copy of the watched network carries the hooks.
        return self

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far."""
        return {"sums": dict(self.sums), "active": dict(self.active), "passes": dict(self.passes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.sums, self.active, self.passes = dict(state["sums"]), dict(state["active"]), Counter(state["passes"])

    def alike(self, junction: Junction) -> Tensor | None:
        """(neurons, neurons) of bool: the diagonal, and pairs always seen switched alike; None before anything was seen."""
        sums = self.sums.get(junction.name)
        return None if sums is None else sums[:, None] == sums[None, :]

    def shares(self, junction: Junction) -> dict[str, float]:
        """``always_active``, and ``alike``: the share of pairs of different neurons; nothing before anything was seen."""
        sums = self.sums.get(junction.name)
        if sums is None:
            return {}
        number = len(sums)
        counts = torch.unique(sums, return_counts=True)[1].double()
        pairs = ((counts.square().sum() - number) / max(1, number * (number - 1))).item()
        return {"always_active": self.active[junction.name].double().mean().item(), "alike": pairs}
