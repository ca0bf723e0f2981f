"""The attack that the papers on sparse EnResNets call C&W, as their code has it."""

from __future__ import annotations

import torch
from torch import Tensor

from gracile.attacks.losses import margin
from gracile.attacks.victim import Mode, Model, attack, attacking, finished


@attack
def cw_paper(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 50,
    lr: float = 6e-4,
    c: float = 10.0,
    scale: float = 1.0,
    draws: int | None = None,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
) -> Tensor:
    """Adam on pixels that descends ``|d|^2 + c max(z_pred - z_second, 0)``; for the papers' tables only.

    It knows no ball and does not keep pixels in [0, 1], moves no pixel further than about ``steps * lr``, and fights the network's
    answer in place of the label. In every published table it is weaker than one step of FGSM: beside it, report `cw`.

    Args:
        model, x, y, draws, seed, mode, chunk: see `gracile.attacks.pgd`; `y` is only checked.
        steps, lr: Adam's.
        c: weight of the margin.
        scale: on the final perturbation; the code as it was shipped has 0.031, with which nothing is left of the attack.

    Returns:
        (n, ...), not kept in [0, 1] nor in any ball.

    Raises:
        InputError: an argument that cannot be used.
        NonFiniteError: gradients that are not finite.
    """
    given = x
    with attacking(model, x, y, eps=None, draws=draws, seed=seed, mode=mode, chunk=chunk, steps=steps) as (
        victim,
        x,
        y,
    ):
        answers = victim.logits(x).argmax(dim=1)
        # Adam's guard against division by 0 is 0 itself in half precision.
        exact = torch.promote_types(x.dtype, torch.float32)
        delta = torch.zeros_like(x, dtype=exact, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=lr)
        for _ in range(steps):
            gains, _, gradient = victim.gradient((x + delta).detach().to(x.dtype), margin, answers)
            active = (gains < 0).to(exact).view(-1, *[1] * (x.ndim - 1))
            delta.grad = (2 * delta - c * active * gradient).detach()
            optimizer.step()
        return finished(x + scale * delta.detach(), given)
