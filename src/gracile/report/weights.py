"""Figures of trained weights: how many are small, what a layer's kernels look like, which channels are zero."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from gracile.core.errors import InputError, nearest, pick
from gracile.core.figures import new_figure, save
from gracile.core.files import write_json
from gracile.core.tensor_files import read_tensors
from gracile.report.reading import Arm, Run, read

Weights = Mapping[str, np.ndarray]  # by parameter name, each at least two-dimensional
SMALL = 1e-3
# A channel is zero below this l2 norm.
ZERO = 1e-15
# Norms below this have a panel of their own, as in figure 4.5.
NEAR = 2e-7


def draw_weights(
    run: Path | str, folder: Path | str | None = None, *, arms: Collection[str] = (), layer: str | None = None
) -> dict[str, Path]:
    """Draw the weights of a run's trained networks.

    Args:
        run: the run's folder.
        folder: where the files go; ``weights`` in the run's folder by default.
        arms: names of arms; all that are trained if empty.
        layer: the end of a convolution's name, for the kernels; by default the last of its largest convolutions.

    Returns:
        What is drawn, to its file.

    Raises:
        InputError: no such run, arm or layer, or nothing is trained yet.
    """
    return draw(read(Path(run)), Path(folder or Path(run) / "weights"), only=arms, layer=layer)


def draw(run: Run, folder: Path, *, only: Collection[str] = (), layer: str | None = None) -> dict[str, Path]:
    """Draw all figures a run has the weights for, and write ``weights.json``: the counts that stand in them.

    Args:
        run: as read; of each arm the first seed that is trained is drawn.
        folder: where the files go.
        only: names of arms; all that are trained if empty.
        layer: the end of a convolution's name, for the kernels; by default the last of its largest convolutions.

    Returns:
        What is drawn, to its file.

    Raises:
        InputError: no such arm or layer, or nothing is trained yet.
    """
    named = {arm.name: arm for arm in run.arms}
    chosen = {name: pick(named, name, "arm") for name in only} if only else named
    found = {name: read_weights(file) for name, arm in chosen.items() if (file := _file(arm)) is not None}
    if not found:
        raise InputError(f"The run in {run.path} has no trained arm of these.", "Finish it, or name another arm.")
    drawn = {"weights": histograms(found, folder / "all-weights.svg")}
    numbers: dict[str, Any] = {
        name: {"weights": sum(w.size for w in one.values()), "below_1e-3": small_share(one)}
        for name, one in found.items()
    }
    one_layer = {name: _layer(one, layer) for name, one in found.items() if layer or _convolutions(one)}
    if one_layer:
        short = {name: {key: one} for name, (key, one) in one_layer.items()}
        drawn["weights of one layer"] = histograms(short, folder / "layer-weights.svg")
        drawn["kernels"] = kernels({name: one for name, (_, one) in one_layer.items()}, folder / "kernels.svg")
        norms = {name: _convolutions(found[name]) for name in one_layer}
        drawn["channel norms"] = channel_norms(norms, folder / "channel-norms.svg")
        for name, (key, one) in one_layer.items():
            all_norms = input_norms(norms[name])
            numbers[name] |= {
                "layer": key, "layer_below_1e-3": small_share({key: one}), "layer_deviation": float(one.std()),
                "channels": len(all_norms), "zero_channels": int((all_norms < ZERO).sum()),
            }  # fmt: skip
    lines = _sparsities(run, chosen.values())
    if lines:
        drawn["channel sparsity against lam"] = sparsity_against_lam(lines, folder / "sparsity-lam.svg")
    write_json(folder / "weights.json", numbers)
    return drawn


def read_weights(file: Path) -> dict[str, np.ndarray]:
    """The weights of convolutions and linear layers in a safetensors file, by name."""
    _, state = read_tensors(file, "Restore a copy, or train the arm again.")
    return {name: one.float().numpy() for name, one in state.items() if name.endswith("weight") and one.ndim > 1}


def _file(arm: Arm) -> Path | None:
    """The first seed's weights of an arm."""
    files = (one.folder / "model.safetensors" for one in arm.trained)
    return next((file for file in files if file.is_file()), None)


def _convolutions(weights: Weights) -> dict[str, np.ndarray]:
    return {name: w for name, w in weights.items() if w.ndim == 4}


def _layer(weights: Weights, wanted: str | None) -> tuple[str, np.ndarray]:
    """One convolution; of an ensemble the first member's."""
    known = {name.removesuffix(".weight"): w for name, w in _convolutions(weights).items()}
    if wanted is None:
        largest = max(w.size for w in known.values())
        first = {name: w for name, w in known.items() if ".members." not in name or ".members.0." in name}
        return [(name, w) for name, w in first.items() if w.size == largest][-1]
    for name, w in known.items():
        if name.endswith(wanted):
            return name, w
    raise InputError(f"No convolution's name ends in '{wanted}'.", nearest(wanted, known))


def _sparsities(run: Run, arms: Collection[Arm]) -> dict[str, dict[float, list[float]]]:
    """By network, lam to channel sparsity; only networks with two lam or more."""
    lines: dict[str, dict[float, list[float]]] = {}
    for arm in arms:
        lam, found = arm.settings.get("options", {}).get("lam"), arm.numbers("channel_sparsity")
        if arm.sparse and lam is not None and found:
            model = arm.settings.get("model") or run.settings.get("model", {})
            size = [f"{key} {value}" for key, value in model.get("options", {}).items() if key in ("n", "depth")]
            lines.setdefault(" ".join([str(model.get("name", "network")), *size]), {})[float(lam)] = found
    return {name: points for name, points in lines.items() if len(points) > 1}


