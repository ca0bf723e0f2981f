"""The walks room: what it refuses, what it reports, its command and recipes."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import mpmath
import numpy as np
import pytest
from scipy import stats

from gracile import cli
from gracile.core.errors import InputError
from gracile.recipes import load, run
from gracile.recipes.schema import resized
from gracile.walks import (
    ConstantReinforcement,
    CustomReinforcement,
    LinearReinforcement,
    PowerReinforcement,
    SenileWalk,
    rates,
)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SenileWalk(0), "dimension"),
        (lambda: SenileWalk(1.5), "dimension"),  # type: ignore[arg-type]
        (lambda: SenileWalk(1, delta=-0.1), "negative"),
        (lambda: SenileWalk(1, delta=math.nan), "nan"),
        (lambda: SenileWalk(1, lambda m: -m), r"f\(2\)"),
        (lambda: SenileWalk(1, -0.5), "probabilities"),
        (lambda: SenileWalk(1, ConstantReinforcement(-1.5)), "probability"),
        (lambda: SenileWalk(1, PowerReinforcement(-0.5, 2.0)), "probabilities"),
        (lambda: SenileWalk(1, "indentity"), "not a reinforcement"),
        (lambda: SenileWalk(1, delta=0.1, noise=stats.norm()), "negative"),
        (lambda: SenileWalk(1, delta=0.1, noise=lambda x: x), "leaves"),
        (lambda: SenileWalk(1, delta=0.1, noise="half-couchy"), "half-cauchy"),
        (lambda: SenileWalk(1, delta=0.1, noise="pareto:x"), "parameter"),
        (lambda: SenileWalk(1, delta=0.1, noise="pareto:-1"), "index"),
        (lambda: SenileWalk(1, delta=0.1, noise="half-normal-n", clock="edgy"), "clock"),  # type: ignore[arg-type]
        (lambda: rates.mean_of(SenileWalk(2, noise="half-cauchy").noise), "mean"),
        (lambda: rates.derived(2, stats.cauchy(loc=0)), "negative"),
        (lambda: SenileWalk(1, lambda m: m).diffusivity(), "finite"),
        (lambda: SenileWalk(1, lambda m: m, delta=1e-9).diffusivity(), "concave"),
        (lambda: SenileWalk(1, delta=mpmath.mpf(10) ** -400, noise="exponential").diffusivity(), "floats"),
        (lambda: SenileWalk(1, delta=0.1, noise="half-normal-n", clock="walk").diffusivity(), "clock"),
        (lambda: SenileWalk(1, PowerReinforcement(1.0, 2.0)).recurrence(), "for ever"),
        (lambda: SenileWalk(1).simulate(0), "steps"),
        (lambda: SenileWalk(1).simulate(10**16), "10"),
        (lambda: SenileWalk(1).simulate(10, walkers=0), "walkers"),
        (lambda: SenileWalk(1).simulate(10, records=[3, 2]), "increasing"),
        (lambda: SenileWalk(4).simulate(10, method="batches"), "d = 1 to 3"),
        (lambda: SenileWalk(1).simulate(10, method="leaps"), "leaps"),  # type: ignore[arg-type]
        (lambda: SenileWalk(1, delta=0.7).simulate(10, method="batches"), "parities"),
        (lambda: SenileWalk(1, delta=0.1, noise="half-normal-n", clock="walk").simulate(10, method="edges"), "law"),
    ],
)
def test_mistakes_are_named(make, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_a_law_s_values_beyond_the_first_are_checked_when_they_are_used() -> None:
    walk = SenileWalk(1, CustomReinforcement(lambda m: np.where(m > 1000, -2.0, m)), delta=0.01)
    with pytest.raises(InputError, match=r"f\(1001\)"):
        walk.diffusivity()


@pytest.mark.parametrize(
    ("dim", "c", "first", "second"),
    [
        (1, 1.0, "recurrent (I)", "recurrent (II)"),
        (2, 5.0, "recurrent (I)", "recurrent (II)"),
        (3, 4.9, "transient (I)", "transient (II)"),
        (3, 5.0, "transient (I)", "recurrent (II)"),
    ],
)
def test_recurrence_of_linear_reinforcement(dim: int, c: float, first: str, second: str) -> None:
    found = SenileWalk(dim, LinearReinforcement(c)).recurrence()
    assert (found.first, found.second) == (first, second)


def test_a_perturbed_walk_has_the_class_of_finite_visits() -> None:
    assert SenileWalk(3, 9.0, delta=1e-6).recurrence().second == "transient (II)"


def test_a_walk_that_never_turns_is_transient() -> None:
    assert SenileWalk(1, ConstantReinforcement(-1.0)).recurrence().first == "transient (I)"


def test_a_power_above_one_may_stay_for_ever() -> None:
    found = SenileWalk(1, PowerReinforcement(1.0, 2.0)).diffusivity()
    assert (found.nu, found.method) == (0.0, "localised")
    # It is diffusive again under any perturbation.
    assert SenileWalk(1, PowerReinforcement(1.0, 2.0), delta=1e-3).diffusivity().nu > 0


@pytest.mark.parametrize(("dim", "method"), [(1, "batches"), (3, "batches"), (1, "edges"), (2, "edges"), (1, "steps")])
def test_the_same_seed_gives_the_same_walk_on_any_number_of_threads(dim: int, method) -> None:
    walk = SenileWalk(dim, delta=0.1)
    a, b = (walk.simulate(200, 5100, 3, method=method, workers=workers) for workers in (1, 2))
    np.testing.assert_array_equal(a.ends, b.ends)
    np.testing.assert_array_equal(a.mean_square, b.mean_square)
    assert (walk.simulate(200, 5100, 4, method=method).ends != a.ends).any()


def test_mean_square_is_that_of_the_ends() -> None:
    found = SenileWalk(2, delta=0.1).simulate(300, 2600, 5)
    square = np.sum(found.ends.astype(float) ** 2, axis=1)
    assert found.mean_square[-1] == pytest.approx(square.mean())
    assert found.standard_error[-1] == pytest.approx(square.std(ddof=1) / math.sqrt(2600))
    assert found.times[-1] == 300


def test_the_first_steps_are_exact() -> None:
    # After one step |S| = 1; parity of place and time agree.
    found = SenileWalk(1, delta=0.05).simulate(1001, 500, 6, records=[1, 2, 1001])
    assert found.mean_square[0] == 1
    assert (np.abs(found.ends) % 2 == 1).all()


def test_ten_to_the_fifteen_steps_do_not_overflow() -> None:
    # Ballistic in two steps of nine tenths: the largest displacement there is, in visits as long as the walk.
    found = SenileWalk(1, PowerReinforcement(1.0, 3.0)).simulate(10**15, 200, 7, records=[10**15])
    assert (np.abs(found.ends) <= 10**15).all()
    slow = SenileWalk(1, 9.0, delta=0.0).simulate(10**15, 50, 8, records=[10**6, 10**15], method="edges")
    assert np.isfinite(slow.mean_square).all()


def test_the_clock_of_the_walk_ends_ballistic_on_the_line() -> None:
    walk = SenileWalk(1, delta=0.2, noise="half-normal-n", clock="walk")
    found = walk.simulate(2000, 300, 9, records=[200, 2000])
    assert math.log10(found.mean_square[1] / found.mean_square[0]) > 1.5


def test_the_room_does_not_import_torch_or_matplotlib() -> None:
    code = "import sys, gracile.walks, gracile.commands.walk\n"
    code += "print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "[]"


def test_the_command_prints_exact_and_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["walk", "--dim", "1", "--delta", "0.01", "--model", "I", "--steps", "2000", "--walkers", "200"]) == 0
    )
    out = capsys.readouterr().out
    assert "0.22297668" in out
    assert "nu simulated" in out


@pytest.mark.parametrize(
    "words",
    [
        ["--dim", "0"], ["--delta", "-1"], ["--model", "II"], ["--model", "III", "--noise", "uniform"],
        ["--model", "I", "--noise", "uniform"], ["--reinforcement", "cubic"],
    ],
)  # fmt: skip
def test_the_command_refuses_with_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["walk", *words, "--steps", "0"]) == 2
    assert capsys.readouterr().err.startswith("gracile: ")


@pytest.mark.parametrize("number", ["2.3", "2.4", "2.5", "2.6"])
def test_recipes_run_and_meet_their_criteria(number: str, tmp_path) -> None:
    finished = run(resized(load(f"theorem-{number}"), "smoke"), tmp_path / "run")
    assert finished.verdicts
    assert all(met for _, met in finished.verdicts)
    assert all((finished.folder.path / plot).stat().st_size > 10_000 for plot in finished.outcome.plots.values())


def test_the_sweep_s_pictures_are_drawn(tmp_path) -> None:
    from gracile.walks import pictures

    curves = {name: (rates.derived(2, name), rates.sweep(2, name, [2, 4, 6])) for name in ("half-cauchy",)}
    assert pictures.rates(tmp_path / "rates.svg", 2, curves, "test").stat().st_size > 10_000
    walks = {"one": SenileWalk(2), "other": SenileWalk(2, delta=0.1)}
    assert pictures.trajectories(tmp_path / "paths.svg", walks, 500, 1).stat().st_size > 10_000


@pytest.mark.parametrize("name", [None, "exponential", "pareto:0.5"])
def test_slopes_in_the_plane_are_those_derived(name: str | None) -> None:
    rate, points = rates.derived(2, name), rates.sweep(2, name, [6, 8, 9])
    assert rates.fitted(points) == pytest.approx(rate.slope, rel=0.03)
    assert rates.reach(points, rate.slope, 0.05) == 6


def test_a_rate_held_against_exact_values_is_seen_where_gain_follows_it():
    held = rates.held_against(2, "uniform", [2.0, 3.0, 4.0, 5.0, 6.0], fit_last=2)
    assert held.axis == held.derived.axis == "delta"
    assert held.slope / held.derived.slope == pytest.approx(1, abs=0.01)
    assert held.end_ratio == pytest.approx(1, abs=0.01)
    assert held.growth == pytest.approx(1, abs=0.01)
    assert held.seen is not None
    assert held.seen <= 5
    assert held.error_bound < 1e-3
    gains = [point.gain / point.x / held.derived.slope for point in held.points if point.decades >= held.seen]
    assert all(abs(gain - 1) <= 0.05 for gain in gains)
