"""No gain by ReDense where the training accuracy is 100 % [javid2021, section 6.2.3.3], and a gain where it is not."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gracile.layerwise.redense import ReDense, retrain_last

SEEDS = range(3)


@cache
def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x).float() / 16, torch.tensor(y).long()
    return (x[:900], y[:900]), (x[900:], y[900:])


def share_right(network: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    return float((network(data[0]).argmax(1) == data[1]).float().mean())


@cache
def gains(steps: int) -> tuple[list[float], list[float], list[float]]:
    """Training accuracy of the base after so many steps, and in points of test accuracy what ReDense and its control gain."""
    train, test = digits()
    fitted, gained, control = [], [], []
    for seed in SEEDS:
        torch.manual_seed(seed)
        base = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
        optimizer = torch.optim.Adam(base.parameters(), lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(base(train[0]), train[1]).backward()
            optimizer.step()
        before = share_right(base.eval(), test)
        fitted.append(share_right(base, train))
        wider = ReDense(base, seed=seed)
        wider.fit(train, epochs=60)
        gained.append(100 * (share_right(wider, test) - before))
        control.append(100 * (share_right(retrain_last(base, train, epochs=60)[0], test) - before))
    return fitted, gained, control


def test_a_network_that_knows_its_training_samples_gains_nothing():
    fitted, gained, _ = gains(300)
    assert fitted == [1.0] * 3
    assert max(map(abs, gained)) < 0.6
    assert abs(sum(gained)) / 3 < 0.3


def test_one_that_does_not_gains_points_and_its_last_layer_retrained_gains_more():
    fitted, gained, control = gains(10)
    assert max(fitted) < 0.9
    assert min(gained) > 2
    # The gain is not ReDense's own: the last layer, trained on without its ball, gains more.
    assert all(more > gain for more, gain in zip(control, gained, strict=True))
