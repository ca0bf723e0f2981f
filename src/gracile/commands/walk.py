"""Diffusivity of senile reinforced random walks, exact and simulated.

`gracile walk --dim 1 --delta 0.01` prints nu with its bound and a simulation with its standard error. `gracile walk
sweep` draws nu(delta) for the models of theorems 2.3 to 2.6 on the predicted axes, and trajectories in the plane.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", choices=["one", "sweep"], default="one", help="one walk (default), or the sweep of pictures"
    )
    parser.add_argument("--dim", type=int, default=1, help="dimension d (default: 1)")
    parser.add_argument("--delta", type=float, default=0.0, help="strength of the perturbation (default: 0)")
    parser.add_argument(
        "--model", choices=["I", "II", "III"], help="I fixed, II random, III growing (default: by --noise)"
    )
    parser.add_argument(
        "--noise",
        help="half-cauchy, pareto:J, log-pareto, exponential, uniform (model II) or half-normal-n (model III)",
    )
    parser.add_argument(
        "--reinforcement", default="identity", help="identity, a number C for C m, constant:C or power:C,P"
    )
    parser.add_argument(
        "--clock", choices=["edge", "walk"], default="edge", help="what n counts in model III (default: edge)"
    )
    parser.add_argument(
        "--steps", type=int, default=100_000, help="steps of the simulation; 0 for none (default: 100000)"
    )
    parser.add_argument("--walkers", type=int, default=2000, help="walkers of the simulation (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="threads (default: 1)")
    parser.add_argument("--method", default="auto", help="auto, steps, edges or batches")
    parser.add_argument(
        "--out", type=Path, help="folder for the pictures (default: runs/walk-sweep-N for sweep, none for one walk)"
    )


def run(args: argparse.Namespace) -> int:
    return _sweep(args) if args.what == "sweep" else _one(args)


def _one(args: argparse.Namespace) -> int:
    from gracile.core.errors import InputError
    from gracile.walks import SenileWalk

    walk = SenileWalk(
        args.dim, _reinforcement(args.reinforcement), delta=args.delta, noise=_noise(args), clock=args.clock
    )
    nu = None
    if walk.clock == "edge":
        exact = walk.diffusivity()
        nu = exact.nu
        print(f"nu exact       {exact.nu:.15g}  +- {exact.error_bound:.1e}  ({exact.method})")
        print(f"E[tau]         {exact.mean_tau:.15g}  +- {exact.mean_tau_error:.1e}")
        print(f"P(tau odd)     {exact.p_odd:.15g}  +- {exact.p_odd_error:.1e}")
        if exact.growth is not None:
            print(f"growth         {exact.growth}")
        try:
            kind = walk.recurrence()
            print(f"recurrence     {kind.first}, {kind.second}: {kind.reason}")
        except InputError as error:
            print(f"recurrence     undecided: {error.cause}")
    else:
        print("nu exact       none: with n the step of the walk, visits of edges are not alike")
    if args.steps:
        seen = walk.simulate(args.steps, args.walkers, args.seed, method=args.method, workers=args.workers)
        print(
            f"nu simulated   {seen.nu:.6g}  +- {seen.nu_error:.2g}  (E|S_n|^2 / n at n = {seen.times[-1]}, "
            f"{args.walkers} walkers, seed {args.seed}, by {seen.method})"
        )
        if args.out is not None and nu is not None:
            from gracile.walks import pictures

            path = args.out / "growth.png"
            title = f"d = {args.dim}, delta = {args.delta:g}"
            pictures.growth(path, seen.times, seen.mean_square, seen.standard_error, nu, title)
            print(f"picture        {path}")
    return 0


def _noise(args: argparse.Namespace) -> str | None:
    from gracile.core.errors import InputError

    if args.model == "I" and args.noise:
        raise InputError("Model I has no random noise.", "Leave out --noise, or say --model II.")
    if args.model == "II" and (not args.noise or args.noise == "half-normal-n"):
        raise InputError("Model II needs a noise that does not grow.", "Add one, such as --noise half-cauchy.")
    if args.model == "III" and args.noise not in (None, "half-normal-n"):
        raise InputError(
            f"Model III needs a noise that grows with n; '{args.noise}' does not.", "Use --noise half-normal-n."
        )
    return "half-normal-n" if args.model == "III" else args.noise


def _reinforcement(text: str) -> object:
    from gracile.core.errors import InputError
    from gracile.walks import ConstantReinforcement, PowerReinforcement

    name, _, numbers = text.partition(":")
    try:
        if name == "constant":
            return ConstantReinforcement(float(numbers))
        if name == "power":
            c, p = map(float, numbers.split(","))
            return PowerReinforcement(c, p)
        return text if text == "identity" else float(text)
    except InputError:
        raise
    except ValueError:
        raise InputError(
            f"The reinforcement '{text}' is not understood.", "Write identity, 2.5, constant:3 or power:1,0.5."
        ) from None


# Per dimension, the laws drawn and the decades of delta.
FAR = [1, 2, 3, 5, 8, 12, 20, 40, 80, 160, 280]
BEYOND = [1, 3, 10, 100, 1e4, 1e8, 1e16, 1e32, 1e64, 1e128, 1e256]
NEAR = [1, 2, 3, 4, 5, 6, 7, 8]
SWEEPS = {
    1: {
        "none": FAR,
        "exponential": FAR,
        "half-cauchy": FAR,
        "pareto:0.5": FAR,
        "half-normal-n": FAR,
        "log-pareto": BEYOND,
    },
    2: {
        "none": NEAR,
        "exponential": NEAR,
        "half-cauchy": NEAR,
        "pareto:0.5": NEAR,
        "half-normal-n": NEAR,
        "log-pareto": [1, 3, 10, 100, 1e3, 1e4, 1e6],
    },
}


def _sweep(args: argparse.Namespace) -> int:
    from gracile.commands.running import RUNS
    from gracile.core.runs import new_folder
    from gracile.walks import SenileWalk, pictures, rates

    out = args.out or new_folder(RUNS, "walk-sweep")
    for dim, laws in SWEEPS.items():
        curves = {}
        print(f"d = {dim}")
        for name, decades in laws.items():
            noise = None if name == "none" else name
            rate, points = rates.derived(dim, noise), rates.sweep(dim, noise, decades)
            curves["model I" if noise is None else name] = (rate, points)
            print(
                f"  {name:<14} on {rate.axis:<18} predicted slope {rate.slope:.5g}, "
                f"fitted {rates.fitted(points[-3:]):.5g} (delta from 10^-{decades[-3]:g} to 10^-{decades[-1]:g})"
            )
        words = "ν(δ)" if dim == 1 else "ν(δ) − ν(0)"
        print(f"  {pictures.rates(out / f'rates-d{dim}.png', dim, curves, f'{words} in d = {dim}, f(m) = m')}")
    walks = {
        "simple random walk": SenileWalk(2, 0.0),
        "senile, f(m) = m": SenileWalk(2),
        "senile, model I, δ = 0.1": SenileWalk(2, delta=0.1),
    }
    print(f"  {pictures.trajectories(out / 'trajectories.png', walks, 20_000, args.seed)}")
    return 0
