"""Which weights a method acts on: every weight matrix and kernel, never biases or normalisation, unless named."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim.swa_utils import AveragedModel

from gracile.core.errors import InputError, nearest
from gracile.core.shards import local, reshard

# Modules by what their weights do; `layers` may name a kind. The first row that fits counts.
KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (_ConvNd,),
    "linear": (nn.Linear, nn.Bilinear, nn.MultiheadAttention),
    "embedding": (nn.Embedding, nn.EmbeddingBag),
    "recurrent": (nn.RNNBase, nn.RNNCellBase),
}
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
WEIGHT_NORM = "behind weight_norm"
# Modules that wrappers put in the way of a name.
WRAPPED = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod")


@dataclass(frozen=True)
class Weight:
    """One weight a method acts on, looked up by its name whenever it is used: the parameter behind it may be replaced.

    Attributes:
        model: the model it belongs to.
        name: the parameter's name in the model.
        layer: what to call it in messages and tables: the module's name, or the parameter's where a module has several.
        kind: a row of `KINDS`, or ``other``.
        input_dim: the dimension that runs over input channels or features.
        shape: when it was found: ``(out, in, ...)``; ``(in, out, ...)`` for a transposed convolution or an embedding.
    """

    model: nn.Module = field(repr=False, compare=False)
    name: str
    layer: str
    kind: str
    input_dim: int
    shape: torch.Size

    @property
    def tensor(self) -> nn.Parameter:
        """The parameter.

        Raises:
            InputError: the model has none of this name any more.
        """
        *path, key = self.name.split(".")
        module: nn.Module | None = self.model
        for part in path:
            while part not in module._modules and (inner := _inside(module)) is not None:
                module = inner
            module = module._modules.get(part)
            if module is None:
                break
        while module is not None and key not in module._parameters:
            module = _inside(module)
        found = None if module is None else module._parameters[key]
        if found is None:
            raise InputError(
                f"The model has no parameter '{self.name}' any more.",
                "Build the splitting or pruning anew after changing layers, and attach that.",
            )
        return found

    @property
    def convolution(self) -> bool:
        """Whether it is a convolution's."""
        return self.kind == "conv"

    @property
    def flattened(self) -> bool:
        """Whether FSDP of the first kind holds it as a stretch of a vector, in which no group can be told."""
        return self.kind != "other" and "bias" not in self.layer and self.tensor.ndim < 2

    @property
    def output_dim(self) -> int:
        """The dimension that runs over output channels or features."""
        return 1 - self.input_dim


def _inside(module: nn.Module) -> nn.Module | None:
    return next((inner for name in WRAPPED if (inner := module._modules.get(name)) is not None), None)


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside DDP, data-parallel, averaging or `torch.compile` wrappers, with the same parameters."""
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel, AveragedModel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPED)


def weights(model: nn.Module, layers: str | Sequence[str] = "all") -> list[Weight]:
    """The trainable weights of a model, in order of the modules.

    Weights of convolutions, linear and recurrent layers, attention and embeddings, and every other parameter that is a
    matrix. Behind `spectral_norm` or `torch.nn.utils.prune` it is the original, whose zeros are the weight's.
    `weight_norm` is left alone: it divides by the norm of each row, and of a row of zeros it makes NaN.

    Args:
        model: may be wrapped.
        layers: ``all``, a kind (``conv``, ``linear``, ``embedding``, ``recurrent``), or names: of a module, for all
            weights in it, or of any trainable parameter, also a bias.

    Raises:
        InputError: a name without a trainable weight; no weight left; a lazy layer that was never called.
    """
    model = unwrapped(model)
    candidates = list(_candidates(model))
    found = [one for one in candidates if one.reason is None]
    if isinstance(layers, str) and layers in KINDS:
        found = [one for one in found if one.weight.kind == layers]
    elif layers != "all":
        names = [layers] if isinstance(layers, str) else list(layers)
        chosen = {name: _named(name, candidates) for name in names}
        for name, ones in chosen.items():
            if not ones:
                raise InputError(
                    f"There is no trainable convolution or linear layer '{name}', nor another trainable weight.",
                    nearest(name, {one.weight.layer for one in found}),
                )
        picked = {one.weight.name for ones in chosen.values() for one in ones}
        found = [one for one in candidates if one.weight.name in picked]
    if not found:
        raise InputError(
            f"The model has no trainable convolution or linear layer to split (layers={layers!r}), nor another weight.",
            "Unfreeze some, or choose other layers.",
        )
    return [one.weight for one in found]


def left_out(model: nn.Module, found: Sequence[Weight]) -> dict[str, int]:
    """How many parameters of a model are not among the weights found, by reason, the largest number first."""
    acted = {weight.name for weight in found}
    counts: dict[str, int] = {}
    for one in _candidates(unwrapped(model)):
        if one.weight.name not in acted:
            reason = one.reason or "in layers not chosen"
            counts[reason] = counts.get(reason, 0) + one.weight.shape.numel()
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


@dataclass(frozen=True)
class _Candidate:
    """A parameter, and why it is left alone by default; None if it is not."""

    weight: Weight
    reason: str | None
    trainable: bool


def _named(name: str, candidates: list[_Candidate]) -> list[_Candidate]:
    """What a name stands for: that parameter, or every weight in that module."""
    exact = [one for one in candidates if one.trainable and name in (one.weight.name, plain_name(one.weight.name))]
    return exact or [
        one
        for one in candidates
        if one.reason is None and (one.weight.layer == name or one.weight.name.startswith(f"{name}."))
    ]


def _candidates(model: nn.Module) -> Iterator[_Candidate]:
    """All parameters, each once: one that several modules share belongs to the first."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if isinstance(parameter, nn.UninitializedParameter):
                raise InputError(f"The layer '{path}' has no shape yet.", "Call the model once on an example first.")
            yield _candidate(model, path, module, key, parameter)


