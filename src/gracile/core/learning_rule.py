"""What training and learning rules without backpropagation agree on, so that neither room knows the other."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

LearningRule = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Called with inputs x (b, ...) and labels y (b,) of a batch, in place of cross-entropy and its backward pass.

It fills ``.grad`` of the network's parameters and returns the batch's mean loss and how many samples it got right, both
scalars. What it draws at random comes from torch's own generator, which `gracile.fit` seeds and keeps, as for dropout.
"""
