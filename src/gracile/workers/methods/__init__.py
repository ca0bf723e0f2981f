"""How workers come to one network: one file per method, one table."""

from gracile.workers.methods.table import METHODS, Method, State, method

__all__ = ["METHODS", "Method", "State", "method"]
