"""Inputs that move one thing at a time, so that what two losses do differently shows in some of them only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .case import Case

Array = NDArray[Any]

SMALL = (4, 5, 3)
"""Spatial sizes of the probes, at most: small ones show the same causes, and more of them fit into the time. They
differ from each other, and are even and odd."""
LARGER = (18, 17, 16)
"""The same for losses that refuse small ones."""
FULL = "full size"
"""The group of the probes of the size that was asked for."""


@dataclass(frozen=True)
class Probe:
    """A batch.

    Attributes:
        name: what it is.
        group: what kind of thing it moves.
        x: the input, float32, channels last.
        target: class indices, int64 (B, *spatial), or float32 of the shape of `x`.
        weight: sample weights, float32 (B,) or (B, *spatial), or None.
        upstream: what the loss is multiplied by before it is differentiated.
        dtype: in which the input reaches the losses.
        trailing: whether class indices have an axis of length 1 at their end.
        of: the probe that it is a change of.
        channels: whether the last axis of `x` holds classes or channels.
    """

    name: str
    group: str
    x: Array = field(repr=False)
    target: Array = field(repr=False)
    weight: Array | None = field(default=None, repr=False)
    upstream: float = 1.0
    dtype: str = "float32"
    trailing: bool = False
    of: str = "base"
    channels: bool = True

    @property
    def labels(self) -> bool:
        """Whether the target are class indices."""
        return self.target.dtype.kind == "i"


def battery(case: Case, most: tuple[int, ...] = SMALL) -> list[Probe]:
    """All probes of a case; the spatial axes of nearly all of them are cut to `most`."""
    return [*_Battery(case, most).probes()]


def small_shape(case: Case, most: tuple[int, ...] = SMALL) -> tuple[int, ...]:
    """The shape of the small probes, channels last."""
    spatial = tuple(min(n, limit) for n, limit in zip(case.spatial, (*most, *case.spatial[3:]), strict=False))
    return (min(case.batch, 4), *spatial, *(() if case.classes is None else (case.classes,)))


class _Battery:
    """The probes of a case, one method a group."""

    def __init__(self, case: Case, most: tuple[int, ...]) -> None:
        self.case = case
        self.rng = np.random.default_rng(case.seed)
        self.shape = small_shape(case, most)
        self.base = self.draw("base", "scale", self.shape)

    def draw(self, name: str, group: str, shape: tuple[int, ...]) -> Probe:
        x = self.inputs(self.rng.standard_normal(shape))
        return Probe(name, group, x, self.targets(shape), channels=self.case.classes is not None)

    def inputs(self, raw: Array) -> Array:
        """Numbers as the case's inputs are, from normally distributed ones."""
        kind = self.case.inputs
        if kind in ("logits", "values"):
            return raw.astype(np.float32)
        if self.case.targets == "binary" or self.case.classes is None:
            logs = -np.logaddexp(0.0, -raw)
        else:
            logs = raw - np.logaddexp.reduce(raw, -1, keepdims=True)
        return (np.exp(logs) if kind == "probabilities" else logs).astype(np.float32)

    def targets(self, shape: tuple[int, ...]) -> Array:
        case, rng = self.case, self.rng
        if case.targets == "binary":
            return rng.integers(0, 2, shape).astype(np.float32)
        if case.targets == "values":
            return np.abs(rng.standard_normal(shape)).astype(np.float32) + np.float32(0.5)
        classes = shape[-1]
        if case.targets == "probabilities":
            raw = rng.random(shape) + 0.05
            return (raw / raw.sum(-1, keepdims=True)).astype(np.float32)
        # Every class that has a place gets one: then an absent class is a probe of its own.
        count = int(np.prod(shape[:-1]))
        flat = np.concatenate([np.arange(min(classes, count)), rng.integers(0, classes, max(0, count - classes))])
        return self.coded(rng.permutation(flat[:count]).reshape(shape[:-1]), classes)

    def coded(self, labels: Array, classes: int) -> Array:
        """Labels as the case's targets are."""
        if self.case.targets == "index":
            return labels.astype(np.int64)
        return np.eye(classes, dtype=np.float32)[labels]

    @property
    def dense(self) -> bool:
        return self.case.targets != "index"

    def probes(self) -> Iterator[Probe]:
        yield self.base
        for group in (
            self.scales, self.saturation, self.ties, self.order, self.parts, self.border, self.masks, self.ignored,
            self.weights, self.strange, self.precision, self.sizes,
        ):  # fmt: skip
            yield from group()

    def change(self, name: str, group: str, of: str = "base", **what: Any) -> Probe:
        return replace(self.base, name=name, group=group, of=of, **what)

    def scales(self) -> Iterator[Probe]:
        raw = self.rng.standard_normal(self.shape)
        yield self.change("another draw", "scale", x=self.inputs(raw), target=self.targets(self.shape))
        for factor, name in ((0.01, "nearly undecided"), (4.0, "four times as large")):
            yield self.change(name, "scale", x=self.inputs(factor * raw))
        if self.case.inputs in ("logits", "values"):
            yield self.change("shifted by 1", "scale", x=self.base.x + np.float32(1.0))
        yield self.change("upstream gradient 3", "upstream", upstream=3.0)

    def saturation(self) -> Iterator[Probe]:
        """Certain and right, certain and wrong; beyond what clips let through."""
        if self.case.targets == "values":
            if self.case.inputs == "values":
                for size in (30.0, 200.0):  # the second is beyond what exp can
                    far = (size * np.sign(self.base.x) + self.base.x).astype(np.float32)
                    yield self.change(f"far off, {size:g}", "saturation", x=far)
                yield self.change("targets below 0", "targets", target=-self.base.target)
                yield self.change("targets 30 times as large", "targets", target=np.float32(30.0) * self.base.target)
                some = self.base.target.copy()
                some.reshape(-1)[::2] = 0.0
                yield self.change("targets with zeros", "targets", target=some)
            return
        if self.case.targets == "binary":
            side = 2.0 * self.base.target - 1.0
        else:
            classes = self.shape[-1]
            index = self.base.target if not self.dense else self.base.target.argmax(-1)
            side = np.eye(classes)[index]
        sizes = (12.0, 40.0, 120.0) if self.case.inputs == "logits" else (12.0, 40.0)
        for size in sizes:  # the last is beyond what exp can
            noise = 0.1 * self.base.x if self.case.inputs in ("logits", "values") else 0.0
            yield self.change(f"certain and right, {size:g}", "saturation", x=self.inputs(size * side + noise))
            yield self.change(f"certain and wrong, {size:g}", "saturation", x=self.inputs(-size * side + noise))
        if self.case.targets != "binary" and self.case.inputs in ("logits", "values"):
            one = np.zeros(self.shape)
            one[..., 0] = 40.0
            yield self.change("40 for one class, 0 for the others", "saturation", x=self.inputs(one))
        if self.case.inputs == "probabilities":
            exact = side if self.case.targets != "binary" else self.base.target
            yield self.change("exact 0 and 1, right", "saturation", x=exact.astype(np.float32))
            wrong = np.roll(exact, 1, -1) if self.case.targets != "binary" else 1.0 - exact
            yield self.change("exact 0 and 1, wrong", "saturation", x=wrong.astype(np.float32))
            if self.case.targets != "binary":
                yield self.change("probabilities that sum to 1.25", "saturation", x=np.float32(1.25) * self.base.x)

    def ties(self) -> Iterator[Probe]:
        if self.case.inputs in ("logits", "values"):
            yield self.change("all inputs 0", "ties", x=np.zeros(self.shape, np.float32))
            if self.case.targets in ("values", "binary", "probabilities", "one-hot"):
                yield self.change("inputs equal targets", "ties", x=self.base.target.astype(np.float32))

    def order(self) -> Iterator[Probe]:
        """Positions moved together change no loss of positions; targets moved alone change nearly every loss."""
        batch = self.shape[0]
        if batch > 1:
            moved = np.roll(np.arange(batch), 1)
            yield self.change("targets of other samples", "order", target=self.base.target[moved])
            yield self.change("samples permuted", "order", x=self.base.x[moved], target=self.base.target[moved])
        if self.case.spatial:
            flip = tuple(range(1, 1 + len(self.case.spatial)))
            yield self.change("flipped", "order", x=np.flip(self.base.x, flip), target=np.flip(self.base.target, flip))
            count = int(np.prod(self.shape[1 : 1 + len(self.case.spatial)]))
            places = self.rng.permutation(count)

            def permuted(v: Array, channels: bool) -> Array:
                rest = v.shape[1 + len(self.case.spatial) :] if channels else ()
                return v.reshape(batch, count, *rest)[:, places].reshape(v.shape)

            dense = not self.base.labels and self.case.classes is not None
            yield self.change(
                "positions permuted", "order", x=permuted(self.base.x, self.case.classes is not None),
                target=permuted(self.base.target, dense),
            )  # fmt: skip

    def parts(self) -> Iterator[Probe]:
        batch = self.shape[0]
        if batch > 1:
            half = batch // 2
            yield self.change("first half of the batch", "parts", x=self.base.x[:half], target=self.base.target[:half])
            yield self.change("second half of the batch", "parts", x=self.base.x[half:], target=self.base.target[half:])
            for number, name in ((1, "one sample"), (3, "three samples")):
                if number < batch:
                    x, target = self.base.x[:number], self.base.target[:number]
                    yield self.change(name, "parts", x=x, target=target)

    def border(self) -> Iterator[Probe]:
        """What padding does shows at the border only; away from it, nothing of it does."""
        axes = len(self.case.spatial)
        if not axes or self.case.inputs not in ("logits", "values"):
            return
        inner = np.zeros(self.shape[1 : 1 + axes], bool)
        inner[tuple(slice(1, max(2, n - 1)) for n in inner.shape)] = True
        if self.case.classes is not None:
            inner = inner[..., None]
        target = self.uniform(0)
        for name, where in (("inside only", inner), ("border only", ~inner)):
            yield self.change(name, "border", x=np.where(where, self.base.x, 0).astype(np.float32), target=target)
        yield self.change("a constant", "border", x=np.full(self.shape, 0.75, np.float32), target=target)

    def uniform(self, label: int) -> Array:
        """A target with the same everywhere."""
        if self.case.targets in ("binary", "values"):
            return np.full(self.shape, float(label), np.float32)
        return self.coded(np.full(self.shape[:-1], label), self.shape[-1])

    def masks(self) -> Iterator[Probe]:
        if self.case.targets == "values":
            return
        yield self.change("one class only" if self.case.targets != "binary" else "empty mask", "masks",
                          target=self.uniform(0))  # fmt: skip
        if self.case.inputs == "logits":
            sure = np.full(self.shape, -40.0)
            if self.case.targets != "binary":
                sure[..., 0] = 40.0
            name = "empty mask" if self.case.targets == "binary" else "one class only"
            yield self.change(f"{name}, certain and right", "masks", x=sure.astype(np.float32), target=self.uniform(0))
        elif self.case.inputs == "probabilities" and self.case.targets == "binary":
            x = np.zeros(self.shape, np.float32)
            yield self.change("empty mask, certain and right", "masks", x=x, target=self.uniform(0))
        if self.case.targets == "binary":
            yield self.change("full mask", "masks", target=self.uniform(1))
            few = np.zeros(self.shape, np.float32)
            few.flat[0] = 1.0
            yield self.change("one foreground position", "masks", target=few)
        elif self.shape[-1] > 1:
            yield self.change("last class only", "masks", target=self.uniform(self.shape[-1] - 1))

    def ignored(self) -> Iterator[Probe]:
        ignore = self.case.ignore_index
        if ignore is None:
            return
        some = self.base.target.copy()
        some.reshape(-1)[::3] = ignore
        yield self.change("a third ignored", "ignored", target=some)
        flat = np.array(self.base.target)
        flat[0] = ignore
        yield self.change("one sample ignored", "ignored", target=flat)
        yield self.change("all ignored", "ignored", target=np.full_like(self.base.target, ignore))

    def weights(self) -> Iterator[Probe]:
        if self.case.weights == "none":
            return
        varying = self.varying(self.shape)
        shape = varying.shape
        zero = (np.arange(int(np.prod(shape))) % 2).reshape(shape).astype(np.float32)
        for name, weight in (
            ("weights 1", np.ones(shape)), ("weights 2", np.full(shape, 2.0)), ("weights varying", varying),
            ("weights 0 and 1", zero), ("weights 0", np.zeros(shape)),
        ):  # fmt: skip
            yield self.change(name, "weights", weight=weight.astype(np.float32))

    def varying(self, shape: tuple[int, ...]) -> Array:
        """Weights from 0.25 to 1.75 for an input of this shape."""
        shape = shape[: 1 + (len(self.case.spatial) if self.case.weights == "position" else 0)]
        return (0.25 + np.arange(int(np.prod(shape))) % 4 * 0.5).reshape(shape).astype(np.float32)

    def strange(self) -> Iterator[Probe]:
        if self.base.labels:
            for label in (-100, self.shape[-1]):
                if label != self.case.ignore_index:
                    some = self.base.target.copy()
                    some.reshape(-1)[0] = label
                    yield self.change(f"a label {label}", "labels", target=some)
            yield self.change("labels with an axis of length 1", "shapes", trailing=True)
        if self.case.classes is None and len(self.shape) == 1:
            yield self.change("targets with an axis of length 1", "shapes", trailing=True)
        for name, value in (("one NaN", np.nan), ("one inf", np.inf)):
            x = self.base.x.copy()
            x.reshape(-1)[0] = value
            yield self.change(name, "not finite", x=x)
        if self.case.targets == "values":
            missing = self.base.target.copy()
            missing.reshape(-1)[0] = np.nan
            yield self.change("one target NaN", "not finite", target=missing)

    def precision(self) -> Iterator[Probe]:
        for dtype in ("float16", "float64"):
            target = self.base.target if self.base.labels else _rounded(self.base.target, dtype)
            x = _rounded(self.base.x, dtype)
            yield self.change(f"{dtype} inputs", "precision", x=x, target=target, dtype=dtype)
        if self.case.targets == "binary" and self.case.inputs == "probabilities":
            exact = 1.0 - self.base.target
            yield self.change("float16, exact 0 and 1, wrong", "precision", x=exact.astype(np.float32), dtype="float16")

    def sizes(self) -> Iterator[Probe]:
        case = self.case
        if case.spatial:
            odd = (
                self.shape[0],
                *(n + 1 for n in self.shape[1 : 1 + len(case.spatial)]),
                *self.shape[1 + len(case.spatial) :],
            )
            yield self.draw("sizes larger by 1", "sizes", odd)
        classes = self.shape[-1] if case.targets in ("index", "one-hot") else 1
        if classes > int(np.prod(self.shape[:-1])):
            number = -(-classes // int(np.prod(self.shape[1:-1])))
            yield self.draw("every class", "sizes", (number, *self.shape[1:]))
        if case.shape != self.shape:
            full = self.draw("the size that was asked for", FULL, case.shape)
            yield full
            if case.weights != "none":
                yield replace(full, name="that size, weights varying", weight=self.varying(case.shape))
            if case.ignore_index is not None:
                some = full.target.copy()
                some.reshape(-1)[::3] = case.ignore_index
                yield replace(full, name="that size, a third ignored", target=some)


def _rounded(x: Array, dtype: str) -> Array:
    """Numbers that the dtype has, so that only what is done with them differs."""
    return x.astype(dtype).astype(np.float32)