def small_share(weights: Weights, limit: float = SMALL) -> float:
    """Share in [0, 1] of weights whose magnitude is below `limit`, zeros included."""
    return sum(int((np.abs(w) < limit).sum()) for w in weights.values()) / sum(w.size for w in weights.values())


def histograms(arms: Mapping[str, Weights], path: Path) -> Path:
    """Histogram of each arm's weights beside the others', with the share below 1e-3 (figures 1.2 and 4.2).

    Args:
        arms: arm name to its weights, all of them or those of one layer.
        path: the file, ``.svg`` or ``.png``.
    """
    flat = {name: np.concatenate([w.ravel() for w in weights.values()]) for name, weights in arms.items()}
    largest = max(float(np.quantile(np.abs(w), 0.995)) for w in flat.values()) or 1.0
    figure = new_figure(3.6 * min(4, len(flat)) + 0.6, 3.0 * math.ceil(len(flat) / 4))
    grid = figure.subplots(math.ceil(len(flat) / 4), min(4, len(flat)), squeeze=False, sharex=True, sharey=True)
    for axes, name in _spread(grid, flat):
        share = 100 * small_share(arms[name])
        axes.hist(flat[name], bins=list(np.linspace(-largest, largest, 81)), density=True, color="C0")
        axes.set_title(f"{name}: {share:.2f} % below {SMALL:g}", fontsize=9)
        axes.set(xlabel="weight", yscale="log")
    grid[0, 0].set_ylabel("density")
    return save(figure, path)


def kernels(arms: Mapping[str, np.ndarray], path: Path) -> Path:
    """A layer's kernels as an image, filters down and input channels across, on one scale of colour (figures 4.1, A.1, A.2).

    Args:
        arms: arm name to a weight (filters, channels, height, width).
        path: the file, ``.svg`` or ``.png``.
    """
    largest = max(float(np.quantile(np.abs(w), 0.999)) for w in arms.values()) or 1.0
    tiled = {name: w.transpose(0, 2, 1, 3).reshape(w.shape[0] * w.shape[2], -1) for name, w in arms.items()}
    # As wide as the widest image on 4 inches of height, with room for its name.
    width = 0.4 + 4.0 * min(1.5, max(0.4, *(image.shape[1] / image.shape[0] for image in tiled.values())))
    columns, rows = min(4, len(arms)), math.ceil(len(arms) / 4)
    figure = new_figure(width * columns + 1.0, 4.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    image = None
    for axes, name in _spread(panels, arms):
        filters, channels = arms[name].shape[:2]
        image = axes.imshow(tiled[name], cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        axes.set(title=name, xticks=[], yticks=[], xlabel=f"{channels} input channels", ylabel=f"{filters} filters")
    assert image is not None
    figure.colorbar(image, ax=list(panels.ravel()), shrink=0.8, label="weight")
    return save(figure, path)


def channel_norms(arms: Mapping[str, Weights], path: Path) -> Path:
    """Histogram of input channels' l2 norms, whole and near zero, with the count of zeros (figure 4.5).

    Args:
        arms: arm name to the weights of its convolutions.
        path: the file, ``.svg`` or ``.png``.
    """
    norms = {name: input_norms(weights) for name, weights in arms.items()}
    largest = max(float(found.max()) for found in norms.values()) or 1.0
    figure = new_figure(9.0, 2.4 * len(norms) + 0.4)
    panels = figure.subplots(len(norms), 2, squeeze=False)
    for (whole, near), (name, found) in zip(panels, norms.items(), strict=True):
        zeros = int((found < ZERO).sum())
        for axes, shown, limit in ((whole, found, largest), (near, found[found < NEAR], NEAR)):
            counts, *_ = axes.hist(shown, bins=list(np.linspace(0, limit, 51)), color="C0")
            # A few channels are read off a plain scale, hundreds beside single ones off a logarithm.
            if max(counts) > 20:
                axes.set_yscale("symlog")
            else:
                axes.set_ylim(0, max(1.0, 1.1 * max(counts)))
                axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        whole.set(xlabel="channel norm", ylabel="channels", title=f"{name}: {zeros} of {len(found)} zero")
        near.set(xlabel="channel norm", xlim=(0, NEAR), title=f"{name}, below {NEAR:g}")
    return save(figure, path)


def input_norms(weights: Weights) -> np.ndarray:
    """The l2 norm of every input channel of every convolution, one after the other."""
    parts = [np.sqrt(np.square(w.astype(np.float64)).sum(axis=(0, *range(2, w.ndim)))) for w in weights.values()]
    return np.concatenate(parts)


def sparsity_against_lam(lines: Mapping[str, Mapping[float, Sequence[float]]], path: Path) -> Path:
    """Channel sparsity against lam, mean and standard deviation over seeds (figures 4.3 and 4.4).

    Args:
        lines: by network, lam to the percent of zero channels in each seed's run.
        path: the file, ``.svg`` or ``.png``.
    """
    figure = new_figure()
    axes = figure.subplots()
    for name, points in lines.items():
        lams = sorted(points)
        means = [statistics.fmean(points[lam]) for lam in lams]
        spreads = [statistics.stdev(points[lam]) if len(points[lam]) > 1 else 0.0 for lam in lams]
        axes.errorbar(lams, means, yerr=spreads, marker="o", capsize=3, label=name)
    axes.set(xlabel="lam", ylabel="zero channels, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return save(figure, path)


def _spread(grid: np.ndarray, names: Mapping[str, object]) -> list[tuple]:
    panels = list(grid.ravel())
    for empty in panels[len(names) :]:
        empty.set_visible(False)
    return list(zip(panels, names, strict=False))
