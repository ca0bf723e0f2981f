"""The collector of cycles is put off while a network is traced, and left as it was."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from gracile.channels import trace
from gracile.core.errors import InputError
from gracile.core.garbage import put_off


def test_it_is_left_as_it_was_whatever_happens() -> None:
    seen = []

    class Asks(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            seen.append(gc.isenabled())
            return super().forward(input)

    assert gc.isenabled()
    trace(Asks(3, 2), torch.randn(2, 3))
    assert not any(seen)
    assert gc.isenabled()
    with pytest.raises(InputError):
        trace(Asks(3, 2), torch.randn(2, 4))
    assert gc.isenabled()
    gc.disable()
    try:
        with put_off(), put_off():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
