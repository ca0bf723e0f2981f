"""Sparse training under Lightning's Trainer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gracile.integrations.companion import Build, Companion, stand_in

try:
    from lightning.pytorch import Callback
except (ImportError, RuntimeError) as error:
    # It imports torchvision, which fails by a RuntimeError beside another torch than its own.
    Callback = stand_in("Lightning", "lightning", error)


class SparseCallback(Callback):  # pyright: ignore[reportGeneralTypeIssues] - or what says that it is missing
    """Makes the model sparse while Lightning trains it; the LightningModule stays as it is.

    Attaches when training starts, logs at the end of each epoch, stores the method's state in Lightning's own checkpoints and
    takes it up again with ``trainer.fit(..., ckpt_path=...)``: a run that was killed ends with the same bits.

    Args:
        method: a splitting, a `gracile.splitting.Dial` or a method of `gracile.pruning`, built on the LightningModule or a part of
            it; or a function from the LightningModule and the run's number of optimiser steps to one.
        example: one input batch of what the method was built on, to log what is physically left; None logs zeros alone.

    Attributes:
        sparse_model: after training, a copy of what the method was built on with its exact zeros, to be shrunk or exported; None
            where the model is sharded.
        sparse_state: after training a sharded model, its sparse state dict, whole.

    Example:
        >>> from gracile.splitting import RGSM, Dial
        >>> def sparse(module, steps):
        ...     return Dial(RGSM(module.net, beta=0.1, example=x), steps=steps, macs=0.5, example=x)
        >>> callback = SparseCallback(sparse, example=x)  # doctest: +SKIP
        >>> Trainer(callbacks=[callback]).fit(module, loader)  # doctest: +SKIP
        >>> lean = gracile.shrink(callback.sparse_model.eval(), x)  # doctest: +SKIP
    """

    def __init__(self, method: Build, *, example: Tensor | None = None) -> None:
        super().__init__()
        self._companion = Companion(method, example)

    @property
    def method(self) -> Any:
        """The method, once training has started."""
        return self._companion.method

    @property
    def sparse_model(self) -> nn.Module | None:
        return self._companion.sparse_model

    @property
    def sparse_state(self) -> dict[str, Tensor] | None:
        return self._companion.sparse_state

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        resumed = trainer.global_step > 0
        self._companion.begin(pl_module, trainer.estimated_stepping_batches, trainer.optimizers, resumed=resumed)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._companion.method.end_epoch()
        pl_module.log_dict(self._companion.row(), rank_zero_only=False, sync_dist=False)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._companion.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._companion.method is not None:
            self._companion.method.detach()

    def state_dict(self) -> dict[str, Any]:
        return self._companion.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._companion.take(state_dict)
