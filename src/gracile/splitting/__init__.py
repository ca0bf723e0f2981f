"""Variable splitting: RVSM on single weights, RGSM on groups, as hooks on any optimiser."""

from gracile.channels.grouping import GROUPINGS
from gracile.core.summary import LayerSummary, Summary
from gracile.splitting.base import VariableSplitting
from gracile.splitting.dial import Dial
from gracile.splitting.rgsm import RGSM
from gracile.splitting.rvsm import RVSM

__all__ = ["GROUPINGS", "RGSM", "RVSM", "Dial", "LayerSummary", "Summary", "VariableSplitting"]
