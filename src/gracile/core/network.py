"""What learners and a network of workers agree on, so that neither room knows the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Network(Protocol):
    """Workers joined by a graph, as a consensus method sees them.

    One process may host all workers or one of them; the method is written once, over the workers at hand, whose values
    are stacked along the first axis.
    """

    @property
    def workers(self) -> int:
        """How many workers the whole network has."""
        ...

    @property
    def local(self) -> Sequence[int]:
        """Which of them this process hosts, in increasing order."""
        ...

    @property
    def bytes_sent(self) -> int:
        """Bytes of payload sent so far over all links by the workers hosted here."""
        ...

    def average(self, values: Tensor, rounds: int | None = None) -> Tensor:
        """The mean over all workers, as each of the local ones comes to know it.

        Args:
            values: (len(local), ...), one row per local worker.
            rounds: rounds of gossip over the graph's links, after which workers agree only approximately; None for the
                exact mean.

        Returns:
            The same shape; on one process or many the same bits.
        """
        ...
