"""Eq. 4.9 of Dinh 2020: the mean over noisy residual networks is the solution of a transport equation with diffusion.

The network is x -> x + h F(x) per block, with `GaussianNoise` of level sigma sqrt(h) after each sum, and reads g out of
what the last block gives. The equation, u_t + F u_x + sigma^2 / 2 u_xx = 0 with u(1, .) = g, is solved by finite
differences.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.sparse import diags_array, eye_array
from scipy.sparse.linalg import splu
from torch import Tensor, nn

from gracile.models import GaussianNoise

STARTS = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)


def mapping(x: Tensor) -> Tensor:
    """F: it drives apart what starts about 0, so that the network's step is steeper than its last layer's."""
    return torch.sin(3 * x) + 0.3


def readout(x: Tensor) -> Tensor:
    """The function g, a classifier's probability."""
    return torch.sigmoid(4 * x)


class Network(nn.Module):
    """Residual blocks of one coordinate, each with noise after its sum."""

    def __init__(self, depth: int, sigma: float) -> None:
        super().__init__()
        self.step = 1 / depth
        self.noise = nn.ModuleList(GaussianNoise(sigma * self.step**0.5, "none") for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for noise in self.noise:
            x = noise(x + self.step * mapping(x))
        return readout(x)


def solution(sigma: float, cells: int = 2400, steps: int = 800, edge: float = 6.0) -> np.ndarray:
    """Values of u(0, .) at the starts: central differences, Crank and Nicolson, g held at the edges."""
    grid = torch.linspace(-edge, edge, cells + 1, dtype=torch.float64)
    width = 2 * edge / cells
    drift = mapping(grid).numpy() / (2 * width)
    spread = sigma**2 / (2 * width**2)
    drift[[0, -1]] = 0
    inside = np.ones(cells + 1)
    inside[[0, -1]] = 0
    generator = diags_array(
        [(spread * inside - drift)[1:], -2 * spread * inside, (spread * inside + drift)[:-1]], offsets=[-1, 0, 1]
    )
    half = generator / (2 * steps)
    one = eye_array(cells + 1)
    implicit, explicit = splu((one - half).tocsc()), (one + half).tocsr()
    u = readout(grid).numpy()
    for _ in range(steps):
        u = implicit.solve(explicit @ u)
    return np.interp(STARTS.numpy(), grid.numpy(), u)


def averaged(depth: int, sigma: float, draws: int) -> tuple[np.ndarray, float]:
    """The mean of the network's answers over draws, and the largest standard error of one."""
    torch.manual_seed(0)
    with torch.no_grad():
        answers = Network(depth, sigma)(STARTS.expand(draws, -1).contiguous())
    return answers.mean(0).numpy(), float(answers.std(0, correction=0).max()) / draws**0.5


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_the_mean_over_noisy_networks_solves_the_equation_with_diffusion(sigma: float) -> None:
    exact = solution(sigma)
    mean, error = averaged(200, sigma, 20_000)
    assert np.abs(mean - exact).max() < 4 * error + 0.003
    # One network without noise is the transport equation's solution, which is another function.
    assert np.abs(averaged(200, 0.0, 1)[0] - solution(0.0)).max() < 0.02
    assert np.abs(averaged(200, 0.0, 1)[0] - exact).max() > 0.2


def test_its_error_is_that_of_eulers_steps_inverse_to_the_depth() -> None:
    exact = solution(0.5)
    errors = [np.abs(averaged(depth, 0.5, 50_000)[0] - exact).max() for depth in (2, 4, 8, 16)]
    for coarse, fine in pairwise(errors):
        assert 1.5 < coarse / fine < 3


def test_diffusion_makes_the_answer_a_smoother_function_of_the_image() -> None:
    rises = [np.diff(solution(sigma)).max() for sigma in (0.0, 0.25, 0.5, 1.0)]
    for sharp, smooth in pairwise(rises):
        assert smooth < 0.75 * sharp
