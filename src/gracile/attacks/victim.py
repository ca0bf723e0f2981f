"""The network under attack: what an attack may ask of it, and the promise that it is left as it was found."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, wraps
from typing import Any, Literal, ParamSpec, SupportsIndex, cast, get_args

import torch
from torch import Tensor, nn

from gracile.attacks.folding import folded
from gracile.attacks.outputs import logits_of
from gracile.attacks.stem import quick_stems
from gracile.core.errors import InputError, NonFiniteError
from gracile.core.seeding import derive_seed

Mode = Literal["eval", "found"]
Precision = Literal["float32", "bf16"]
Model = nn.Module | Callable[[Tensor], Any]
# Per-sample loss (n,) of logits (n, classes) and of whatever goes with each sample, such as its label.
Loss = Callable[..., Tensor]

# Pixels a pass on a CPU, a channel: 32 images of 32x32. At batch 256 activations leave the caches and the allocator's reach:
# the same arithmetic on pieces of this size takes half of the time on a small convolutional network.
PIXELS = 32 * 32 * 32
# Passes that gradients and answers of a network that draws random numbers are means over, where nobody says otherwise
# (AutoAttack's number for its version on such networks).
DRAWS = 20
# Samples times steps from which on batch-norm is folded away.
FOLDED_FROM = 1000
# Samples that are asked twice to find out whether a network draws random numbers.
PROBED = 4
# The same, and how often, where the generator has moved and the answers have not: noise may show seldom.
PROBED_MORE, PROBES = 64, 8

P = ParamSpec("P")


class Victim:
    """A network and how it is asked.

    Args:
        model: maps x to logits (n, classes), or to what `gracile.attacks.outputs.logits_of` finds them in.
        x: (n, ...) the inputs under attack; tell shape and device.
        y: int64 (n,) labels, or the classes wanted.
        targeted: whether `y` are the classes wanted.
        draws: passes that gradients are averaged over, for networks that draw random numbers; None finds out.
        chunk: samples a pass; None chooses: pieces of `PIXELS` pixels on a CPU, the whole batch elsewhere.
        plain: whether nothing in the network depends on the rest of the batch, so that it may be cut into pieces.
        channels_last: lay images out channels last on a CPU.
        precision: ``bf16`` runs the passes that gradients and searches need under autocast; verdicts never.

    Attributes:
        asked: the draws asked for, None where none were.
        queries: samples passed through the network so far, draws included.
        layout: the memory format inputs are brought into; None leaves them as they are.
        finite: whether all gradients were finite and no output NaN so far; looked at once, at the end, so that a GPU need not
            wait.
    """

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, *, targeted: bool, draws: int | None, chunk: int | None, plain: bool,
        channels_last: bool, precision: Precision = "float32",
    ) -> None:  # fmt: skip
        self.model, self.targeted, self.plain = model, targeted, plain
        on_cpu = x.device.type == "cpu" and x.ndim == 4 and plain
        self.chunk = chunk or (max(PIXELS // x[0, 0].numel(), 4) if on_cpu else len(x))
        self._most = chunk is not None
        # Channels last saves convolutions the reordering of activations; sums are taken in another order.
        self.layout = torch.channels_last if on_cpu and channels_last and isinstance(model, nn.Module) else None
        self.finite = torch.ones((), dtype=torch.bool, device=x.device)
        self.top_label = int(y.max())
        self.queries = 0
        self.coarse = precision == "bf16"
        self.asked, self._sample = draws, x.detach()[:PROBED_MORE]

    @cached_property
    def random(self) -> bool:
        """Whether answers may differ from pass to pass, so that a single one proves nothing.

        So it is where several draws are asked for or where layers are in training mode; else the network is asked twice about
        a few samples, and more often about more of them where it has drawn random numbers to no effect.
        """
        if not self.plain or (self.asked or 1) > 1:
            return True
        queries, devices = self.queries, [self._sample.device] if self._sample.is_cuda else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            few = self._sample[:PROBED]
            before = _generators(few.device)
            found = differ(self._forward(few), self._forward(few))
            moved = any(not torch.equal(a, b) for a, b in zip(before, _generators(few.device), strict=True))
            if moved and not found:
                first = self._forward(self._sample)
                found = any(differ(first, self._forward(self._sample)) for _ in range(PROBES))
        self.queries = queries
        return found

    @cached_property
    def draws(self) -> int:
        """Passes a gradient, and an answer on the way, is the mean of."""
        return self.asked or (DRAWS if self.plain and self.random else 1)

    @cached_property
    def judged(self) -> int:
        """Fresh passes a verdict is the mean of: 1 where answers do not differ, else at least `DRAWS`."""
        return (max(self.draws, DRAWS) if self.plain else self.draws) if self.random else 1

    def logits(self, x: Tensor, draws: int | None = None) -> Tensor:
        """Logits (n, classes), the mean over the draws; no graph is kept."""
        with torch.no_grad():
            pieces = [self._mean(piece, draws or self.draws) for piece in x.split(self._piece(len(x)))]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def broken(self, logits: Tensor, y: Tensor) -> Tensor:
        """Where the attack has what it wants by these logits: bool (n,)."""
        right = logits.argmax(dim=1) == y
        return right if self.targeted else ~right

    def verdict(self, x: Tensor, y: Tensor) -> Tensor:
        """Where the attack has what it wants at `x`, by the mean of fresh draws in full precision: bool (n,)."""
        coarse, self.coarse = self.coarse, False
        try:
            return self.broken(self.logits(x, self.judged), y)
        finally:
            self.coarse = coarse

    def breaks(self, x: Tensor, logits: Tensor, y: Tensor, among: Tensor | None = None) -> Tensor:
        """Where a sample may be given up as broken at `x`: bool (n,).

        The logits at hand decide, unless they are one lucky draw of many or rounded: then a break counts only if it holds in
        the mean of fresh draws in full precision.

        Args:
            x: (n, ...), where `logits` were found.
            logits: (n, classes).
            y: int64 (n,).
            among: bool (n,); the others are not asked about.
        """
        broken = self.broken(logits, y)
        if among is not None:
            broken &= among
        if not (self.coarse or self.random):
            return broken
        rows = broken.nonzero().squeeze(1)
        if len(rows):
            broken[rows] = self.verdict(x[rows], y[rows])
        return broken

    def gradient(self, x: Tensor, loss: Loss, *labels: Tensor, weight: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of each sample's loss with respect to the sample, and nothing else's.

        Args:
            x: (n, ...).
            loss: called as ``loss(logits, *labels)``, gives (n,).
            labels: tensors with a row a sample.
            weight: on every sample's loss.

        Returns:
            losses (n,), logits (n, classes) and gradients shaped like `x`, means over the draws.

        Raises:
            InputError: the output does not depend differentiably on the input.
        """
        size = self._piece(len(x))
        found = [
            self._gradient(piece, loss, parts, weight)
            for piece, *parts in zip(*(one.split(size) for one in (x, *labels)), strict=True)
        ]
        if len(found) == 1:
            return found[0]
        losses, logits, gradients = zip(*found, strict=True)
        return torch.cat(losses), torch.cat(logits), torch.cat(gradients)

    def _piece(self, samples: int) -> int:
        """Samples a pass: pieces of one size near `chunk`, since a short one costs as many calls; no more than what was asked for."""
        whole = samples / self.chunk
        passes = max(math.ceil(whole) if self._most else round(whole), 1)
        return math.ceil(samples / passes)

    def _gradient(self, x: Tensor, loss: Loss, labels: list[Tensor], weight: float) -> tuple[Tensor, Tensor, Tensor]:
        sums: list[Tensor] = []
        for _ in range(self.draws):
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                logits = self._forward(leaf)
                losses = loss(logits, *labels)
                if not losses.requires_grad:
                    raise _no_gradient()
                # Asked of x alone, autograd computes no gradient of weights.
                (gradient,) = torch.autograd.grad(
                    losses, leaf, torch.full_like(losses, weight), allow_unused=True, materialize_grads=True
                )
            # A sum is finite only if all its terms are.
            self.finite &= torch.isfinite(gradient.sum())
            parts = [losses.detach(), logits.detach(), gradient]
            sums = [one + more for one, more in zip(sums, parts, strict=True)] if sums else parts
        if self.draws > 1:
            sums = [one / self.draws for one in sums]
        return sums[0], sums[1], sums[2]

    def _mean(self, x: Tensor, draws: int) -> Tensor:
        total = self._forward(x)
        for _ in range(draws - 1):
            total = total + self._forward(x)
        return total / draws if draws > 1 else total

    def _forward(self, x: Tensor) -> Tensor:
        self.queries += len(x)
        try:
            output = self._ask(x if self.layout is None else x.contiguous(memory_format=self.layout))
        except RuntimeError:
            if self.layout is not torch.channels_last:
                raise
            # Networks that call view() on activations cannot take this layout.
            self.layout = torch.contiguous_format
            output = self._ask(x.contiguous())
        logits = logits_of(output, len(x))
        if self.coarse:
            logits = logits.float()
        if self.top_label >= logits.shape[1]:
            raise InputError(
                f"The labels go up to {self.top_label}, and the network has {logits.shape[1]} outputs.",
                "Number the classes from 0 on, as the network does.",
            )
        self.finite &= ~logits.detach().isnan().any()
        return logits

    def _ask(self, x: Tensor) -> Any:
        if not self.coarse:
            return self.model(x)
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.model(x)


