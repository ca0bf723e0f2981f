"""Which weights a method acts on: those of convolutions and linear layers, never biases or normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parallel import DataParallel, DistributedDataParallel

from gracile.core.errors import InputError, nearest


@dataclass(frozen=True)
class Weight:
    """One weight a method acts on.

    Attributes:
        layer: the module's name in the model.
        tensor: the parameter: ``(out, in, ...)``; ``(in, out, ...)`` for a transposed convolution.
        convolution: whether the module is a convolution.
        input_dim: the dimension that runs over input channels or features.
    """

    layer: str
    tensor: nn.Parameter
    convolution: bool
    input_dim: int

    @property
    def name(self) -> str:
        """The parameter's name in the model."""
        return f"{self.layer}.weight" if self.layer else "weight"

    @property
    def output_dim(self) -> int:
        """The dimension that runs over output channels or features."""
        return 1 - self.input_dim


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside DDP, data-parallel or `torch.compile` wrappers; parameters are the same objects."""
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def weights(model: nn.Module, layers: str | Sequence[str] = "all") -> list[Weight]:
    """The weights of a model's convolutions and linear layers, in order of the modules.

    Args:
        model: may be wrapped.
        layers: ``all``, ``conv``, ``linear``, or the names of modules.

    Raises:
        InputError: a name that is no convolution or linear layer; no weight left; a lazy layer that was never called.
    """
    found: list[Weight] = []
    seen: set[int] = set()
    for layer, module in unwrapped(model).named_modules():
        if not isinstance(module, (_ConvNd, nn.Linear)):
            continue
        if isinstance(module.weight, nn.UninitializedParameter):
            raise InputError(f"The layer '{layer}' has no shape yet.", "Call the model once on an example first.")
        # A weight that two modules share counts once; a frozen one is not trained, so it is not split.
        if id(module.weight) in seen or not module.weight.requires_grad:
            continue
        seen.add(id(module.weight))
        assert isinstance(module.weight, nn.Parameter)
        transposed = isinstance(module, _ConvNd) and module.transposed
        found.append(Weight(layer, module.weight, isinstance(module, _ConvNd), 0 if transposed else 1))
    if layers == "conv":
        found = [weight for weight in found if weight.convolution]
    elif layers == "linear":
        found = [weight for weight in found if not weight.convolution]
    elif layers != "all":
        names = [layers] if isinstance(layers, str) else list(layers)
        known = {weight.layer for weight in found}
        for name in names:
            if name not in known:
                raise InputError(f"There is no trainable convolution or linear layer '{name}'.", nearest(name, known))
        found = [weight for weight in found if weight.layer in set(names)]
    if not found:
        raise InputError(
            f"The model has no trainable convolution or linear layer to split (layers={layers!r}).",
            "Unfreeze some, or choose other layers.",
        )
    return found


def memory_order(tensor: Tensor) -> Tensor:
    """A flat view of a tensor in the order it lies in memory, a copy in logical order where it has gaps."""
    if _dense(tensor):
        return tensor.as_strided((tensor.numel(),), (1,))
    return tensor.reshape(-1)


def like(flat: Tensor, tensor: Tensor) -> Tensor:
    """View a flat tensor made by `memory_order` in the shape and layout of `tensor`."""
    if _dense(tensor):
        return flat.as_strided(tensor.shape, tensor.stride(), flat.storage_offset())
    return flat.view(tensor.shape)


def _dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory without gaps or overlaps, in whatever order (channels-last
    does)."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
