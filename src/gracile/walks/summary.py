"""One walk in numbers, and the sweep over delta of theorems 2.3 to 2.6: what ``gracile walk`` prints and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gracile.core.console import told
from gracile.core.errors import InputError
from gracile.core.files import check_writable
from gracile.walks import rates
from gracile.walks.noise import Noise
from gracile.walks.reinforcement import ConstantReinforcement, PowerReinforcement
from gracile.walks.simulation import Method, Simulation
from gracile.walks.walk import Diffusivity, Recurrence, SenileWalk

GROWING = "half-normal-n"
# By dimension and law, the decades of delta that are drawn.
FAR = [1, 2, 3, 5, 8, 12, 20, 40, 80, 160, 280]
BEYOND = [1, 3, 10, 100, 1e4, 1e8, 1e16, 1e32, 1e64, 1e128, 1e256]
NEAR = [1, 2, 3, 4, 5, 6, 7, 8]
LAWS = ("none", "exponential", "half-cauchy", "pareto:0.5", GROWING)
SWEEPS: dict[int, dict[str, Sequence[float]]] = {
    1: {**dict.fromkeys(LAWS, FAR), "log-pareto": BEYOND},
    2: {**dict.fromkeys(LAWS, NEAR), "log-pareto": [1, 3, 10, 100, 1e3, 1e4, 1e6]},
}


@dataclass(frozen=True)
class WalkSummary:
    """What is known and what was seen of a walk.

    Attributes:
        walk: itself.
        exact: its diffusivity; None where n is the step of the walk and visits of edges are not alike.
        recurrence: how often it returns; None where that is undecided.
        undecided: why it is.
        simulated: a simulation; None without steps.
        picture: of the growth of E|S_n|^2, if one was drawn.
    """

    walk: SenileWalk
    exact: Diffusivity | None
    recurrence: Recurrence | None
    undecided: str
    simulated: Simulation | None
    picture: Path | None = None

    def __str__(self) -> str:
        exact, seen, lines = self.exact, self.simulated, []
        if exact is None:
            lines.append("nu exact       none: with n the step of the walk, visits of edges are not alike")
        else:
            lines.append(f"nu exact       {exact.nu:.15g}  +- {exact.error_bound:.1e}  ({exact.method})")
            lines.append(f"E[tau]         {exact.mean_tau:.15g}  +- {exact.mean_tau_error:.1e}")
            lines.append(f"P(tau odd)     {exact.p_odd:.15g}  +- {exact.p_odd_error:.1e}")
            if exact.growth is not None:
                lines.append(f"growth         {exact.growth}")
            kind = self.recurrence
            words = f"undecided: {self.undecided}" if kind is None else f"{kind.first}, {kind.second}: {kind.reason}"
            lines.append(f"recurrence     {words}")
        if seen is not None:
            lines.append(
                f"nu simulated   {seen.nu:.6g}  +- {seen.nu_error:.2g}  (E|S_n|^2 / n at n = {seen.times[-1]}, "
                f"{len(seen.ends)} walkers, seed {seen.seed}, by {seen.method})"
            )
        if self.picture is not None:
            lines.append(f"picture        {self.picture}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same for a program."""
        found: dict[str, Any] = {}
        if (exact := self.exact) is not None:
            found["exact"] = {
                "nu": exact.nu, "error_bound": exact.error_bound, "method": exact.method, "mean_tau": exact.mean_tau,
                "p_odd": exact.p_odd, "growth": None if exact.growth is None else str(exact.growth),
            }  # fmt: skip
        if (kind := self.recurrence) is not None:
            found["recurrence"] = {"first": kind.first, "second": kind.second, "reason": kind.reason}
        if (seen := self.simulated) is not None:
            found["simulated"] = {
                "nu": float(seen.nu), "standard_error": float(seen.nu_error), "steps": int(seen.times[-1]),
                "walkers": len(seen.ends), "seed": seen.seed, "method": seen.method,
            }  # fmt: skip
        return found | ({} if self.picture is None else {"picture": str(self.picture)})


