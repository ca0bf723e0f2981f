"""How workers come to one network: one file a method, one table."""

from gracile.workers.methods.table import METHODS, Method, State, method

__all__ = ["METHODS", "Method", "State", "method"]
