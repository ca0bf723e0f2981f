"""One vocabulary everywhere: a thing has one name in every public signature."""

from __future__ import annotations

import inspect
import pkgutil

import gracile
from tests.peers import peer

SYNONYMS = {
    "learning_rate": "lr",
    "step_size": "lr",
    "lmbda": "lam",
    "lambda_": "lam",
    "lambd": "lam",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "num_steps": "steps",
    "n_steps": "steps",
    "epsilon": "eps",
    "batchsize": "batch_size",
    "random_state": "seed",
    "rng_seed": "seed",
    "n_classes": "num_classes",
}


def signatures() -> list[tuple[str, list[str]]]:
    found = []
    for module in pkgutil.walk_packages(gracile.__path__, "gracile."):
        if module.name.endswith("__main__"):
            continue
        loaded = peer(module.name)
        for name, thing in vars(loaded).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module.name:
                continue
            callables = [thing] if inspect.isfunction(thing) else []
            if inspect.isclass(thing):
                callables = [
                    member
                    for key, member in vars(thing).items()
                    if inspect.isfunction(member) and (key == "__init__" or key[0] != "_")
                ]
            found += [(f"{module.name}.{name}", list(inspect.signature(one).parameters)) for one in callables]
    return found


def test_no_public_signature_uses_a_synonym():
    known = signatures()
    assert len(known) > 300
    wrong = [f"{name}({part}): say {SYNONYMS[part]}" for name, parts in known for part in parts if part in SYNONYMS]
    assert wrong == []
