"""The demo's U-Net in PyTorch. `unet_keras.py` is its twin, line by line."""

from itertools import pairwise

import torch
from common import WIDTHS, initial_weights
from scenes import CLASSES
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Conv2d):
    """3x3 convolution, batch normalisation, ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, width, H, W)."""
        return F.relu(self.norm(super().forward(x)))


class UNet(nn.Module):
    """Down by max pooling, up by repeating pixels; every level adds its scores of the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(map(Block, (1, *WIDTHS), WIDTHS))
        self.up = nn.ModuleList(Block(width + below, width) for width, below in pairwise(WIDTHS))
        self.score = nn.ModuleList(nn.Conv2d(width, CLASSES, 1) for width in WIDTHS)
        self.load_initial_weights()

    def load_initial_weights(self) -> None:
        """The weights that both frameworks start from."""
        with torch.no_grad():
            for name, kernel in initial_weights().items():
                self.get_parameter(f"{name}.weight").copy_(torch.from_numpy(kernel))
            for level in range(len(WIDTHS)):
                self.get_parameter(f"score.{level}.bias").zero_()

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) to logits (B, 11, H, W); H and W are multiples of 8."""
        levels = [self.down[0](image)]
        for block in self.down[1:]:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        scores = self.score[-1](x)
        for level in reversed(range(len(levels))):
            x = self.up[level](torch.cat([levels[level], twice(x)], dim=1))
            scores = self.score[level](x) + twice(scores)
        return scores


def twice(x: Tensor) -> Tensor:
    """Every pixel becomes 2x2 pixels."""
    return F.interpolate(x, scale_factor=2, mode="nearest")
