"""In which precision the passes of training run: chosen by a rule, so that the same run on the same machine has the same bits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from gracile.core.learning_rule import LearningRule
from gracile.training.adversarial import CrossEntropy, Objective

Precision = Literal["auto", "float32", "bf16"]
Taken = Literal["float32", "bf16"]

# Any of these multiplies bf16 without turning it into float32 first.
CAPABILITIES = ("avx512_bf16", "amx_bf16")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# With these a step took up to 1.5 times as long in bf16; with convolutions and batch-norm 0.5 to 0.96 of the time.
SLOW = (nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)


def processor_has_bf16() -> bool:
    """Whether this processor multiplies bf16 by instructions of its own; False too where torch is too old to say."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkldnn.is_available() and any(known.get(name, False) for name in CAPABILITIES)


def choose(
    precision: Precision, model: nn.Module, learning: LearningRule | Objective, device: torch.device
) -> tuple[Taken, str]:
    """The precision taken, and why.

    Args:
        precision: ``float32`` and ``bf16`` are taken as they are. ``auto`` takes bf16 on GPUs that have it, and on processors that have it
            where it was measured to pay and to cost no accuracy: for cross-entropy on clean samples, of float32 networks with
            convolutions and neither attention nor layer or group normalisation.
        model: is not run.
        learning: what is minimised, or a rule, whose gradients are never taken under autocast.
        device: where the model is.
    """
    if callable(learning):
        return "float32", "a learning rule takes its gradients itself"
    if precision != "auto":
        return precision, "as asked for"
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU has it") if has else ("float32", "the GPU has no bf16")
    if device.type != "cpu":
        return "float32", f"nothing else is measured on {device.type}"
    if type(learning) is not CrossEntropy:
        return "float32", "bf16 is measured for cross-entropy on clean samples only"
    if any(one.is_floating_point() and one.dtype != torch.float32 for one in model.parameters()):
        return "float32", "the weights have a precision of their own"
    modules = list(model.modules())
    if not any(isinstance(one, CONVOLUTIONS) for one in modules) or any(isinstance(one, SLOW) for one in modules):
        return "float32", "bf16 is for convolutions without attention and layer or group normalisation"
    if not processor_has_bf16():
        return "float32", "the processor has no bf16"
    return "bf16", "the processor has it"


def autocast(taken: Taken, device: torch.device) -> torch.autocast:
    """The autocast of a precision on a device; a disabled one for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=taken == "bf16")
