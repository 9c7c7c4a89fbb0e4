"""How two recorded arrays relate: the same, rounded otherwise, reordered, turned, scaled, relabelled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..recording import Step, Stored

Array = Any

EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}
TOLERANCES = {"data": 1e-6, "logits": 1e-4, "loss": 1e-5, "gradient": 1e-5, "weights": 1e-4}
"""Relative differences that count as rounding, in float32; formats with a larger epsilon get four of theirs.

Those of the loss and the gradient are for the same logits: what other logits make of them is added.
"""


def relative(a: Array, b: Array) -> float:
    """The norm of the difference over the larger of both norms; infinite where NaN or infinities stand elsewhere."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return math.inf
    x, y = x[finite], y[finite]
    top = max(float(np.abs(x).max(initial=0)), float(np.abs(y).max(initial=0)))
    if top == 0:
        return 0.0
    x, y = x / top, y / top  # whose squares are in range
    return float(np.linalg.norm(x - y) / max(np.linalg.norm(x), np.linalg.norm(y)))


def same_bits(a: Stored, b: Stored) -> bool:
    """Whether both have the same dtype, shape and bits."""
    return (a.dtype, a.shape, a.sha256) == (b.dtype, b.shape, b.sha256)


def axes_orders(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
    """The orders of axes in which frameworks hold the same thing."""
    axes = tuple(range(len(shape)))
    if len(axes) > 2:
        yield (axes[0], *axes[2:], axes[1]), "channels on axis 1 against last"
        yield (axes[0], axes[-1], *axes[1:-1]), "channels last against axis 1"
        yield (*axes[2:], axes[1], axes[0]), "a kernel (out, in, *space) against (*space, in, out)"
        yield (axes[-1], axes[-2], *axes[:-2]), "a kernel (*space, in, out) against (out, in, *space)"
    if len(axes) == 2:
        yield (1, 0), "transposed"


def as_pair(a: Stored, b: Stored) -> tuple[Array, Array, str] | None:
    """Both as arrays of the same shape and how the second was laid out anew; None: they cannot be compared."""
    if a.shape == b.shape:
        return (a.values(), b.values(), "") if a.whole and b.whole else (a.sample(), b.sample(), "")
    options = layouts(a, b)
    if not options:
        return None
    x, y = a.values(), b.values()
    laid, text = min(((option.apply(y, x.shape), option.text) for option in options), key=lambda p: relative(x, p[0]))
    return x, laid, text


def allowed(quantity: str, *arrays: Stored) -> float:
    """The relative difference of a quantity that counts as rounding, in the dtypes of these arrays."""
    epsilon = max(EPSILON.get(array.dtype, 0.0) for array in arrays)
    return max(TOLERANCES[quantity], 4 * epsilon if epsilon > EPSILON["float32"] else 0.0)


# --- How arrays relate


def find_order(x: Array, y: Array, tolerance: float) -> Array:
    """The permutation with ``x == y[permutation]``, up to the tolerance; None if there is none but the trivial one."""
    n = len(x)
    if x.shape != y.shape or n < 2:
        return None
    rows, others = (v.reshape(n, -1).astype(np.float64) for v in (x, y))
    if not (np.isfinite(rows).all() and np.isfinite(others).all()):
        return None
    keys = [np.lexsort(v.T[::-1][-64:]) for v in (rows, others)]
    found = np.empty(n, np.int64)
    found[keys[0]] = keys[1]
    if relative(rows, others[found]) > tolerance:  # rounding may sort otherwise: the nearest sample
        if n > 4096:
            return None
        some = slice(None, None, max(1, rows.shape[1] // 256))
        left, right = rows[:, some], others[:, some]
        distances = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
        found = distances.argmin(1)
        if len(set(found.tolist())) < n or relative(rows, others[found]) > tolerance:
            return None
    return None if (found == np.arange(n)).all() else found


def order_text(order: Array) -> str:
    """A permutation in words."""
    shown = ", ".join(map(str, order[:8].tolist())) + (", ..." if len(order) > 8 else "")
    return f"the same samples in another order: a's samples are b's {shown}"


def turned_text(x: Array, y: Array, channels: bool, tolerance: float) -> str | None:
    """A flip or turn of the spatial axes, or of the channels, that makes the arrays the same."""
    axes = range(1, x.ndim - channels)
    for axis in axes:
        if relative(x, np.flip(y, axis)) <= tolerance:
            return f"b is a, flipped along the spatial axis {axis}"
    if len(axes) == 2:
        if relative(x, np.flip(y, tuple(axes))) <= tolerance:
            return "b is a, turned by 180 degrees"
        turned = np.swapaxes(y, 1, 2)
        if turned.shape == x.shape and relative(x, turned) <= tolerance:
            return "b is a with its spatial axes exchanged"
    if channels and x.shape[-1] > 1 and relative(x, y[..., ::-1]) <= tolerance:
        return "b has a's channels in reverse order (RGB against BGR?)"
    return None


def scaled_text(x: Array, y: Array, channels: bool, tolerance: float) -> str | None:
    """A factor, or a factor and a shift, that makes the arrays the same."""
    factor = fit_factor(x, y, tolerance)
    if factor is not None:
        return f"b is {number(factor)} times a"
    u, v = (w.astype(np.float64) for w in (x, y))
    if not (np.isfinite(u).all() and np.isfinite(v).all()):
        return None
    slope, shift = fit_line(u, v)
    if slope != 0 and relative(slope * u + shift, v) <= tolerance:
        return f"b is {number(slope)} times a plus {number(shift)}"
    if channels:
        lines = [fit_line(u[..., c], v[..., c]) for c in range(u.shape[-1])]
        moved = np.stack([k * u[..., c] + m for c, (k, m) in enumerate(lines)], -1)
        if all(k != 0 for k, _ in lines) and relative(moved, v) <= tolerance:
            return "b is a normalised otherwise: times " + ", ".join(
                f"{number(k)} plus {number(m)}" for k, m in lines[:4]
            ) + (" and so on, by channel" if len(lines) > 4 else ", by channel")  # fmt: skip
    return None


def fit_factor(x: Array, y: Array, tolerance: float = 1e-3) -> float | None:
    """The factor by which ``y`` is ``x``, up to the tolerance; None: there is none, or NaN and infinities."""
    u, v = (np.asarray(w, np.float64) for w in (x, y))
    if not (np.isfinite(u).all() and np.isfinite(v).all() and u.any() and v.any()):
        return None
    top = float(np.abs(u).max())
    factor = float((u / top * v).sum() / (u / top * u).sum())  # whose squares are in range
    return factor if factor != 0 and relative(factor * u, v) <= tolerance else None


def fit_line(u: Array, v: Array) -> tuple[float, float]:
    """Slope and shift of the line through the points (u, v)."""
    spread = u - u.mean()
    size = float((spread * spread).sum())
    slope = float((spread * v).sum()) / size if size else 0.0
    return slope, float(v.mean() - slope * u.mean())


def number(value: float) -> str:
    """A factor as it was probably meant: 0.5, 1/255, -1."""
    for shown in (float(f"{value:.1g}"), float(f"{value:.2g}"), float(f"{value:.3g}")):
        if abs(shown - value) <= 1e-5 * abs(value):
            return f"{shown:g}"
    inverse = 1 / value if value else 0.0
    if 1 < abs(inverse) < 1e7 and abs(inverse - round(inverse)) <= 1e-5 * abs(inverse):
        return f"{'-' if value < 0 else ''}1/{abs(round(inverse))}"
    return f"{value:.6g}"


def factor_text(ratio: float, shape: tuple[int, ...], whose: str = "a's") -> str | None:
    """What a ratio of two losses of an input of this shape probably is; None: nothing that has a name."""
    counts: dict[int, str] = {}
    if shape:
        batch, channels, spatial = shape[0], shape[-1] if len(shape) > 1 else 1, math.prod(shape[1:-1])
        for count, name in (
            (batch, "samples"), (batch * spatial, "positions"), (math.prod(shape), "elements"),
            (channels, "channels"), (spatial, "positions of a sample"), (spatial * channels, "elements of a sample"),
        ):  # fmt: skip
            counts.setdefault(count, name)
    for count, name in counts.items():
        if count > 1 and abs(ratio / count - 1) < 1e-4:
            return f"{count} times {whose}, the number of {name}: a sum against a mean?"
        if count > 1 and abs(ratio * count - 1) < 1e-4:
            return f"1/{count} of {whose}, the number of {name}: a mean against a sum?"
    shown = number(ratio)
    return f"{shown} times {whose}" if len(shown) < 7 else None


def share_differing(x: Array, y: Array) -> float:
    """Which share of the elements differs."""
    return float(np.mean(x != y))


# --- Activations


@dataclass(frozen=True)
class Activation:
    """By which one run's loss input is the other's, its logits.

    Attributes:
        name: "softmax", "log-softmax" or "sigmoid".
        of_b: whether it is b's that has gone through it.
    """

    name: str
    of_b: bool

    @property
    def text(self) -> str:
        """Which is which."""
        return f"{'b' if self.of_b else 'a'}'s are the {self.name} of {'a' if self.of_b else 'b'}'s"

    def inputs(self, a: Array, b: Array) -> tuple[Array, Array]:
        """Both inputs of the losses, behind the activation."""
        return (activated(self.name, a), b) if self.of_b else (a, activated(self.name, b))

    def gradients(self, a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        """Both gradients by the logits, of inputs and gradients."""
        return (a[1], self._before(*b)) if self.of_b else (self._before(*a), b[1])

    def _before(self, y: Array, gradient: Array) -> Array:
        v, g = y.astype(np.float64), gradient.astype(np.float64)
        if self.name == "sigmoid":
            return v * (1 - v) * g
        if self.name == "softmax":
            return v * (g - (g * v).sum(-1, keepdims=True))
        return g - np.exp(v) * g.sum(-1, keepdims=True)


def activated(name: str, logits: Array) -> Array:
    """The activation of logits, by the last axis."""
    u = logits.astype(np.float64)
    with np.errstate(all="ignore"):
        if name == "sigmoid":
            return 1 / (1 + np.exp(-u))
        powers = np.exp(u - u.max(-1, keepdims=True))
        softmax = powers / powers.sum(-1, keepdims=True)
        return softmax if name == "softmax" else np.log(softmax)


def find_activation(a: Stored, b: Stored) -> Activation | None:
    """Whether one has gone through a softmax or a sigmoid, and the other has not."""
    if not (a.whole and b.whole) or a.shape != b.shape or not a.shape:
        return None
    x, y = a.values(), b.values()
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    tolerance = 10 * allowed("logits", a, b)
    for of_b in (True, False):
        for name in ("softmax", "log-softmax", "sigmoid"):
            found = Activation(name, of_b)
            applies = a.shape[-1] > 1 or name == "sigmoid"
            if applies and relative(*found.inputs(x, y)) <= tolerance < relative(x, y):
                return found
    return None


# --- Weights


@dataclass(frozen=True, eq=False)
class Layout:
    """How b's array becomes one laid out as a's: by another order of axes, then of what lies along one of them."""

    axes: tuple[int, ...] | None = None
    text: str = ""
    axis: int = 0
    order: Array | None = None

    @property
    def same(self) -> bool:
        """Whether b's array is laid out as a's."""
        return self.axes is None and self.order is None

    def apply(self, y: Array, shape: tuple[int, ...]) -> Array:
        """The array, laid out as one of this shape."""
        laid = (y if self.axes is None else y.transpose(self.axes)).reshape(shape)
        return laid if self.order is None else laid.take(self.order, self.axis)


def layouts(a: Stored, b: Stored) -> list[Layout]:
    """The orders of axes by which b has a's shape, that of the same axes first; without reordering if not whole."""
    found = [Layout()] if a.shape == b.shape else []
    if a.size != b.size or not (a.whole and b.whole):
        return found
    for axes, text in axes_orders(b.shape):
        if tuple(b.shape[axis] for axis in axes) == a.shape:
            found.append(Layout(axes, text))
    if not found and [n for n in a.shape if n != 1] == [n for n in b.shape if n != 1]:
        found.append(Layout(text=f"shape {b.shape} as {a.shape}"))
    return found


def find_rows(x: Array, y: Array, options: list[Layout], tolerance: float) -> Layout | None:
    """The layout by which both are the same but for the order along one axis, as a Flatten of another one makes it."""
    for option in options:
        laid = option.apply(y, x.shape)
        for axis in range(x.ndim):
            order = find_order(np.moveaxis(x, axis, 0), np.moveaxis(laid, axis, 0), tolerance)
            if order is not None:
                return replace(option, axis=axis, order=order)
    return None


class Alignment:
    """How the weights of two runs are laid out against one another: decided once by name, where it shows first.

    Attributes:
        agreed: whether the logits agreed before the first update; then weights that differ are laid out otherwise.
        left_out: why weights cannot be compared, by name.
        reordered: what was compared in another order, by name.
    """

    def __init__(self) -> None:
        self.agreed = False
        self.left_out: dict[str, str] = {}
        self.reordered: dict[str, str] = {}
        self._known: dict[str, Layout] = {}

    def same_bits(self, a: Stored, b: Stored) -> bool:
        """Whether both have the same bits, laid out alike as far as is known."""
        return same_bits(a, b) and bare(a) not in self.left_out and self._known.get(bare(a), Layout()).same

    def pair(self, a: Stored, b: Stored, total: float = 0.0) -> tuple[Array, Array] | None:
        """Both, laid out alike; None: they cannot be compared. ``total`` is the norm of all weights."""
        name = bare(a)
        if name in self.left_out:
            return None
        options = [self._known[name]] if name in self._known else layouts(a, b)
        if not options:
            self.left_out[name] = f"it has the shape {a.shape} in a, {b.name} {b.shape} in b"
            return None
        if not (a.whole and b.whole):
            return self._sampled(name, a, b, total) if options[0].same else None
        x, y = a.values(), b.values()
        if name in self._known:
            return x, options[0].apply(y, x.shape)
        sizes = [relative(x, option.apply(y, x.shape)) for option in options]
        best = min(range(len(sizes)), key=sizes.__getitem__)
        initial = a.name.startswith("initial")
        close = allowed("weights", a, b) if initial else 1e-3
        if sizes[best] <= close:
            if sum(size <= close for size in sizes) == 1 and x.size and x.min() < x.max():  # else it shows later
                self._known[name] = options[best]
        elif self.agreed and (found := self._reordered(a, x, y, options, sizes[best], close)) is not None:
            self._known[name] = found
            how = "their initial values" if initial else f"those of the first step ({a.name})"
            self.reordered[name] = f"along axis {found.axis} b has them in another order, which {how} tell"
            return x, found.apply(y, x.shape)
        elif self.agreed and self._other(a, x, options[best].apply(y, x.shape), sizes[best], total):
            when = "its initial values differ" if initial else "it differs from the first step on"
            self.left_out[name] = (
                f"{when} (by {sizes[best]:.2g}) though the logits agree, and no order along an axis makes them the same"
            )
            return None
        elif not initial:
            self._known[name] = options[best]
        return x, options[best].apply(y, x.shape)

    def _sampled(self, name: str, a: Stored, b: Stored, total: float) -> tuple[Array, Array] | None:
        x, y = a.sample(), b.sample()
        if name not in self._known:
            size = relative(x, y)
            if size > allowed("weights", a, b) and self.agreed and self._other(a, x, y, size, total):
                self.left_out[name] = (
                    f"it differs (by {size:.2g}) though the logits agree, and it is not whole, so that no order along "
                    "an axis could be tried (record with whole=)"
                )
                return None
            self._known[name] = Layout()
        return x, y

    @staticmethod
    def _reordered(
        a: Stored, x: Array, y: Array, options: list[Layout], size: float, close: float
    ) -> Layout | None:  # fmt: skip
        found = find_rows(x, y, options, close)
        if found is None and size > _FAR and not a.name.startswith("initial") and x.ndim > 1:
            found = find_rows(x, y, options, _FAR)  # both have gone their own way for an update already
        return found

    @staticmethod
    def _other(a: Stored, x: Array, y: Array, size: float, total: float) -> bool:
        """Whether these are other weights, not the same a little or an update further."""
        if a.name.startswith("initial"):
            return size * (a.statistics.norm or math.inf) > TOLERANCES["weights"] * total
        return x.ndim > 1 and size > 0.7 and fit_factor(x, y, 0.1) is None


_FAR = 0.3
"""What no first update makes of weights, relative, and far less than other weights differ by."""


def bare(weight: Stored) -> str:
    """The name of a weight."""
    return weight.name.partition("/")[2]


# --- Targets


@dataclass(frozen=True)
class Target:
    """A target of a step: as labels if it holds class indices or is one-hot."""

    encoding: str
    labels: Array | None
    values: Array


def read_target(step: Step) -> Target | None:
    """The target, if it is there whole."""
    stored = step.arrays.get("target")
    values = None if stored is None else stored.values()
    if stored is None or values is None:
        return None
    given = step.arrays.get("input")
    shape = None if given is None else given.shape
    kind, whole = stored.dtype, values.dtype.kind in "iu" or bool(np.isfinite(values).all() and (values % 1 == 0).all())
    if shape is not None and len(shape) > 1:
        if stored.shape == (*shape[:-1], 1) and shape[-1] > 1 and whole:
            values = values[..., 0]
        if values.shape == shape[:-1] and whole:
            return Target(f"class indices, {kind}", values.astype(np.int64), values)
    one_hot = values.ndim > 1 and values.shape[-1] > 1 and bool(
        ((values == 0) | (values == 1)).all() and (values.sum(-1) == 1).all()
    )  # fmt: skip
    if one_hot and (shape is None or values.shape == shape):
        return Target(f"one-hot, {kind}", values.argmax(-1), values)
    if shape is None and whole and kind.startswith(("int", "uint")):
        return Target(f"class indices, {kind}", values.astype(np.int64), values)
    return Target(f"dense, {kind}", None, values)


def labels_text(x: Array, y: Array) -> str:
    """How labels differ."""
    pairs = np.unique(np.stack([x.ravel(), y.ravel()]), axis=1)
    moved = pairs[:, pairs[0] != pairs[1]]
    shifts = set((pairs[1] - pairs[0]).tolist())
    if len(shifts) == 1:
        shift = shifts.pop()
        return f"b's labels are a's {'plus' if shift > 0 else 'minus'} {abs(shift)}"
    text = None
    if len(set(pairs[0].tolist())) == pairs.shape[1]:  # one label of b for each of a
        shifts = set((moved[1] - moved[0]).tolist())
        kept = pairs.shape[1] - moved.shape[1]
        if len(shifts) == 1 and kept <= 1 and moved.shape[1] > 1:
            shift = shifts.pop()
            text = f"b's labels are a's {'plus' if shift > 0 else 'minus'} {abs(shift)}, but for {kept} label"
        else:
            shown = ", ".join(f"{p} is {q}" for p, q in moved.T[:6].tolist())
            text = f"other labels stand for the same positions: a's {shown} in b"
            if moved.shape[1] == 1 and {int(v) for v in moved.ravel()} & {-100, -1, 255}:
                text += " (the label to ignore?)"
    elif len(set(pairs[1].tolist())) == pairs.shape[1]:
        shown = ", ".join(f"{q} is {p}" for p, q in moved.T[:6].tolist())
        text = f"other labels stand for the same positions: b's {shown} in a"
    return text or f"{100 * share_differing(x, y):.3g} % of the labels differ"


def difference_text(a: Stored, b: Stored, size: float) -> str:
    """The relative difference of two arrays in words."""
    if math.isnan(size):
        return f"shape {a.shape} against {b.shape}"
    if not math.isfinite(size):
        return undefined_text(a, b)
    how = "" if a.whole and b.whole else ", by a sample of their elements"
    return f"they differ by {size:.2g}, relative to their norm{how}"


def undefined_text(a: Stored, b: Stored) -> str:
    """How many NaN and infinities both arrays have."""
    counts = [f"{s.statistics.nan} NaN and {s.statistics.inf} infinities" for s in (a, b)]
    return f"a has {counts[0]}, b {counts[1]}, of {a.size} elements"


def json_ready(value: Any) -> Any:
    """Dicts, lists and numbers as JSON has them: NaN and infinities as strings."""
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
