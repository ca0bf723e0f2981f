"""What turns gradients into steps: of each worker between two exchanges, and of the mean of what workers have moved.

One table. An optimiser's memory is rows beside the weights, never sent, and kept in checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gracile.core.errors import InputError, pick


class Optimizer(Protocol):
    """A step on stacked rows."""

    @property
    def rate(self) -> float:
        """The learning rate of local steps where none is given; docs/workers.md says how it was chosen."""
        ...

    @property
    def slots(self) -> Sequence[str]:
        """Names of its memory; "count" has one number per row, the others are shaped as the weights."""
        ...

    def step(self, x: Tensor, g: Tensor, memory: Mapping[str, Tensor], lr: float) -> None:
        """Move x (k, p) in place by gradients g (k, p), which it may overwrite."""
        ...


def optimizer(name: str) -> Optimizer:
    """An optimiser by name.

    Args:
        name: a row of `OPTIMIZERS`; ``momentum:0.95`` and ``nesterov:0.95`` name the momentum, ``adamw:0.1`` the weight
            decay.

    Raises:
        InputError: no such optimiser, or a number out of its range.
    """
    name, _, argument = name.partition(":")
    return pick(OPTIMIZERS, name, "optimiser")(argument)


@dataclass(frozen=True)
class SGD:
    """x <- x - lr g."""

    rate = 0.1
    slots = ()

    def step(self, x: Tensor, g: Tensor, memory: Mapping[str, Tensor], lr: float) -> None:
        """See `Optimizer`."""
        x.sub_(g, alpha=lr)


@dataclass(frozen=True)
class Momentum:
    """m <- beta m + g, x <- x - lr m; with `nesterov` x <- x - lr (g + beta m), as in torch.optim.SGD.

    Attributes:
        beta: in [0, 1).
        nesterov: look ahead.
    """

    beta: float = 0.9
    nesterov: bool = False
    rate = 0.02
    slots = ("momentum",)

    def __post_init__(self) -> None:
        _share("A momentum", self.beta)

    def step(self, x: Tensor, g: Tensor, memory: Mapping[str, Tensor], lr: float) -> None:
        """See `Optimizer`."""
        m = memory["momentum"].mul_(self.beta).add_(g)
        x.sub_(g.add_(m, alpha=self.beta) if self.nesterov else m, alpha=lr)


@dataclass(frozen=True)
class Adam:
    """m <- beta m + (1 - beta) g, v <- beta2 v + (1 - beta2) g^2, x <- x - lr m / (sqrt(v) + eps).

    Attributes:
        beta: share of the past in m, in [0, 1).
        beta2: share of the past in v, in [0, 1).
        eps: above 0.
        decay: decoupled weight decay: x <- (1 - lr decay) x first [@loshchilov2019].
        corrected: for the start from zero, as @kingma2015; @reddi2021 take neither this nor a small eps.
        sign: Yogi: v <- v - (1 - beta2) sign(v - g^2) g^2 [@zaheer2018].
    """

    beta: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decay: float = 0.0
    corrected: bool = True
    sign: bool = False
    rate = 3e-3
    slots = ("momentum", "square", "count")

    def __post_init__(self) -> None:
        _share("The mean of gradients", self.beta)
        _share("The mean of squares", self.beta2)
        if not self.eps > 0 or not self.decay >= 0:
            raise InputError(
                f"eps={self.eps} and a weight decay of {self.decay} make no optimiser.", "Give eps > 0 and decay >= 0."
            )

    def step(self, x: Tensor, g: Tensor, memory: Mapping[str, Tensor], lr: float) -> None:
        """See `Optimizer`."""
        m, v, count = memory["momentum"], memory["square"], memory["count"].add_(1)
        x.mul_(1 - lr * self.decay)
        m.mul_(self.beta).add_(g, alpha=1 - self.beta)
        square = g.square_()
        if self.sign:
            v.sub_((v - square).sign_().mul_(square), alpha=1 - self.beta2)
        else:
            v.mul_(self.beta2).add_(square, alpha=1 - self.beta2)
        if not self.corrected:
            x.addcdiv_(m, v.sqrt().add_(self.eps), value=-lr)
            return
        scale = (1 - self.beta**count) / (1 - self.beta2**count).sqrt()
        x.addcdiv_(m / scale, v.sqrt().add_(self.eps * (1 - self.beta2**count).sqrt()), value=-lr)


def _share(what: str, value: float) -> None:
    if not 0 <= value < 1:
        raise InputError(f"{what} of weight {value} is out of range.", "Give a number from 0 on and below 1.")


def _number(name: str, argument: str, default: float) -> float:
    try:
        return float(argument or default)
    except ValueError:
        raise InputError(f"'{argument}' is no number for the optimiser '{name}'.", f"Write {name}:{default}.") from None


def _plain(argument: str) -> SGD:
    if argument:
        raise InputError(f"The optimiser 'sgd' takes no '{argument}'.", "Write sgd, or momentum:0.9.")
    return SGD()


# Name to a function from what follows the colon to an optimiser.
OPTIMIZERS: dict[str, Callable[[str], Optimizer]] = {
    "adam": lambda argument: Adam(beta=_number("adam", argument, 0.9)),
    "adamw": lambda argument: Adam(decay=_number("adamw", argument, 0.01)),
    "momentum": lambda argument: Momentum(_number("momentum", argument, 0.9)),
    "nesterov": lambda argument: Momentum(_number("nesterov", argument, 0.9), nesterov=True),
    "sgd": _plain,
}
