"""One vocabulary everywhere: a thing has one name in every public signature."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import gracile
from tests.peers import peer

# A name that is not to be used, as a pattern for the whole of it, and what to say instead.
SYNONYMS = {
    r"learning_rate|step_size|rate|stepsize": "lr",
    r"rates|learning_rates|step_sizes": "lrs",
    r"lmbda|lambda_?|lambd|regularisation|regularization": "lam",
    r"((num|n|nb|max|total|number_of)_)?(iterations|iters?)|(num|n|nb|total|number_of|max)_steps": "steps",
    r"((num|n|nb|max|total|number_of)_)epochs": "epochs",
    r"epsilon|epsilons": "eps",
    r"batchsize|bs|minibatch(_size)?": "batch_size",
    r"random_state|rng_seed|random_seed": "seed",
    r"n_classes|nclasses|number_of_classes|class_count": "num_classes",
    r"tol|tolerances|rtol|atol": "tolerance",
    r"n_samples|num_samples": "samples",
    r"n_workers|num_workers|world_size": "workers",
    r"net": "network",
    r"x_label|y_label": "xlabel, ylabel",
    r"weightdecay|wd": "weight_decay",
    r"initiali[z]ation": "initialisation",
    r"optimiser": "optimizer",
    r"nonlinearity|act": "activation",
    r"callbacks?": "observe",
    r"out|outdir|output_dir|directory|dir|output_folder": "folder",
    r"filename|file_name|filepath": "path",
    r"dimension|ndim": "dim",
}


def modules() -> Iterator[ModuleType]:
    """Every module of the package."""
    for found in pkgutil.walk_packages(gracile.__path__, "gracile."):
        if not found.name.endswith("__main__"):
            yield peer(found.name)


def callables() -> Iterator[tuple[str, object]]:
    """Every public function, method and constructor, by its full name."""
    for module in modules():
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(thing):
                yield f"{module.__name__}.{name}", thing
            elif inspect.isclass(thing):
                for key, member in vars(thing).items():
                    plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                    if inspect.isfunction(plain) and (key == "__init__" or key[0] != "_"):
                        yield f"{module.__name__}.{name}" + (f".{key}" if key != "__init__" else ""), plain


def names() -> list[tuple[str, str]]:
    """Every parameter of a public callable, and every field of a settings' model or dataclass."""
    found = {(name, part) for name, one in callables() for part in inspect.signature(one).parameters}
    for module in modules():
        for name, thing in vars(module).items():
            if name.startswith("_") or not inspect.isclass(thing) or thing.__module__ != module.__name__:
                continue
            fields = dict.fromkeys(getattr(thing, "model_fields", ()))
            if dataclasses.is_dataclass(thing):
                fields |= dict.fromkeys(field.name for field in dataclasses.fields(thing))
            found |= {(f"{module.__name__}.{name}", part) for part in fields}
    return sorted(found)


def synonym(part: str) -> str | None:
    """What to say instead of a name; None where it is as it should be."""
    return next((say for pattern, say in SYNONYMS.items() if re.fullmatch(pattern, part)), None)


def test_no_public_signature_uses_a_synonym() -> None:
    known = names()
    assert len(known) > 2000
    wrong = [f"{name}: {part}; say {synonym(part)}" for name, part in known if synonym(part) is not None]
    assert not wrong


# A torch module of the user's own is a model. A network is what joins workers, or what a learner is by its own name; recipes have
# keys of both words.
NETWORKS = ("gracile.workers.", "gracile.layerwise.", "gracile.forward_forward.", "gracile.recipes.")
# Where a module called network is the learner's own.
OWN = ("gracile.layerwise.estimator.", "gracile.forward_forward.", "gracile.recipes.")


def test_a_users_module_is_a_model_in_every_room() -> None:
    wrong = [name for name, part in names() if part in ("network", "networks") and not name.startswith(NETWORKS)]
    assert not wrong


def test_where_a_network_joins_workers_or_is_learnt_a_module_is_a_model_too() -> None:
    wrong = [
        name
        for name, one in callables()
        for part, found in inspect.signature(one).parameters.items()
        if part == "network" and "Module" in str(found.annotation) and not name.startswith(OWN)
    ]
    assert not wrong


@pytest.mark.parametrize(
    "part", ["iterations", "max_iter", "num_steps", "learning_rate", "tol", "random_state", "rate"]
)
def test_the_search_knows_a_synonym(part: str) -> None:
    assert synonym(part) is not None


@pytest.mark.parametrize("part", ["steps", "lr", "lam", "local_steps", "checkpoint_every", "max_bytes"])
def test_the_search_leaves_the_vocabulary_alone(part: str) -> None:
    assert synonym(part) is None


def test_a_public_name_means_one_thing() -> None:
    """Names that rooms export; one that two rooms export is the same object in both."""
    found: dict[str, dict[str, object]] = {}
    for module in pkgutil.iter_modules(gracile.__path__, "gracile."):
        if module.ispkg:
            room = importlib.import_module(module.name)
            for name in getattr(room, "__all__", ()):
                found.setdefault(name, {})[module.name] = getattr(room, name)
    assert len(found) > 150
    twice = {name: sorted(rooms) for name, rooms in found.items() if len({id(one) for one in rooms.values()}) > 1}
    # What a room is read or judged by bears the same name in each: `gracile.data.load`, `gracile.layerwise.load`.
    assert set(twice) <= {"load", "evaluate"}
