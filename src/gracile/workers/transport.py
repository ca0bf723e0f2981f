"""How messages get from worker to worker: what every back end offers, and the one where all share a process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from gracile.workers.graphs import Link


class Transport(Protocol):
    """Carries one message per link and round."""

    @property
    def local(self) -> Sequence[int]:
        """The workers this process hosts, in increasing order."""
        ...

    @property
    def gone(self) -> frozenset[int]:
        """Workers known to be lost: nothing comes from them any more."""
        ...

    def exchange(self, messages: Mapping[Link, Tensor], expected: Iterable[Link], like: Tensor) -> dict[Link, Tensor]:
        """Send what is given, and receive what is expected.

        Args:
            messages: (sender, receiver) to a contiguous message; every sender is local.
            expected: the links into local workers on which a message comes.
            like: of the shape, type and device of every one of these messages.

        Returns:
            (sender, receiver) to message, without those that did not come.
        """
        ...


class InProcess:
    """One process hosts all workers; a message is a reference, so receivers must not write to it.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        self.local: Sequence[int] = range(workers)
        self.gone: frozenset[int] = frozenset()

    def exchange(self, messages: Mapping[Link, Tensor], expected: Iterable[Link], like: Tensor) -> dict[Link, Tensor]:
        """See `Transport`."""
        return {link: messages[link] for link in expected if link[0] not in self.gone}

    def lose(self, *workers: int) -> None:
        """From now on nothing comes from these, as if they had been killed."""
        self.gone |= set(workers)
