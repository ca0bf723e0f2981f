"""Make a network lean under Lightning's Trainer: one callback, and the module stays as it is.

python examples/with_lightning.py
"""

from __future__ import annotations

import logging
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import gracile
from gracile.data import batches, load
from gracile.integrations.lightning import SparseCallback

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", ".*does not have many workers.*")


class Digits(LightningModule):
    """As any LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = gracile.models.resnet20(in_channels=1)

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


splits = load("digits")
x, y = next(batches(splits.train, len(splits.train)))
example = x[:2]


def sparse(module: Digits, steps: int) -> gracile.splitting.Dial:
    """Two fifths of the multiply-adds by the end of the run, whose number of steps Lightning knows."""
    split = gracile.RGSM(module.net, beta=0.1, example=example)
    return gracile.splitting.Dial(split, steps=steps, macs=0.4, example=example)


torch.manual_seed(0)
callback = SparseCallback(sparse, example=example)
trainer = Trainer(
    max_epochs=4, callbacks=[callback], accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(Digits(), DataLoader(TensorDataset(x, y), 64, shuffle=True, drop_last=True))
print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})

lean = gracile.shrink(callback.sparse_model.eval(), example)
x, y = next(batches(splits.test, len(splits.test)))
with torch.no_grad():
    print(f"test accuracy of the lean network: {100 * float((lean(x).argmax(1) == y).float().mean()):.1f} %")
