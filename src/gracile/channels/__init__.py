"""The channel graph: which slices of which weights are one channel."""

from gracile.channels.graph import ChannelGraph, Counts
from gracile.channels.op import Op, Slots, Values
from gracile.channels.table import register_rule
from gracile.channels.tracing import Example, trace

__all__ = ["ChannelGraph", "Counts", "Example", "Op", "Slots", "Values", "register_rule", "trace"]
