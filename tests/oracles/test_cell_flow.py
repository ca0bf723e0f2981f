"""The cell flow: the cell problem against a finite difference solution of its own, simulation against it, and the law at small D."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.sparse.linalg import spsolve

from gracile.core.errors import InputError
from gracile.walks import CellFlow


def by_differences(molecular: float, points: int) -> float:
    """D^E of the cells at rest by central differences on a periodic grid, with the sink that pins the constant."""
    step = 2 * math.pi / points
    one = sparse.identity(points)
    ahead = sparse.csr_matrix(np.roll(np.eye(points), 1, axis=1))
    slope = (ahead - ahead.T) / (2 * step)
    curve = (ahead + ahead.T - 2 * one) / step**2
    cosine = sparse.diags(np.cos(step * np.arange(points)))
    matrix = sparse.kron(slope, cosine) + sparse.kron(cosine, slope)
    matrix = matrix - molecular * (sparse.kron(curve, one) + sparse.kron(one, curve))
    flow = np.tile(np.cos(step * np.arange(points)), points)
    chi = np.append(0.0, np.asarray(spsolve(matrix.tocsc()[1:, 1:], -flow[1:]))).reshape(points, points)
    gradient = [(np.roll(chi, -1, axis) - np.roll(chi, 1, axis)) / (2 * step) for axis in (0, 1)]
    return molecular * (1 + float(np.mean(gradient[0] ** 2 + gradient[1] ** 2)))


def test_the_cell_problem_is_what_central_differences_come_to():
    exact = CellFlow().effective(0.3).value
    coarse, fine = (by_differences(0.3, points) for points in (24, 48))
    assert abs(fine - exact) < abs(coarse - exact) < 0.05
    # Their error falls with the square of the step, so that this combination is of the fourth order.
    assert (4 * fine - coarse) / 3 == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("theta", [0.0, 1.0])
def test_simulated_particles_spread_as_the_cell_problem_says(theta: float):
    flow = CellFlow(theta)
    seen = flow.simulate(0.5, duration=60.0, step=0.1, walkers=2000, seed=3)
    assert abs(seen.value - flow.effective(0.5).value) < 4 * seen.error
    assert seen.error < 0.06 * seen.value


def test_without_a_flow_of_its_own_only_the_molecules_spread():
    """At a large D the flow adds <v^2> / (2 D), and nothing else to this order."""
    assert CellFlow().effective(50.0).value == pytest.approx(50 + 0.5 / 50, rel=1e-6)


def test_at_rest_the_diffusivity_follows_the_root_of_the_molecular_one():
    values = [CellFlow().effective(molecular) for molecular in (0.1, 0.03)]
    assert all(one.error < 1e-4 * one.value for one in values)
    assert math.log(values[0].value / values[1].value, 10 / 3) == pytest.approx(0.5, abs=0.005)
    # 1.0655 sqrt(2), from the boundary layers along the edges of the cells.
    assert values[1].value / math.sqrt(0.03) == pytest.approx(1.507, rel=0.005)


def test_particles_that_no_molecules_push_stay_in_their_cells():
    """The scheme has no diffusion of its own: in a long time they spread no further than in their cells."""
    seen = CellFlow().simulate(0.0, duration=200.0, step=0.1, walkers=500)
    assert abs(seen.value) < 0.01


def test_swinging_cells_mix_where_those_at_rest_do_not():
    """Residual diffusivity: ten times fewer molecular pushes leave it as it is."""
    few, fewer = (CellFlow(1.0).simulate(one, duration=60.0, step=0.1, walkers=1500) for one in (1e-2, 1e-3))
    assert fewer.value > 0.7
    assert abs(few.value - fewer.value) < 4 * math.hypot(few.error, fewer.error)


def test_what_cannot_be_resolved_is_refused():
    with pytest.raises(InputError, match="too thin"):
        CellFlow().effective(1e-5)
    with pytest.raises(InputError, match="theta"):
        CellFlow(1.5)
    with pytest.raises(InputError, match="not above 0"):
        CellFlow().effective(0.0)
    with pytest.raises(InputError, match="duration"):
        CellFlow().simulate(0.1, duration=-1.0)
