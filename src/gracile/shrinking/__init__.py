"""Physical removal of dead channels, with a proof that the outputs stay."""

from gracile.shrinking.gathered import Gathered
from gracile.shrinking.lean import load_lean, save_lean
from gracile.shrinking.parity import ParityError
from gracile.shrinking.passes import LeanPasses
from gracile.shrinking.plan import Plan, Row, plan
from gracile.shrinking.plans import apply_plan, read_plan, save_plan
from gracile.shrinking.rows import RenumberedEmbedding, shrink_classes, shrink_vocabulary
from gracile.shrinking.shrink import shrink
from gracile.shrinking.stored import stored_sizes

__all__ = [
    "Gathered", "LeanPasses", "ParityError", "Plan", "RenumberedEmbedding", "Row", "apply_plan", "load_lean", "plan", "read_plan",
    "save_lean", "save_plan", "shrink", "shrink_classes", "shrink_vocabulary", "stored_sizes",
]  # fmt: skip
