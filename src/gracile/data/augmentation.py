"""Random flips and padded crops of uint8 images, all samples of a batch at once, on the batch's device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gracile.core.errors import InputError


@dataclass(frozen=True)
class Augmentation:
    """Random horizontal flip and random crop after zero padding.

    Attributes:
        flip: mirror each image left to right with probability 1/2.
        crop: pixels of black padding on every side, of which a random window of the original size is kept; 0 for none.

    Raises:
        InputError: `crop` is negative.
    """

    flip: bool = False
    crop: int = 0

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise InputError(f"crop is {self.crop}.", "Give the padding in pixels, 0 or more.")

    def __call__(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment a batch.

        Args:
            x: uint8 (n, c, h, w), left as it is.
            generator: what all choices are drawn from; a CPU generator gives the same choices on every device.

        Returns:
            uint8 (n, c, h, w).

        Raises:
            InputError: `x` is no batch of images.
        """
        if x.ndim != 4:
            raise InputError(
                f"Only images can be flipped and cropped, not inputs of shape {tuple(x.shape)}.", "Leave augment out."
            )
        n, _, height, width = x.shape
        if self.crop:
            offset = torch.randint(2 * self.crop + 1, (2, n), generator=generator, device=generator.device).to(x.device)
            padded = F.pad(x, [self.crop] * 4)
            # Every window as a strided view, then one window per sample: no copy but the result's.
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)
            x = windows[torch.arange(n, device=x.device), :, offset[0], offset[1]]
        if self.flip:
            mirrored = torch.rand(n, generator=generator, device=generator.device).to(x.device) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        return x
