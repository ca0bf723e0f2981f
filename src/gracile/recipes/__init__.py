"""Recipes: what to run, as data; the runner; results beside them."""

from gracile.recipes.runner import Finished, run
from gracile.recipes.schema import Recipe, load, shipped

__all__ = ["Finished", "Recipe", "load", "run", "shipped"]
