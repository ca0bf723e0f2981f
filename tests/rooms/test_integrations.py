"""The callbacks in the real frameworks: they attach, steer, log, resume to the same bits, and hand back the sparse model."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gracile
from gracile import RGSM, RVSM
from gracile.core.errors import StorageError
from gracile.pruning import ADMM
from gracile.splitting import Dial
from tests.peers import peer

EPOCHS, SAMPLES, BATCH = 4, 64, 16
STEPS = EPOCHS * SAMPLES // BATCH
EXAMPLE = torch.zeros(2, 1, 8, 8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 3),
    )


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.rand(SAMPLES, 1, 8, 8, generator=random), torch.randint(3, (SAMPLES,), generator=random)


METHODS = {
    "rgsm, dial": lambda net, steps: Dial(RGSM(net, beta=0.1, example=EXAMPLE), steps=steps, macs=0.5, example=EXAMPLE),
    "rvsm": lambda net, steps: RVSM(net, "l0", lam=1e-3, beta=0.2),
    "admm": lambda net, steps: ADMM(net, steps=steps, sparsity=0.7, rho=0.1, retrain=0.4),
}
every_method = pytest.mark.parametrize("name", METHODS)


class Killed(Exception):
    pass


# Lightning.


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch):
    found = peer("lightning.pytorch")
    for name in ("lightning.pytorch", "lightning.fabric"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.ERROR)
    return found


def lightning_run(lightning: Any, name: str, folder: Path, *, die_at: int | None = None, ckpt_path: str | None = None):
    """One run, with its callback and the module."""
    from gracile.integrations.lightning import SparseCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch, number):
            if self.global_step == die_at:
                raise Killed
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]

    callback = SparseCallback(lambda module, steps: METHODS[name](module.net, steps), example=EXAMPLE)
    saver = lightning.callbacks.ModelCheckpoint(folder, save_last=True)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, callbacks=[callback, saver], accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    module = Module()
    with warnings.catch_warnings():
        # Lightning's own advice: few workers, few batches, a folder that is not empty, and torch calls it still uses.
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(TensorDataset(*samples()), BATCH), ckpt_path=ckpt_path)
    return module, callback, trainer


@every_method
def test_lightning_resumes_a_killed_run_to_the_same_bits(lightning, name: str, tmp_path: Path):
    whole, callback, _ = lightning_run(lightning, name, tmp_path / "whole")
    with pytest.raises(Killed):
        lightning_run(lightning, name, tmp_path / "killed", die_at=STEPS // 2 + 2)
    resumed, again, _ = lightning_run(
        lightning, name, tmp_path / "killed", ckpt_path=str(tmp_path / "killed" / "last.ckpt")
    )
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key
    for ours, theirs in zip(callback.sparse_model.parameters(), again.sparse_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_lightning_trains_what_a_plain_loop_trains(lightning, tmp_path: Path):
    module, _, _ = lightning_run(lightning, "rgsm, dial", tmp_path)
    plain = network()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    METHODS["rgsm, dial"](plain, STEPS).attach(optimizer)
    for _ in range(EPOCHS):
        for x, y in DataLoader(TensorDataset(*samples()), BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(x), y).backward()
            optimizer.step()
        schedule.step()
    for ours, theirs in zip(module.net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_lightning_logs_what_is_left_and_hands_back_what_shrinks(lightning, tmp_path: Path):
    _, callback, trainer = lightning_run(lightning, "rgsm, dial", tmp_path)
    assert 0 < trainer.callback_metrics["sparsity"] < 1
    assert trainer.callback_metrics["macs_left"] <= 0.5
    lean = gracile.shrink(callback.sparse_model.eval(), EXAMPLE)
    assert sum(p.numel() for p in lean.parameters()) < sum(p.numel() for p in network().parameters())


def test_a_lightning_checkpoint_of_a_dense_run_is_not_taken_for_a_sparse_one(lightning, tmp_path: Path):
    with pytest.raises(Killed):
        lightning_run(lightning, "rvsm", tmp_path, die_at=STEPS // 2)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    checkpoint["callbacks"] = {}
    torch.save(checkpoint, tmp_path / "dense.ckpt")
    with pytest.raises(StorageError, match="no state of its sparse training"):
        lightning_run(lightning, "rvsm", tmp_path, ckpt_path=str(tmp_path / "dense.ckpt"))


# Hugging Face.


class Classifier(nn.Module):
    """As transformers wants one: a loss where labels are given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x, labels=None):
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.fixture
def transformers():
    peer("accelerate")
    peer("transformers.trainer")
    return peer("transformers")


def transformers_run(transformers: Any, name: str, folder: Path, *, die_at: int | None = None, resume: bool = False):
    """One run, with its callback and the model."""
    from gracile.integrations.transformers import SparseCallback

    class Killer(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            if state.global_step == die_at:
                raise Killed

    x, y = samples()
    args = transformers.TrainingArguments(
        str(folder), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, save_steps=3, logging_steps=4, learning_rate=0.02,
        report_to=[], disable_tqdm=True, use_cpu=True, seed=3, max_grad_norm=1.0,
    )  # fmt: skip
    callback = SparseCallback(lambda model, steps: METHODS[name](model.net, steps), example=EXAMPLE)
    model = Classifier()
    with warnings.catch_warnings():
        # Its own: pinned memory without a GPU, and a scheduler stepped as it does.
        warnings.simplefilter("ignore")
        trainer = transformers.Trainer(
            model,
            args,
            train_dataset=[{"x": a, "labels": b} for a, b in zip(x, y, strict=True)],
            callbacks=[callback, Killer()],
        )
        trainer.train(resume_from_checkpoint=resume or None)
    return model, callback, trainer


@every_method
def test_transformers_resumes_a_killed_run_to_the_same_bits(transformers, name: str, tmp_path: Path, capsys):
    whole, callback, _ = transformers_run(transformers, name, tmp_path / "whole")
    with pytest.raises(Killed):
        transformers_run(transformers, name, tmp_path / "killed", die_at=STEPS // 2 + 3)
    resumed, again, _ = transformers_run(transformers, name, tmp_path / "killed", resume=True)
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key
    for ours, theirs in zip(callback.sparse_model.parameters(), again.sparse_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_transformers_logs_what_is_left_and_hands_back_what_shrinks(transformers, tmp_path: Path, capsys):
    _, callback, trainer = transformers_run(transformers, "rgsm, dial", tmp_path)
    rows = [row for row in trainer.state.log_history if "macs_left" in row]
    assert rows[-1]["macs_left"] <= 0.5
    lean = gracile.shrink(callback.sparse_model.eval(), EXAMPLE)
    assert sum(p.numel() for p in lean.parameters()) < sum(p.numel() for p in network().parameters())


def test_a_transformers_checkpoint_without_its_state_says_so(transformers, tmp_path: Path, capsys):
    with pytest.raises(Killed):
        transformers_run(transformers, "rvsm", tmp_path, die_at=7)
    for state in tmp_path.glob("checkpoint-*/gracile.safetensors"):
        state.unlink()
    with pytest.raises(StorageError, match="holds no"):
        transformers_run(transformers, "rvsm", tmp_path, resume=True)
