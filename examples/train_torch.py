"""Train the U-Net in PyTorch: `python examples/train_torch.py [--out DIR] [--quick]`."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads leave the cores to others

from collections.abc import Callable

import torch
from common import Result, Settings, finish
from torch import Tensor
from tqdm import tqdm
from unet_torch import UNet

import dualloss as dl
import dualloss.torch


def train(settings: Settings, watch: Callable[[int, Tensor, Tensor], None] | None = None) -> Result:
    """Train and judge the net; `watch(step, logits, classes)` is called at every step."""
    net = UNet()
    criterion = dualloss.torch.Loss(dl.CrossEntropy() + 0.5 * dl.Boundary())
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.learning_rate, eps=settings.adam_epsilon)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=settings.steps)

    losses = []
    bar = tqdm(range(settings.steps), desc="PyTorch", unit="step")
    for step in bar:
        images, classes = map(torch.from_numpy, settings.train_scenes.batch(step))
        logits = net(images[:, None])
        loss = criterion(logits, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
        if watch:
            watch(step, logits.detach(), classes)

    net.eval()
    images = torch.from_numpy(settings.held_out_scenes[0])
    with torch.no_grad():
        predicted = torch.cat([net(part[:, None]).argmax(1) for part in images.split(50)])
    return finish(settings, "PyTorch", losses, predicted.numpy())


if __name__ == "__main__":
    train(Settings.from_command_line(__doc__))
