"""Losses that misbehave, for tests that call them in processes of their own."""

from __future__ import annotations

import builtins
import os
import signal
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F


def good(input: Any, target: Any) -> Any:
    return F.cross_entropy(input, target)


def raises(input: Any, target: Any) -> Any:
    raise RuntimeError("the data are\nnot what they were")


def hangs(input: Any, target: Any) -> Any:
    while True:
        time.sleep(0.05)


def hangs_in_c(input: Any, target: Any) -> Any:
    if input.abs().max() > 39 and input.argmax(1).eq(target).all():  # on one batch only
        read, _ = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        os.read(read, 1)
    return good(input, target)


def dies(input: Any, target: Any) -> Any:
    os.write(2, b"for a reason\n")
    os._exit(7)


def exits(input: Any, target: Any) -> Any:
    raise SystemExit(3)


def reads(input: Any, target: Any) -> Any:
    return good(input, target) * len(sys.stdin.read() + builtins.input())


calls = 0


def counts(input: Any, target: Any) -> Any:
    global calls
    calls += 1
    return good(input, target) * (1 + 0.1 * calls)


def gives_two(input: Any, target: Any) -> Any:
    return good(input, target), {}


def gives_nan(input: Any, target: Any) -> Any:
    return good(input, target) * float("nan")


def keeps_the_map(input: Any, target: Any) -> Any:
    return F.cross_entropy(input, target, reduction="none")


def gives_a_number(input: Any, target: Any) -> Any:
    return good(input, target).item()


def cuts_the_graph(input: Any, target: Any) -> Any:
    return good(input.detach(), target)


def prints(input: Any, target: Any) -> Any:
    print("batch of", len(input))
    os.write(1, b"from C, as it were\n")
    return good(input, target)


def changes_its_input(input: Any, target: Any) -> Any:
    loss = good(input, target)
    with torch.no_grad():
        input.mul_(2)
    return loss


def changes_the_default(input: Any, target: Any) -> Any:
    torch.set_default_dtype(torch.float64)
    return good(input, target)


def draws(input: Any, target: Any) -> Any:
    return good(input, target) + 0 * torch.rand(())


def wants_a_gpu(input: Any, target: Any) -> Any:
    return good(input.cuda(), target.cuda())


class Settings(torch.nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, input: Any, target: Any) -> Any:
        return self.scale * good(input, target)


NUMBER = 3
