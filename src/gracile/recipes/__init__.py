"""Recipes: what to run, as data; the runner; results beside them."""

from gracile.recipes.request import prepare
from gracile.recipes.runner import Finished, Rehearsed, rehearse, run
from gracile.recipes.schema import Recipe, load, shipped

__all__ = ["Finished", "Recipe", "Rehearsed", "load", "prepare", "rehearse", "run", "shipped"]
