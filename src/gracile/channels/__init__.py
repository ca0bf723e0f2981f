"""The channel graph: which slices of which weights are one channel."""

from gracile.channels.graph import ChannelGraph, Counts
from gracile.channels.op import Op
from gracile.channels.records import Dims, Slots, Values, Var
from gracile.channels.survey import Survey, SurveyRow, survey
from gracile.channels.table import register_rule
from gracile.channels.tracing import Example, trace

__all__ = [
    "ChannelGraph", "Counts", "Dims", "Example", "Op", "Slots", "Survey", "SurveyRow", "Values", "Var", "register_rule", "survey", "trace",
]  # fmt: skip
