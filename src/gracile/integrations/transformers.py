"""Sparse training under the Trainer of Hugging Face transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gracile.core.errors import StorageError
from gracile.integrations.companion import Build, Companion, stand_in
from gracile.training.checkpoints import load, save

try:
    from transformers import TrainerCallback
except (ImportError, RuntimeError) as error:
    # It imports torchvision, which fails by a RuntimeError beside another torch than its own.
    TrainerCallback = stand_in("transformers", "transformers", error)

STATE = "gracile.safetensors"


class SparseCallback(TrainerCallback):  # pyright: ignore[reportGeneralTypeIssues] - or what says that it is missing
    """Makes the model sparse while Hugging Face's Trainer trains it.

    Attaches when training begins, adds its shares to each of the Trainer's log rows, writes the method's state into the Trainer's
    own checkpoints (``gracile.safetensors``) and takes it up again with ``trainer.train(resume_from_checkpoint=...)``: a run that
    was killed ends with the same bits.

    Args:
        method: a splitting, a `gracile.splitting.Dial` or a method of `gracile.pruning`, built on the model; or a function from the
            model and the run's number of optimiser steps to one.
        example: one input batch, to log what is physically left; None logs zeros alone.
        resume_from: the checkpoint's folder, where it is not ``checkpoint-<step>`` in the Trainer's output folder.

    Attributes:
        sparse_model: after training, a copy of the model with its exact zeros; None where the model is sharded.
        sparse_state: after training a sharded model, its sparse state dict, whole.

    Example:
        >>> from gracile.splitting import RVSM, Dial
        >>> callback = SparseCallback(lambda model, steps: Dial(RVSM(model, beta=0.1), steps=steps, sparsity=0.9))
        >>> Trainer(model, args, train_dataset=data, callbacks=[callback]).train()  # doctest: +SKIP
        >>> callback.sparse_model.save_pretrained("sparse")  # doctest: +SKIP
    """

    def __init__(self, method: Build, *, example: Tensor | None = None, resume_from: str | Path | None = None) -> None:
        self._companion = Companion(method, example)
        self._resume_from = resume_from

    @property
    def method(self) -> Any:
        """The method, once training has begun."""
        return self._companion.method

    @property
    def sparse_model(self) -> nn.Module | None:
        return self._companion.sparse_model

    @property
    def sparse_state(self) -> dict[str, Tensor] | None:
        return self._companion.sparse_state

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        resumed = state.global_step > 0
        if resumed:
            folder = Path(self._resume_from or Path(args.output_dir) / f"checkpoint-{state.global_step}")
            if not (folder / STATE).is_file():
                raise StorageError(
                    f"The checkpoint {folder} holds no {STATE}, the state of its sparse training.",
                    "Resume from an earlier one, or pass resume_from=the checkpoint's folder.",
                )
            self._companion.take(load(folder / STATE))
        self._companion.begin(given["model"], state.max_steps, [given["optimizer"]], resumed=resumed)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._companion.method.end_epoch()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **given: Any) -> None:
        if self._companion.method is not None and logs is not None and state.log_history:
            row = self._companion.row()
            logs.update(row)
            state.log_history[-1].update(row)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        method_state = self._companion.state()
        if state.is_world_process_zero:
            save(Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE, method_state)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._companion.end()
