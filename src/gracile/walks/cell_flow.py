"""Particles in a cell flow with a little molecular diffusion: how far they spread, by the cell problem and by simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import gmres, splu

from gracile.core.errors import InputError

# Fourier modes are added, half as many again each time, until the diffusivity rests to this, relatively.
RESTS = 1e-5
# Beyond so many unknowns, of cells at rest and of swinging ones, the linear equations take minutes.
MOST_AT_REST, MOST_SWINGING = 30_000, 10_000


@dataclass(frozen=True)
class Spread:
    """An effective diffusivity.

    Attributes:
        value: lim E (x_t - x_0)^2 / (2 t) of a coordinate, which is the same in both.
        error: by the cell problem the change at the last addition of modes, by simulation a standard error.
    """

    value: float
    error: float


@dataclass(frozen=True)
class CellFlow:
    """``dX = v dt + sqrt(2 D) dW`` in the plane, with cells of the period 2 pi that turn in alternate directions.

    ``v = (cos y + theta sin y cos t, cos x + theta sin x cos t)``: at rest for theta = 0; with it the cells' edges swing, and
    particles near them move chaotically.

    Args:
        theta: how far the edges swing, in [0, 1].

    Raises:
        InputError: theta is outside of [0, 1].

    Source:
        [@dinh2020, eqs. 1.1 to 1.3]; [@fannjiang1994] for ``D^E ~ sqrt(D)`` at rest, [@biferale1995] for the swinging cells.

    >>> at_rest = CellFlow().effective(0.1)
    >>> print(f"{at_rest.value:.6f}")
    0.481027
    """

    theta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.theta <= 1:
            raise InputError(f"theta = {self.theta} is outside of [0, 1].", "Take 0 for cells at rest, 1 for the most.")

    def effective(self, molecular: float) -> Spread:
        """The effective diffusivity ``D^E = D (1 + <|grad chi|^2>)``, where ``chi_t + v . grad chi - D lap chi = -v_x``.

        The periodic solution is a Fourier series, in time too for theta > 0; modes are added until D^E rests to 1e-5.

        Args:
            molecular: D, above 0.

        Raises:
            InputError: D is not above 0, or so small that layers of the width sqrt(D) ask for more modes than can be solved.
        """
        _check_positive("molecular diffusivity", molecular)
        modes, before = max(6, math.ceil(molecular**-0.5)), math.inf
        while True:
            waves = 0 if self.theta == 0 else max(3, modes // 2)
            most = MOST_SWINGING if waves else MOST_AT_REST
            if (2 * modes + 1) ** 2 * (2 * waves + 1) > most:
                raise InputError(
                    f"At a molecular diffusivity of {molecular} the layers between the cells are too thin to be resolved.",
                    "Take a larger one, or simulate.",
                )
            found = self._solved(molecular, modes, waves)
            if abs(found - before) <= RESTS * found:
                return Spread(found, abs(found - before))
            modes, before = modes + max(2, modes // 2), found

    def simulate(
        self, molecular: float, *, duration: float = 200.0, step: float = 0.05, walkers: int = 2000, seed: int = 0
    ) -> Spread:
        """The same from particles that start anywhere in a cell: what E |X|^2 / 4 grows by in the second half, over time.

        Each step is two shears, which are exact and keep areas, in Strang's order, and a normal displacement: an error of the order
        step^2, and no diffusion of the scheme's own.

        Args:
            molecular: D, at least 0.
            duration: how long, in the time of the flow.
            step: length of a step in time.
            walkers: how many particles.
            seed: of starts and displacements.

        Raises:
            InputError: a duration, step or number of walkers that is none, or D below 0.
        """
        if not molecular >= 0:
            raise InputError(f"A molecular diffusivity of {molecular} is below 0.", "Give 0 or more.")
        _check_positive("duration", duration)
        _check_positive("step", step)
        _check_positive("number of walkers", walkers - 1)
        draw = np.random.default_rng(np.random.SeedSequence(seed))
        start = draw.uniform(0, 2 * np.pi, (2, walkers))
        x, y = start.copy()
        half, middle = 2 * max(1, round(duration / step / 4)), start
        noise = math.sqrt(2 * molecular * step)
        for count in range(2 * half):
            swing = self.theta * math.cos((count + 0.5) * step)
            x += step / 2 * (np.cos(y) + swing * np.sin(y))
            y += step * (np.cos(x) + swing * np.sin(x))
            x += step / 2 * (np.cos(y) + swing * np.sin(y))
            x += noise * draw.standard_normal(walkers)
            y += noise * draw.standard_normal(walkers)
            if count + 1 == half:
                middle = np.array([x, y])
        first, last = (np.square(place - start).sum(0) for place in (middle, np.array([x, y])))
        grown = (last - first) / (4 * half * step)
        return Spread(float(grown.mean()), float(grown.std(ddof=1) / math.sqrt(walkers)))

    def _solved(self, molecular: float, modes: int, waves: int) -> float:
        """D^E with wave numbers up to `modes` in space and `waves` in time."""
        k, w = np.arange(-modes, modes + 1.0), np.arange(-waves, waves + 1.0)
        one, still = sparse.identity(len(k)), sparse.identity(len(w))
        cosine, sine, slope = _shift(len(k), 0.5, 0.5), _shift(len(k), 0.5j, -0.5j), sparse.diags(1j * k)
        swing = self.theta * _shift(len(w), 0.5, 0.5)
        laplacian = sparse.kron(sparse.diags(k**2), one) + sparse.kron(one, sparse.diags(k**2))
        carried = sparse.kron(still, sparse.kron(slope, cosine) + sparse.kron(cosine, slope))
        carried += sparse.kron(swing, sparse.kron(slope, sine) + sparse.kron(sine, slope))
        inner = sparse.kron(sparse.diags(1j * w), sparse.identity(len(k) ** 2)) + carried
        matrix = sparse.csr_matrix(inner + molecular * sparse.kron(still, laplacian))
        # v_x = v . grad x, without a mean.
        flow = np.zeros((len(w), len(k), len(k)), complex)
        flow[waves, modes, [modes - 1, modes + 1]] = 0.5
        if waves:
            for time in (waves - 1, waves + 1):
                flow[time, modes, [modes - 1, modes + 1]] = 0.25j * self.theta, -0.25j * self.theta
        # The constant is free.
        others = np.flatnonzero(np.arange(flow.size) != flow.size // 2)
        chi = _solution(matrix[others][:, others].tocsc(), -flow.ravel()[others], direct=not waves)
        squares = np.tile((k[:, None] ** 2 + k**2).ravel(), len(w))[others]
        return float(molecular * (1 + squares @ np.abs(chi) ** 2))


def _shift(size: int, below: complex, above: complex) -> sparse.csr_matrix:
    """Multiplication by ``below e^(-i s) + above e^(i s)`` in Fourier space."""
    return sparse.csr_matrix(above * np.eye(size, k=-1) + below * np.eye(size, k=1))


def _solution(matrix: sparse.csc_matrix, right: np.ndarray, *, direct: bool) -> np.ndarray:
    """Of the linear equations: in two dimensions a factorisation fills little; in three it would, and GMRES is faster."""
    if direct:
        return splu(matrix, permc_spec="MMD_AT_PLUS_A").solve(right)
    scaled = sparse.diags(1 / matrix.diagonal())
    found, left = gmres(matrix, right, rtol=1e-10, restart=200, maxiter=20, M=scaled)
    if left:
        raise InputError("The cell problem was not solved in 4,000 steps.", "Take a larger molecular diffusivity.")
    return found


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"A {name} of {value} is not above 0.", "Give a number above 0.")