def _candidate(model: nn.Module, path: str, module: nn.Module, key: str, parameter: nn.Parameter) -> _Candidate:
    name, reason = f"{path}.{key}" if path else key, None
    owner, tensor, home = module, key, path
    if isinstance(module, ParametrizationList):
        # It lies at <layer>.parametrizations.<tensor>.
        home, _, tensor = re.sub(r"(^|\.)parametrizations\.", r"\1", path).rpartition(".")
        owner = model.get_submodule(home)
        reason = _behind(module)
    elif key.endswith("_orig"):
        tensor = key.removesuffix("_orig")
    elif key[-2:] in ("_v", "_g") and {f"{key[:-2]}_v", f"{key[:-2]}_g"} <= set(module._parameters):
        reason = WEIGHT_NORM
    kind = next((kind for kind, types in KINDS.items() if isinstance(owner, types)), "other")
    # GPT-2's linear layers.
    transposed_linear = (type(owner).__name__, hasattr(owner, "nf")) == ("Conv1D", True)
    kind = "linear" if transposed_linear else kind
    transposed = isinstance(owner, _ConvNd) and owner.transposed
    flat = parameter.ndim < 2
    input_first = flat or transposed or transposed_linear or kind == "embedding"
    if reason is None:
        reason = _spared(owner, tensor, parameter, kind)
    if not parameter.requires_grad:
        reason = "frozen"
    layer = home if tensor == "weight" else f"{home}.{tensor}" if home else tensor
    weight = Weight(model, name, layer, kind, 0 if input_first else 1, parameter.shape)
    return _Candidate(weight, reason, parameter.requires_grad)


def _behind(parametrization: ParametrizationList) -> str | None:
    """Why a tensor behind a parametrisation is left alone: its zeros are not the weight's."""
    only = parametrization[0] if len(parametrization) == 1 else None
    if isinstance(only, _WeightNorm):
        return WEIGHT_NORM
    return None if isinstance(only, _SpectralNorm) else "behind a parametrisation"


def _spared(owner: nn.Module, tensor: str, parameter: Tensor, kind: str) -> str | None:
    """Why a parameter is no weight; None if it is one."""
    norm = isinstance(owner, NORMS) or re.search(r"norm(\dd)?$", type(owner).__name__.lower()) is not None
    # Of a layer that is known every other parameter is a weight, also where FSDP has flattened it.
    matrix = kind != "other" or sum(size > 1 for size in parameter.shape) > 1
    if norm or "bias" in tensor or not matrix:
        return "biases, norms and other vectors"
    return None


def check_not_flattened(found: Sequence[Weight]) -> None:
    """Refuse weights of which shape and neighbours are lost.

    Raises:
        InputError: FSDP of the first kind has flattened one.
    """
    for weight in found:
        if weight.flattened:
            raise InputError(
                f"FullyShardedDataParallel has flattened '{weight.name}', and no group or block can be told in it.",
                "In place of it use fully_shard, or split single weights by a penalty, such as l0.",
            )


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that keeps weights computed from others (`weight_norm`, `prune`), as torch cannot."""
    memo: dict[int, Tensor] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def apply_zeros(module: nn.Module, gone: dict[str, Tensor]) -> None:
    """Zero weights of a module, by name; masks broadcast to them.

    Raises:
        InputError: it lacks one, or has it in another shape.
    """
    module = unwrapped(module)
    reshard(module)
    named = {plain_name(name): parameter for name, parameter in module.named_parameters(remove_duplicate=False)}
    for name, mask in gone.items():
        parameter = named.get(plain_name(name))
        if parameter is None or parameter.ndim != mask.ndim or mask.expand_as(mask).shape != parameter.shape:
            what = "no parameter" if parameter is None else f"another shape of '{name}', {tuple(parameter.shape)}, than"
            raise InputError(f"The module has {what} '{name}'.", "Give one of the same architecture.")
        local(parameter.detach()).masked_fill_(mask, 0.0)


def memory_order(tensor: Tensor) -> Tensor:
    """A flat view of a tensor in the order it lies in memory, a copy in logical order where it has gaps."""
    if _dense(tensor):
        return tensor.as_strided((tensor.numel(),), (1,))
    return tensor.reshape(-1)


def memory_orders(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor] | None:
    """Flat views of two tensors in the order they lie in memory, entry beside entry; None where they do not lie alike."""
    if one.stride() != other.stride() or not _dense(one):
        return None
    return memory_order(one), memory_order(other)


def like(flat: Tensor, tensor: Tensor) -> Tensor:
    """View a flat tensor made by `memory_order` in the shape and layout of `tensor`."""
    if _dense(tensor):
        return flat.as_strided(tensor.shape, tensor.stride(), flat.storage_offset())
    return flat.view(tensor.shape)


def _dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory without gaps, in whatever order (channels-last does)."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
