"""Recipes of kind `tree`: lemma 1 on small networks, and the picture of one."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from gracile.core.figures import new_figure
from gracile.core.runs import RunFolder
from gracile.core.seeding import generator
from gracile.dynamics import TreeNetwork, count_paths, example_networks, pictures, tree_decomposition
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict


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


@torch.no_grad()
def execute(settings: Settings, folder: RunFolder) -> Outcome:
    """Build every tree and compare it with its network."""
    rows, signs = [], []
    for name in settings.networks:
        model = example_networks.network(name, settings.seed)
        x, _ = example_networks.regression(name, settings.examples, settings.seed)
        tree = tree_decomposition(model, x)
        error = float(np.abs(tree.evaluate(x) - model(x)[:, 0].numpy()).max())
        signs.append(float(np.isin(tree.weights, (-1, 1)).mean()))
        rows.append({"network": name, "paths": tree.num_paths, "vertices": len(tree.parent), "largest error": error})
    worst = max((row["largest error"] for row in rows), default=0.0)
    layers = [layer for sizes in pairwise(settings.counted) for layer in (nn.Linear(*sizes, bias=False), nn.ReLU())]
    number = count_paths(nn.Sequential(*layers[:-1]), torch.zeros(1, settings.counted[0]))
    rows.append({"network": "-".join(map(str, settings.counted)), "paths": number})
    drawn = pictures.tree_drawing(small_tree(settings.seed), new_figure(5.5, 4.6))
    off = float(number - math.prod(settings.counted))
    values = {"largest_error": worst, "share_of_signs": min(signs, default=1.0), "count_error": off}
    return Outcome(rows, values, {"tree": drawn})


def small_tree(seed: int) -> TreeNetwork:
    """The tree of a 2-2-1 ReLU network without biases."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    draw = generator(seed, "2-2-1")
    for one in model.parameters():
        one.data = torch.randn(one.shape, generator=draw, dtype=torch.float64)
    return tree_decomposition(model)