def walk(
    dim: int = 1,
    *,
    delta: float = 0.0,
    model: Literal["I", "II", "III"] | None = None,
    noise: Noise | str | None = None,
    reinforcement: Any = "identity",
    clock: Literal["edge", "walk"] = "edge",
    steps: int = 100_000,
    walkers: int = 2000,
    seed: int = 0,
    workers: int = 1,
    method: Method = "auto",
    folder: Path | str | None = None,
) -> WalkSummary:
    """The diffusivity of a senile reinforced random walk, exact with its bound and simulated with its standard error.

    For the walk as an object, with all it can tell, see `gracile.walks.SenileWalk`.

    Args:
        dim: dimension d of the lattice, 1 or more.
        delta: strength of the perturbation, 0 or more.
        model: I fixed, II random, III growing; by default what `noise` says.
        noise: a row of `gracile.walks.NOISES`, such as ``pareto:0.5``, or a law.
        reinforcement: ``identity``, C or ``constant:C`` or ``power:C,P`` for f(m) = m, C m, C, C m^P; or a function of
            m.
        clock: what n counts in model III.
        steps: of the simulation, 0 to 1e15; 0 for none.
        walkers: how many are simulated, 1 or more.
        seed: of the simulation.
        workers: threads of the simulation, 1 or more.
        method: of the simulation; see `gracile.walks.SenileWalk.simulate`.
        folder: for a picture of the growth; none by default.

    Returns:
        The walk, nu and E[tau] with their bounds, its recurrence, and what was simulated; printing it gives them line by line.

    Raises:
        InputError: a model without its noise, or a number out of range.
        StorageError: no picture can be written in `folder`; that is tried before anything is simulated.

    Source:
        Dinh and Xin, "Enhanced diffusivity in perturbed senile reinforced random walk models"; Holmes and Sakai,
        "Senile reinforced random walks".
    """
    if folder is not None:
        check_writable(Path(folder))
    found = SenileWalk(dim, _reinforcement(reinforcement), delta=delta, noise=_noise(model, noise), clock=clock)
    exact = recurrence = simulated = picture = None
    undecided = ""
    if found.clock == "edge":
        exact = found.diffusivity()
        try:
            recurrence = found.recurrence()
        except InputError as error:
            undecided = error.cause
    if steps:
        simulated = found.simulate(steps, walkers, seed, method=method, workers=workers)
        if folder is not None and exact is not None:
            from gracile.walks import pictures

            picture = pictures.growth(
                Path(folder) / "growth.svg", simulated.times, simulated.mean_square, simulated.standard_error, exact.nu,
                f"d = {dim}, delta = {delta:g}",
            )  # fmt: skip
    return WalkSummary(found, exact, recurrence, undecided, simulated, picture)


@dataclass(frozen=True)
class Sweep:
    """How nu(delta) leaves nu(0), by dimension and law.

    Attributes:
        slopes: rows with ``dim``, ``noise``, ``axis``, the ``predicted`` and the ``fitted`` slope and the last
            ``decades`` of delta.
        pictures: the files.
    """

    slopes: list[dict[str, Any]]
    pictures: list[Path]

    def __str__(self) -> str:
        lines = [
            f"d = {row['dim']}  {row['noise']:<14} on {row['axis']:<18} predicted slope {row['predicted']:.5g}, "
            f"fitted {row['fitted']:.5g} (delta from 10^-{row['decades'][0]:g} to 10^-{row['decades'][1]:g})"
            for row in self.slopes
        ]
        return "\n".join([*lines, *map(str, self.pictures)])

    def to_json(self) -> dict[str, Any]:
        """The same for a program."""
        return {"slopes": self.slopes, "pictures": list(map(str, self.pictures))}


def sweep(folder: Path | str, seed: int = 0) -> Sweep:
    """Draw nu(delta) for the models of theorems 2.3 to 2.6 on the predicted axes, and trajectories in the plane.

    Args:
        folder: where the pictures go.
        seed: of the trajectories; nu is exact.

    Raises:
        StorageError: no pictures can be written in `folder`; that is tried first.
    """
    check_writable(Path(folder))
    from gracile.walks import pictures

    found = Sweep([], [])
    for dim, laws in SWEEPS.items():
        curves = {}
        for name, decades in laws.items():
            told.info("d = %d, noise %s", dim, name)
            noise = None if name == "none" else name
            rate, points = rates.derived(dim, noise), rates.sweep(dim, noise, decades)
            curves["model I" if noise is None else name] = (rate, points)
            found.slopes.append({
                "dim": dim, "noise": name, "axis": rate.axis, "predicted": float(rate.slope),
                "fitted": float(rates.fitted(points[-3:])), "decades": [decades[-3], decades[-1]],
            })  # fmt: skip
        words = "ν(δ)" if dim == 1 else "ν(δ) − ν(0)"
        title = f"{words} in d = {dim}, f(m) = m"
        found.pictures.append(pictures.rates(Path(folder) / f"rates-d{dim}.svg", dim, curves, title))
    shown: Mapping[str, SenileWalk] = {
        "simple random walk": SenileWalk(2, 0.0),
        "senile, f(m) = m": SenileWalk(2),
        "senile, model I, δ = 0.1": SenileWalk(2, delta=0.1),
    }
    found.pictures.append(pictures.trajectories(Path(folder) / "trajectories.svg", shown, 20_000, seed))
    return found


def _noise(model: str | None, noise: Any) -> Any:
    """The law that a model has."""
    if model == "I" and noise:
        raise InputError("Model I has no random noise.", "Leave the noise out, or take model II.")
    if model == "II" and (not noise or str(noise).endswith("-n")):
        raise InputError("Model II needs a noise that does not grow.", "Add one, such as half-cauchy.")
    if model == "III" and not (noise is None or str(noise).endswith("-n")):
        raise InputError(f"Model III needs a noise that grows with n; '{noise}' does not.", f"Use {GROWING}.")
    return noise or GROWING if model == "III" else noise


def _reinforcement(given: Any) -> Any:
    """What a text such as ``power:1,0.5`` stands for; anything else as it is."""
    if not isinstance(given, str):
        return given
    name, _, numbers = given.partition(":")
    try:
        if name == "constant":
            return ConstantReinforcement(float(numbers))
        if name == "power":
            c, p = map(float, numbers.split(","))
            return PowerReinforcement(c, p)
        return given if given == "identity" else float(given)
    except InputError:
        raise
    except ValueError:
        raise InputError(
            f"The reinforcement '{given}' is not understood.", "Write identity, 2.5, constant:3 or power:1,0.5."
        ) from None
