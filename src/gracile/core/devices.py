"""Devices by their names."""

from __future__ import annotations

import torch

from gracile.core.errors import InputError


def device_named(name: str) -> torch.device:
    """A device by its name, checked to be there; ``auto`` is a GPU if there is one.

    Raises:
        InputError: it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"The device '{name}' is not there: {why}.", "Use device='cpu' or 'auto'.") from None
    return device
