"""Batch normalisation by the mean absolute deviation in place of the standard deviation."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError


class _L1BatchNorm(nn.Module):
    """What the two share.

    In training, with mu and ``sigma = mean |x - mu|`` over the batch (and positions) of each channel,

        y = gamma (x - mu) / (sigma + eps) + beta,

    and the running statistics move by ``momentum`` towards mu and sigma, which evaluation uses in their place (Wu et
    al. 2018, *L1-norm batch normalization*, algorithm 1). Gradients flow through mu and sigma. Of normal inputs sigma
    is ``sqrt(2 / pi)`` of the standard deviation, so outputs start a quarter larger than those of l2 batch-norm; gamma
    takes that up.

    Args:
        num_features: channels.
        eps: added to sigma.
        momentum: weight of the newest batch in the running statistics, as in torch (the paper's alpha is 1 - momentum);
            None is the plain mean over all batches.
        affine: whether there are gamma (``weight``) and beta (``bias``).
        track_running_stats: without, batch statistics are used in evaluation too.

    Raises:
        InputError: input of another rank or width; in training, one value per channel.
    """

    channel_rule = "l1_batch_norm"  # tells the channel graph, without knowing it, what this does to channels
    ranks: tuple[int, ...] = ()
    running_mean: Tensor | None
    running_dev: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros(num_features) if tracked else None)
        self.register_buffer("running_dev", torch.ones(num_features) if tracked else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if tracked else None)

    def reset_parameters(self) -> None:
        """Put scale, shift and running statistics back to where they began."""
        with torch.no_grad():
            for tensor, value in (
                (self.weight, 1), (self.bias, 0), (self.running_mean, 0), (self.running_dev, 1), (self.num_batches_tracked, 0),
            ):  # fmt: skip
                if tensor is not None:
                    tensor.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() not in self.ranks or x.shape[1] != self.num_features:
            raise InputError(
                f"{type(self).__name__}({self.num_features}) was given an input of shape {tuple(x.shape)}.",
                f"Give {' or '.join(map(str, self.ranks))} dimensions, the second of {self.num_features} channels.",
            )
        shape = (1, -1, *(1,) * (x.dim() - 2))
        if self.training or self.running_mean is None or self.running_dev is None:
            mean, deviation = self._batch(x)
        else:
            mean, deviation = self.running_mean, self.running_dev
        scale = 1 / (deviation + self.eps)
        if self.weight is None or self.bias is None:
            return (x - mean.view(shape)) * scale.view(shape)
        return (x - mean.view(shape)) * (self.weight * scale).view(shape) + self.bias.view(shape)

    def _batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and x.numel() <= self.num_features:
            raise InputError(
                f"{type(self).__name__} in training was given one value per channel, shape {tuple(x.shape)}.",
                "Train on batches of at least two samples.",
            )
        over = [0, *range(2, x.dim())]
        mean = x.mean(dim=over)
        deviation = (x - mean.view(1, -1, *(1,) * (x.dim() - 2))).abs().mean(dim=over)
        if self.training and self.running_mean is not None and self.running_dev is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach().to(self.running_mean), share)
            self.running_dev.lerp_(deviation.detach().to(self.running_dev), share)
        return mean, deviation

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class L1BatchNorm1d(_L1BatchNorm):
    """l1 batch-norm of (n, c) or (n, c, l), in place of `torch.nn.BatchNorm1d`.

    Example:
        >>> import torch
        >>> from gracile.models import L1BatchNorm1d
        >>> norm = L1BatchNorm1d(1)
        >>> norm(torch.tensor([[0.0], [2.0], [4.0], [6.0]])).detach().flatten().round(decimals=2).tolist()
        [-1.5, -0.5, 0.5, 1.5]
    """

    __doc__ = f"{inspect.cleandoc(str(__doc__))}\n\n{inspect.cleandoc(str(_L1BatchNorm.__doc__))}"
    ranks = (2, 3)


class L1BatchNorm2d(_L1BatchNorm):
    """l1 batch-norm of (n, c, h, w), in place of `torch.nn.BatchNorm2d`."""

    __doc__ = f"{inspect.cleandoc(str(__doc__))}\n\n{inspect.cleandoc(str(_L1BatchNorm.__doc__))}"
    ranks = (4,)
