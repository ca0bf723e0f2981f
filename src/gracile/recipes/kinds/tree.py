"""Recipes of kind `tree`: lemma 1 on small networks, and the picture of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from gracile.core.runs import RunFolder
from gracile.core.seeding import generator
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.report.figures import new_figure, save_all


class Settings(Strict):
    """What a tree recipe may set.

    Attributes:
        networks: rows of `gracile.dynamics.example_networks.NETWORKS`.
        examples: inputs each is evaluated on.
        counted: widths of a ReLU network whose paths are counted without being built.
        seed: of weights and inputs.
    """

    networks: list[str]
    examples: int = 64
    counted: list[int]
    seed: int = 0


def execute(settings: Settings, folder: RunFolder) -> Outcome:
    """Build every tree and compare it with its network; seconds."""
    from gracile.dynamics import count_paths, example_networks, pictures, tree_decomposition

    rows: list[dict[str, Any]] = []
    worst, signs = 0.0, 1.0
    for name in settings.networks:
        model = example_networks.network(name, settings.seed)
        x, _ = example_networks.regression(name, settings.examples, settings.seed)
        tree = tree_decomposition(model, x)
        with torch.no_grad():
            outputs = model(x)[:, 0].numpy()
        error = float(np.abs(tree.evaluate(x) - outputs).max())
        worst = max(worst, error)
        signs = min(signs, float(np.isin(tree.weights, (-1, 1)).mean()))
        rows.append({"network": name, "paths": tree.num_paths, "vertices": len(tree.parent), "largest error": error})
    layers: list[nn.Module] = []
    for before, after in zip(settings.counted, settings.counted[1:], strict=False):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    number = count_paths(nn.Sequential(*layers[:-1]), torch.zeros(1, settings.counted[0]))
    rows.append({"network": "-".join(map(str, settings.counted)), "paths": number})
    product = int(np.prod([int(one) for one in settings.counted], dtype=object))
    drawn = {"tree": pictures.tree_drawing(small_tree(settings.seed), new_figure(5.5, 4.6))}
    values = {"largest_error": worst, "share_of_signs": signs, "count_error": float(number - product)}
    return Outcome(rows, values, save_all(drawn, folder.path / "plots"))


def small_tree(seed: int) -> Any:
    """The tree of a 2-2-1 ReLU network without biases."""
    from gracile.dynamics import tree_decomposition

    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    draw = generator(seed, "2-2-1")
    with torch.no_grad():
        for one in model.parameters():
            one.copy_(torch.randn(one.shape, generator=draw, dtype=torch.float64))
    return tree_decomposition(model)
