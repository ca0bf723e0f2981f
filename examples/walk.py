"""A senile reinforced random walk: its diffusivity exactly, and as a simulation sees it.

python examples/walk.py
"""

from __future__ import annotations

from gracile.walks import SenileWalk

print("delta      exact nu    simulated nu")
for delta in (0.2, 0.05, 0.01):
    walk = SenileWalk(1, delta=delta)
    exact = walk.diffusivity()
    seen = walk.simulate(100_000, walkers=2000, seed=0)
    print(f"{delta:<9}  {exact.nu:.6f}    {seen.nu:.3f}")
print("without perturbation the walk on the line is sub-diffusive:", SenileWalk(1, delta=0.0).recurrence())
