"""What recipes of trained arms measure of their robustness."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

import torch
from pydantic import Field
from torch import nn

from gracile.attacks import ATTACKS, ENTRIES, evaluate, preset
from gracile.attacks.table import Row
from gracile.attacks.victim import DRAWS
from gracile.core.files import write_json
from gracile.core.runs import RunFolder
from gracile.core.seeding import generator
from gracile.core.user_code import taken
from gracile.data import Dataset, batches
from gracile.models import draws_noise
from gracile.recipes.own import is_own, own
from gracile.recipes.schema import Strict

log = logging.getLogger("gracile")


class AttackSettings(Strict):
    """Which attacks every arm is held against, on the test split.

    Attributes:
        eps: radius of the l-inf ball.
        attacks: rows of `gracile.attacks.ENTRIES`, or ``FILE.py:NAME``, functions of the user's own; with one draw of the
            network's noise per gradient, as published.
        expected: rows tried with `draws` draws of it, where the network has any.
        draws: gradients averaged (expectation over transformation).
        samples: drawn from the test split; None for all.
        options: settings by entry.
        limits: samples an entry is tried on, the first ones.
        seed: of samples and attacks; the same for all arms.
    """

    eps: float = 8 / 255
    attacks: list[str] = Field(default_factory=lambda: ["fgsm", "ifgsm", "cw_paper", "cw"])
    expected: list[str] = Field(default_factory=list)
    draws: int = 10
    samples: int | None = None
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    limits: dict[str, int] = Field(default_factory=dict)
    seed: int = 0


def titles() -> dict[str, str]:
    """What the table calls the accuracy under each attack."""
    return {name: f"{preset(name).title} %" for name in {**ENTRIES, **ATTACKS}} | {"worst": "worst case a sample %"}


def know_own(names: Iterable[str]) -> None:
    """Give attacks of the user's own a row beside the others.

    Args:
        names: of attacks; those named ``FILE.py:NAME`` are functions ``attack(model, x, y, *, eps, ...) -> x_adv`` in the
            l-inf ball, which are told `draws` and `seed` where they ask for them.
    """
    for name in names:
        if is_own(name) and name not in ATTACKS:
            function = own(name, "attack")
            attack = lambda model, x, y, function=function, **given: function(model, x, y, **taken(function, given))
            ATTACKS[name] = Row(attack, norms=("linf",), targeted=False)


def robustness(network: nn.Module, test: Dataset, settings: AttackSettings, part: RunFolder) -> dict[str, Any]:
    """Accuracies in percent under each attack, from ``robust.json`` where the same was measured already.

    Args:
        network: as it is kept.
        test: attacked.
        settings: of the recipe.
        part: the arm's folder.

    Returns:
        ``accuracies`` by entry, with ``worst``, the share of samples that none of `worst_of` broke; ``judged``, by entry the fresh
        draws that each verdict is the mean of; ``stands``, by entry a digit a sample, 1 where it is right; ``warnings``, sentences.
    """
    know_own((*settings.attacks, *settings.expected))
    asked = settings.model_dump()
    file = part.path / "robust.json"
    if file.exists() and (found := json.loads(file.read_text()))["settings"] == asked:
        return _with_worst(found, settings)
    device = next(network.parameters()).device
    # All samples of a class may lie together: the first ones are no sample of the split.
    order = torch.randperm(len(test), generator=generator(settings.seed, "attack", "samples"))
    chosen = test.subset(order[: settings.samples])
    x, y = next(batches(chosen, len(chosen)))
    noisy = draws_noise(network)
    accuracies: dict[str, float] = {}
    warned: dict[str, list[str]] = {}
    judged: dict[str, int] = {}
    stands: dict[str, str] = {}
    asked_for = [(settings.attacks, 1), (settings.expected, settings.draws if noisy else 1)]
    sets = [(names, draws) for names, draws in asked_for if names]
    for names, draws in sets:
        found = evaluate(
            network, x.to(device), y.to(device), eps=settings.eps, attacks=names, options=settings.options,
            limits=settings.limits, draws=draws, seed=settings.seed, progress=log.info,
        )  # fmt: skip
        for score in found.scores:
            # The worst case is told over both sets, below.
            if score.name not in ("clean", "worst"):
                accuracies.setdefault(score.name, score.percent)
                judged.setdefault(score.name, found.judged)
        for name, which in found.stands.items():
            if name != "worst":
                stands.setdefault(name, "".join(map(str, which.int().tolist())))
        for warning in dict.fromkeys(found.warnings):
            warned.setdefault(warning, []).append(" and ".join(preset(name).title for name in names))
    # What holds for some of the attacks alone says for which.
    warnings = [text if len(by) == len(sets) else f"{by[0]}: {text}" for text, by in warned.items()]
    measured = {
        "settings": asked, "accuracies": accuracies, "judged": judged, "stands": stands, "warnings": warnings,
    }  # fmt: skip
    result = _with_worst(measured, settings)
    write_json(file, result)
    return result


def worst_of(settings: AttackSettings, samples: int) -> list[str]:
    """The attacks that the worst case a sample is over: those that keep to the ball and are tried on all of so many samples."""
    tried = dict.fromkeys([*settings.attacks, *settings.expected])
    return [
        name for name in tried if ATTACKS[preset(name).attack].norms and settings.limits.get(name, samples) >= samples
    ]


def _with_worst(found: dict[str, Any], settings: AttackSettings) -> dict[str, Any]:
    """What was measured with the worst case of this definition, also where an earlier one stands; none where it is over one attack."""
    if "stands" not in found:
        return found
    kept = {
        key: {one: what for one, what in found[key].items() if one != "worst"}
        for key in ("accuracies", "judged", "stands")
    }
    names = worst_of(settings, len(kept["stands"]["clean"]))
    if len(names) > 1:
        columns = zip(*(kept["stands"][name] for name in names), strict=True)
        kept["stands"]["worst"] = "".join("1" if set(digits) == {"1"} else "0" for digits in columns)
        kept["accuracies"]["worst"] = 100 * kept["stands"]["worst"].count("1") / len(kept["stands"]["worst"])
        kept["judged"]["worst"] = min(kept["judged"][name] for name in names)
    return found | kept


def tried_on(settings: AttackSettings, test: int) -> str:
    """A sentence: which samples, of `test`, the attacks were tried on, with which settings, and how a verdict was come to."""
    know_own((*settings.attacks, *settings.expected))
    samples = min(settings.samples or test, test)
    tried = dict.fromkeys([*settings.attacks, *settings.expected])
    fewer = [f"{preset(name).title} on the first {count} of them" for name, count in settings.limits.items()
             if name in tried and count < samples]  # fmt: skip
    fewer += [f"{preset(name).title} with {', '.join(f'{key}={value}' for key, value in changed.items())}"
              for name, changed in settings.options.items() if name in tried]  # fmt: skip
    averaged = [preset(name).title for name in settings.expected]
    parts = [f"attacked in a ball of {settings.eps:.4g} on {samples} test samples", *fewer]
    if averaged:
        parts.append(f"{' and '.join(averaged)} over {settings.draws} draws of a network's noise")
    worst = [preset(name).title for name in worst_of(settings, samples)]
    if len(worst) > 1:
        parts.append(f"the worst case over {' and '.join(worst)}")
    parts.append(f"verdicts on a network that draws random numbers by the mean of {DRAWS} fresh draws")
    if averaged and settings.draws > DRAWS:
        parts.append(f"of {settings.draws} under {' and '.join(averaged)}")
    return ", ".join(parts)