def attack(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Makes a function of (model, x, y, ...) an attack that gives an empty batch back as it is."""

    @wraps(function)
    def attacked(*args: P.args, **settings: P.kwargs) -> Tensor:
        x = cast(Tensor, settings["x"] if "x" in settings else args[1]) if "x" in settings or len(args) > 1 else None
        if isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1 and not len(x):
            return finished(x, x)
        return function(*args, **settings)

    return attacked


@contextmanager
def attacking(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | None,
    norm: str = "linf",
    norms: tuple[str, ...] = ("linf", "l2", "l1"),
    targeted: bool = False,
    draws: int | None = None,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
    channels_last: bool = True,
    precision: Precision = "float32",
    **counts: int,
) -> Iterator[tuple[Victim, Tensor, Tensor]]:
    """Check the arguments every attack has in common, and lend the network out until the attack ends.

    Meanwhile parameters need no gradients, the network is in evaluation mode (unless ``mode="found"``) and draws its
    random numbers from `seed`. Afterwards each module's mode, each parameter's ``requires_grad`` and ``grad`` and the
    global generators are as they were.

    Args:
        model, x, y: see `gracile.attacks.pgd`.
        eps: size of the ball; None where there is none.
        norm, targeted, draws, seed, mode, chunk, channels_last, precision: see `gracile.attacks.pgd`.
        norms: those that the attack knows.
        counts: other arguments that must be at least 1, by name.

    Yields:
        The victim, and `x` and `y` cut off from any graph.

    Raises:
        InputError: an argument that cannot be used.
        NonFiniteError: at the end, where a gradient was not finite or an output NaN.
    """
    optional = {"draws": draws, "chunk": chunk}
    _check(x, y, eps, norm, {**counts, **{name: count for name, count in optional.items() if count is not None}})
    if norm not in norms:
        raise InputError(f"norm is '{norm}'.", f"Give {' or '.join(map(repr, norms))}.")
    if mode not in get_args(Mode):
        raise InputError(f"mode is '{mode}'.", "Give 'eval', or 'found' for the mode the network is in.")
    if precision not in get_args(Precision):
        raise InputError(f"precision is '{precision}'.", "Give 'float32', or 'bf16' for passes under autocast.")
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    needed = [parameter.requires_grad for parameter in parameters]
    devices = [x.device] if x.device.type == "cuda" else []
    plain = mode == "eval" or not any(modes)
    with torch.inference_mode(False), torch.random.fork_rng(devices=devices), ExitStack() as stack:
        torch.manual_seed(derive_seed(seed, "attack", "network"))
        try:
            if mode == "eval":
                for module in modules:
                    module.training = False
            for parameter in parameters:
                parameter.requires_grad_(False)
            victim = Victim(model, x, y, targeted=targeted, draws=draws, chunk=chunk, plain=plain,
                            channels_last=channels_last, precision=precision)  # fmt: skip
            x, y = x.detach().clone(), y.detach().clone()
            if victim.layout is not None:
                x = x.contiguous(memory_format=victim.layout)
            # Rounding is moved as by the layout; where little is asked the two passes it takes would not pay.
            much = bool(counts) and len(x) * math.prod(counts.values()) >= FOLDED_FROM
            if channels_last and plain and much and isinstance(model, nn.Module):
                stack.enter_context(folded(model, x[:PROBED].contiguous()))
                if x.device.type == "cpu" and precision == "float32":
                    stack.enter_context(quick_stems(model))
            yield victim, x, y
            if not bool(victim.finite):
                raise NonFiniteError(
                    "The attack met gradients that are not finite, or outputs that are NaN.",
                    "Look for overflow, a square root of 0 or a logarithm of 0 in the network; attack it in float32.",
                )
        finally:
            for module, training in zip(modules, modes, strict=True):
                module.training = training
            for parameter, need in zip(parameters, needed, strict=True):
                parameter.requires_grad_(need)


def _generators(device: torch.device) -> list[Tensor]:
    """The states of the generators that layers draw from, such as dropout's."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def differ(one: Tensor, two: Tensor) -> bool:
    """Whether two answers to one question differ by more than rounding: by 1e-4 of the largest number in them."""
    largest = float(torch.maximum(one.abs().amax(), two.abs().amax()))
    return not torch.allclose(one, two, rtol=0.0, atol=1e-4 * largest, equal_nan=True)


def finished(adversarial: Tensor, like: Tensor) -> Tensor:
    """What an attack returns: cut off, laid out like the input."""
    return torch.empty_like(like.detach()).copy_(adversarial.detach())


def _check(x: Tensor, y: Tensor, eps: float | None, norm: str, counts: dict[str, int]) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or not len(x):
        what = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            f"The inputs are {what}.", "Give floating-point images (n, c, h, w) or features (n, features)."
        )
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != x.shape[:1]:
        what = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise InputError(f"The labels are {what} for {len(x)} inputs.", "Give one int64 class index an input.")
    if int(y.min()) < 0:
        raise InputError(f"A label is {int(y.min())}.", "Number the classes from 0 on.")
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    # A comparison with NaN is false, so NaN lands here too.
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"The inputs run from {low:g} to {high:g}, and attacks keep them in [0, 1].",
            "Give images in [0, 1] and put the normalisation into the network: gracile.models.normalized.",
        )
    if eps is not None and not 0 <= eps < float("inf"):
        raise InputError(f"eps is {eps}.", "Give a size from 0 on, such as 8/255.")
    if eps is not None and norm == "linf" and eps > 1:
        raise InputError(f"eps is {eps}, more than the whole range of a pixel.", "Inputs are in [0, 1]: write 8/255.")
    for name, count in counts.items():
        if not _whole(count) or count < 1:
            raise InputError(f"{name} is {count}.", "Give a whole number from 1 on.")


def _whole(count: object) -> bool:
    try:
        operator.index(cast(SupportsIndex, count))
    except TypeError:
        return False
    return not isinstance(count, bool)


def _no_gradient() -> InputError:
    return InputError(
        "The network's output carries no gradient back to its input.",
        "Attack the differentiable network it came from, or use a black-box attack: square or nattack.",
    )
