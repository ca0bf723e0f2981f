"""What recipes of trained arms measure of their robustness, and arms that other runs have trained already."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable
from typing import Any

import torch
from pydantic import Field
from torch import nn

from gracile.attacks import ATTACKS, ENTRIES, evaluate
from gracile.core.files import write_json
from gracile.core.provenance import environment
from gracile.core.runs import RunFolder
from gracile.core.seeding import generator
from gracile.data import Dataset, batches
from gracile.models import draws_noise
from gracile.recipes.schema import Strict

log = logging.getLogger("gracile")

TITLES = {name: f"{entry.title} %" for name, entry in ENTRIES.items()} | {"worst": "worst case a sample %"}
FINGERPRINT = "fingerprint.json"
TAKEN_OVER = ("arm.json", "layers.json", "model.safetensors", "metrics.jsonl", "robust.json", FINGERPRINT)


class AttackSettings(Strict):
    """Which attacks every arm is held against, on the test split.

    Attributes:
        eps: radius of the l-inf ball.
        attacks: rows of `gracile.attacks.ENTRIES`, with one draw of the network's noise a gradient, as published.
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


def robustness(network: nn.Module, test: Dataset, settings: AttackSettings, part: RunFolder) -> dict[str, Any]:
    """Accuracies in percent under each attack, from ``robust.json`` where the same was measured already.

    Args:
        network: as it is kept.
        test: attacked.
        settings: of the recipe.
        part: the arm's folder.

    Returns:
        ``accuracies`` by entry, with ``worst``, the share of samples that no attack of `attacks` broke; ``warnings``, sentences.
    """
    asked = settings.model_dump()
    file = part.path / "robust.json"
    if file.exists() and (found := json.loads(file.read_text()))["settings"] == asked:
        return found
    device = next(network.parameters()).device
    # All samples of a class may lie together: the first ones are no sample of the split.
    order = torch.randperm(len(test), generator=generator(settings.seed, "attack", "samples"))
    chosen = test.subset(order[: settings.samples])
    x, y = next(batches(chosen, len(chosen)))
    noisy = draws_noise(network)
    accuracies: dict[str, float] = {}
    warned: list[str] = []
    for names, draws in ((settings.attacks, 1), (settings.expected, settings.draws if noisy else 1)):
        if not names:
            continue
        found = evaluate(
            network, x.to(device), y.to(device), eps=settings.eps, attacks=names, options=settings.options,
            limits=settings.limits, draws=draws, seed=settings.seed, progress=log.info,
        )  # fmt: skip
        for score in found.scores:
            if score.name != "clean":
                accuracies.setdefault(score.name, score.percent)
        warned += [warning for warning in found.warnings if warning not in warned]
    result = {"settings": asked, "accuracies": accuracies, "warnings": warned}
    write_json(file, result)
    return result


def tried_on(settings: AttackSettings, test: int) -> str:
    """A sentence: which samples, of `test`, the attacks were tried on, and with which settings of their own."""
    samples = min(settings.samples or test, test)
    tried = dict.fromkeys([*settings.attacks, *settings.expected])
    fewer = [f"{ENTRIES[name].title} on the first {count} of them" for name, count in settings.limits.items()
             if name in tried and count < samples]  # fmt: skip
    fewer += [f"{ENTRIES[name].title} with {', '.join(f'{key}={value}' for key, value in changed.items())}"
              for name, changed in settings.options.items() if name in tried]  # fmt: skip
    averaged = [ENTRIES[name].title for name in settings.expected]
    parts = [f"attacked in a ball of {settings.eps:.4g} on {samples} test samples", *fewer]
    if averaged:
        parts.append(f"{' and '.join(averaged)} over {settings.draws} draws of a network's noise")
    worst = " and ".join(ENTRIES[name].title for name in settings.attacks if ATTACKS[ENTRIES[name].attack].norms)
    return ", ".join([*parts, f"the worst case over {worst}"] if worst else parts)


def fingerprint(settings: dict[str, Any]) -> str:
    """What tells whether two arms were trained alike."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def take_over(part: RunFolder, mark: str) -> None:
    """Copy an arm that another run beside this one has trained from the very same settings, if there is one."""
    for file in sorted(part.path.parent.parent.glob(f"*/*/{FINGERPRINT}")):
        if file.parent == part.path or not (file.parent / "arm.json").exists():
            continue
        found = json.loads(file.read_text())
        if found["fingerprint"] != mark:
            continue
        log.info("%s is taken over from %s (commit %s)", part.path.name, file.parent, found["commit"])
        # arm.json comes last: it says that the arm is whole.
        for name in reversed(TAKEN_OVER):
            if (file.parent / name).exists():
                shutil.copyfile(file.parent / name, part.path / name)
        return


def other_commits(parts: Iterable[RunFolder]) -> list[str]:
    """A sentence for each other version of gracile that trained some of these arms: in an earlier sitting, or in a run beside this one."""
    now, found = environment()["commit"], {}
    for part in parts:
        then = json.loads((part.path / FINGERPRINT).read_text())["commit"]
        if then != now:
            found.setdefault(then, []).append(part.path.name)
    return [f"trained at commit {str(then)[:12]}: {', '.join(names)}" for then, names in found.items()]


def leave_mark(part: RunFolder, mark: str) -> None:
    """Say from which settings, and by which version, this arm was trained."""
    write_json(part.path / FINGERPRINT, {"fingerprint": mark, "commit": environment()["commit"]})
