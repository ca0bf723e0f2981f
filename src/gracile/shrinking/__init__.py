"""Physical removal of dead channels, with a proof that the outputs stay."""

from gracile.shrinking.gathered import Gathered
from gracile.shrinking.lean import load_lean, save_lean
from gracile.shrinking.parity import ParityError
from gracile.shrinking.plan import Plan, Row, plan
from gracile.shrinking.shrink import shrink

__all__ = ["Gathered", "ParityError", "Plan", "Row", "load_lean", "plan", "save_lean", "shrink"]
