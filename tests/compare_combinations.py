"""Losses with two mistakes at once: every combination of two causes that one loss can have."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from compare_pairs import Pair

from dualloss.check import Case

SEG: dict[str, Any] = {"classes": 3, "spatial": (8, 9), "batch": 4, "ignore_index": 255}
REGION: dict[str, Any] = {"classes": 3, "spatial": (8, 9), "targets": "one-hot", "inputs": "probabilities"}
VALUES: dict[str, Any] = {"classes": 4, "spatial": (5,), "targets": "values", "inputs": "values"}


def cross_entropy(**options: Any) -> Any:
    import torch
    import torch.nn.functional as F

    class CrossEntropy(torch.nn.Module):
        weight: Any

        def __init__(self) -> None:
            super().__init__()
            self.label_smoothing = options.get("smoothing", 0.0)
            self.register_buffer("weight", torch.tensor([1.0, 2.0, 0.5]) if "weights" in options else None)

        def forward(self, input: Any, target: Any) -> Any:
            valid = target != 255
            x = input.softmax(1) if options.get("twice") else input
            w: Any = None if "weights" not in options else self.weight.to(x.dtype)
            per = F.cross_entropy(x, target.where(valid, 0), weight=w, reduction="none",
                                  label_smoothing=self.label_smoothing) * valid  # fmt: skip
            if options.get("sum"):
                return per.sum()
            count = valid.sum()
            if options.get("weights") == "sum":
                count = (w[target.where(valid, 0)] * valid).sum()
            if options.get("all"):
                count = valid.numel()
            elif options.get("empty"):
                count = count.clamp(min=1)
            return per.sum() / count

    return CrossEntropy()


def overlap(**options: Any) -> Any:
    import torch

    def dice(input: Any, target: Any) -> Any:
        p, t = input, target
        if options.get("foreground"):
            p, t = p[:, 1:], t[:, 1:]
        axes = {"all": (0, 1, 2, 3), "class": (0, 2, 3), "sample": (2, 3)}[options.get("over", "class")]
        square = 2 if options.get("squared") else 1
        above, below = options.get("smooth", (1e-5, 1e-5))
        score = (2 * (p * t).sum(axes) + above) / ((p**square).sum(axes) + (t**square).sum(axes) + below)
        loss = 1 - score
        if options.get("absent"):
            loss = loss * (t.sum(axes) > 0)
        return torch.mean(loss)

    return dice


def total(**options: Any) -> Any:
    import torch
    import torch.nn.functional as F

    kernel = torch.tensor(
        [[1.0, 1, 1], [1, -8, 1], [1, 1, 1]] if options.get("eight") else [[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]
    )

    def laplacian(v: Any) -> Any:
        v = F.pad(v, (1, 1, 1, 1), mode=options.get("pad", "constant"))
        return F.conv2d(v, kernel.to(v.dtype).expand(v.shape[1], 1, 3, 3), groups=v.shape[1])

    def loss(input: Any, target: Any) -> Any:
        onehot = F.one_hot(target, input.shape[1]).movedim(-1, 1).to(input.dtype)
        x = input.softmax(1) if options.get("twice") else input
        seen = input.softmax(1) if options.get("probabilities") else input
        return F.cross_entropy(x, target) + options.get("weight", 0.5) * F.mse_loss(laplacian(seen), laplacian(onehot))

    return loss


def difference(**options: Any) -> Any:
    import torch.nn.functional as F

    def loss(input: Any, target: Any) -> Any:
        if options.get("smooth"):
            per = F.smooth_l1_loss(input, target, beta=0.5, reduction="none")
        else:
            per = F.huber_loss(input, target, delta=options.get("delta", 0.5), reduction="none")
        per = options.get("factor", 1.0) * per
        return per.sum() if options.get("sum") else per.mean()

    return loss


def focal(**options: Any) -> Any:
    import torch
    import torch.nn.functional as F

    def loss(input: Any, target: Any) -> Any:
        gamma = options.get("gamma", 2.0)
        if options.get("rest"):
            per = F.binary_cross_entropy_with_logits(input, target, reduction="none")
            p = input.sigmoid() * target + (1 - input.sigmoid()) * (1 - target)
            per = (1 - p) ** gamma * per
        else:
            log = input.log_softmax(1)
            per = -((1 - log.exp()) ** gamma) * log * target
        return torch.mean(per if options.get("classes") else per.sum(1))

    return loss


FAMILIES: dict[str, tuple[Any, dict[str, Any], list[tuple[int, dict[str, Any]]]]] = {
    "cross-entropy": (
        cross_entropy, SEG,
        [(20, {"smoothing": 0.1}), (14, {"twice": True}), (45, {"sum": True}), (4, {"all": True}),
         (5, {"empty": True})],
    ),
    "overlap": (
        overlap, REGION,
        [(27, {"over": "sample"}), (28, {"smooth": (1.0, 1.0)}), (50, {"squared": True}), (51, {"foreground": True}),
         (29, {"absent": True})],
    ),
    "total loss": (
        total, {k: v for k, v in SEG.items() if k != "ignore_index"},
        [(48, {"weight": 1.0}), (37, {"pad": "reflect"}), (37, {"eight": True}), (14, {"twice": True})],
    ),
    "difference": (difference, VALUES, [(21, {"smooth": True}), (45, {"sum": True})]),
    "focal": (focal, {**SEG, "ignore_index": None, "targets": "one-hot"},
              [(8, {"classes": True}), (25, {"rest": True}), (43, {"gamma": 3.0})]),
}  # fmt: skip
"""Of each loss: how it is made, its case, and its mistakes, each with the number of its cause."""

CONFLICTS = {frozenset(pair) for pair in ((45, 4), (4, 5), (45, 5), (37, 37))}
"""Two that would be one, or of which one hides the other."""


def combinations(number: int | None = None, seed: int = 0) -> Iterator[Pair]:
    """Pairs of a loss and the same with two mistakes; all, or a random choice of them."""
    found = []
    for name, (make, case, mistakes) in FAMILIES.items():
        for (one, first), (other, second) in itertools.combinations(mistakes, 2):
            if frozenset((one, other)) in CONFLICTS:
                continue

            def both(make: Any = make, first: Any = first, second: Any = second) -> tuple[Any, Any]:
                return make(), make(**first, **second)

            found.append(Pair(f"{name}: {[*first]} and {[*second]}", (one, other), both, case))
    if number is not None:
        found = random.Random(seed).sample(found, number)
    yield from found


def check(pair: Pair) -> Case:
    """The case of a pair."""
    return Case(**pair.case)
