"""Variable splitting: RVSM on single weights, RGSM on groups, as hooks on any optimiser."""

from gracile.splitting.base import VariableSplitting
from gracile.splitting.dial import Dial
from gracile.splitting.grouping import GROUPINGS
from gracile.splitting.rgsm import RGSM
from gracile.splitting.rvsm import RVSM
from gracile.splitting.summary import LayerSummary, Summary

__all__ = ["GROUPINGS", "RGSM", "RVSM", "Dial", "LayerSummary", "Summary", "VariableSplitting"]
