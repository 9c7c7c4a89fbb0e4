"""Axes: which is which, what is broadcast, what padding does."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ._base import Cause, Evidence, Match, OptionCause, Row, register

SECTION = "Shapes and layout"


def _raised(row: Row) -> tuple[bool, bool]:
    return row.a.error is not None, row.b.error is not None


def _one_raises(rows: list[Row], detail: str) -> Iterator[Match]:
    """Probes on which one side raises, the other computes."""
    found = [row for row in rows if len(set(_raised(row))) == 2]
    if found:
        side, error = ("a", found[0].a.error) if found[0].a.error else ("b", found[0].b.error)
        names = tuple(row.probe.name for row in found)
        yield Match(f"{detail}: {side} raises {error}", probes=names, weight=0.8)


@register(SECTION)
class Broadcast(OptionCause):
    number, name = 31, "broadcast"
    title = "(N,) against (N, 1): broadcast to N x N"
    text = (
        "PyTorch's and NumPy's rules pair every prediction with every target: the loss no longer changes when the"
        " targets "
        "are shuffled, and the model learns their mean. Keras squeezes the axis."
    )
    torch = "loss = criterion(x.squeeze(-1), t)  # the same shape on both sides"
    tf = "loss = criterion(tf.reshape(t, tf.shape(x)), x)"
    option = "broadcast"
    weight = 2.0


@register(SECTION)
class BroadcastTrailing(Cause):
    number, name = 31, "broadcast"
    title, text, torch, tf = Broadcast.title, Broadcast.text, Broadcast.torch, Broadcast.tf

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for row in evidence.of("shapes"):
            base = next(r for r in evidence.rows if r.probe.name == row.probe.of)
            if row.value_same or not base.value_same or None in (row.a.value, row.b.value):
                continue
            changed = [
                side for side, seen, plain in (("a", row.a, base.a), ("b", row.b, base.b))
                if not math.isclose(seen.value or 0.0, plain.value or 0.0, rel_tol=1e-4)
            ]  # fmt: skip
            if changed:
                yield Match(f"with {row.probe.name} {' and '.join(changed)} computes something else",
                            probes=(row.probe.name,), weight=1.2)  # fmt: skip


@register(SECTION)
class SampleWeightAxis(OptionCause):
    number, name = 32, "sample-weight-axis"
    title = "A weight per sample weighs the last axis instead, or raises"
    text = (
        "A (B,) weight of a loss of (B, H, W) follows NumPy's rules: it weighs the trailing axis when its size is"
        " B, else it raises."
    )
    torch = "loss = (w.view(-1, 1, 1) * per).mean()"
    tf = "loss = criterion(y, x, sample_weight=w[:, None, None])"
    option = "weighting"
    values = ("last axis",)


@register(SECTION)
class SampleWeightRaises(Cause):
    number, name = 32, "sample-weight-axis"
    title, text, torch, tf = (
        SampleWeightAxis.title, SampleWeightAxis.text, SampleWeightAxis.torch, SampleWeightAxis.tf,
    )  # fmt: skip

    def find(self, evidence: Evidence) -> Iterator[Match]:
        yield from _one_raises(evidence.of("weights"), "sample weights")


@register(SECTION)
class FitClassWeight(Cause):
    number, name = 33, "class-weight-of-fit"
    title = "class_weight of Keras' fit does not take masks"
    text = "model.fit(class_weight=...) needs one label per sample: with masks it is a TypeError or a ValueError."
    torch = "torch.nn.CrossEntropyLoss(weight=w)"
    tf = "model.fit(x, y, sample_weight=w[y])"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for row in evidence.rows:
            for side, seen in (("a", row.a), ("b", row.b)):
                # Of a mask, Keras finds out that it is no number only where it looks up the weight.
                if seen.error and any(part in seen.error for part in ("class_weight", "only 0-dimensional arrays")):
                    yield Match(f"{side} raises {seen.error}", probes=(row.probe.name,), weight=1.5)
                    return


@register(SECTION)
class LabelOutOfRange(Cause):
    number, name = 34, "label-out-of-range"
    title = "A label out of range: an error, NaN, or silence"
    text = (
        "PyTorch leaves out -100 by default and raises for others; TensorFlow raises on CPUs and gives NaN on "
        "GPUs; Keras "
        "on PyTorch ignores it silently and still divides by all."
    )
    torch = "torch.nn.CrossEntropyLoss(ignore_index=-100)  # say which label is ignored, on both sides"
    tf = "keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        if evidence.rows and None in (evidence.rows[0].a.value, evidence.rows[0].b.value):
            return
        rows = [row for row in evidence.of("labels") if not row.value_same]
        silent = bool(rows)  # where one side raises, nobody trains on it unseen
        rows = rows or [row for row in evidence.of("labels") if row.edge is not None]
        shown = []
        for row in rows:
            for side, seen in (("a", row.a), ("b", row.b)):
                what = f"raises {seen.error.split(':')[0]}" if seen.error else f"gives {seen.value:.6g}"
                shown.append(f"{row.probe.name}: {side} {what}")
        if rows:
            names = tuple(row.probe.name for row in rows)
            yield Match("; ".join(shown), probes=names, weight=0.6, edge=not silent)


@register(SECTION)
class SparseAxis(Cause):
    number, name = 35, "sparse-axis"
    title = "Keras' sparse cross-entropy on axis 1 raises with TensorFlow"
    text = "SparseCategoricalCrossentropy(axis=1) works on Keras' PyTorch backend and raises on TensorFlow's."
    torch = "torch.nn.CrossEntropyLoss()"
    tf = "criterion(y, tf.transpose(x, (0, 2, 3, 1)))  # classes last"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        sides = [
            ("a", evidence.about_a, [row.a for row in evidence.rows]),
            ("b", evidence.about_b, [row.b for row in evidence.rows]),
        ]
        for side, about, seen in sides:
            axis = about.settings.get("axis", -1)
            wrong = seen and seen[0].error is not None
            if wrong and about.framework == "tf" and "sparse" in about.kind.lower() and axis not in (-1, None):
                yield Match(f"{side}: axis={axis}: {seen[0].error}", probes=("base",), weight=1.5)


@register(SECTION)
class StridedSame(Cause):
    number, name = 36, "strided-same-padding"
    title = "Strided convolutions with SAME padding pad the other side"
    text = (
        "TensorFlow's SAME puts the odd row of padding last, PyTorch's padding=1 first: on even sizes a strided filter "
        "sees other positions. The losses agree once images are flipped; at stride 1 nothing differs."
    )
    torch = "x = F.pad(x, (0, 1, 0, 1)); y = F.conv2d(x, k, stride=2)  # as TensorFlow pads"
    tf = "x = tf.pad(x, [[0, 0], [1, 0], [1, 0], [0, 0]]); y = tf.nn.conv2d(x, k, 2, 'VALID')  # as PyTorch"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for relation in evidence.relations:
            if relation.name == "flipped":
                yield Match(relation.detail, relations=(relation,), weight=1.5)


@register(SECTION)
class EdgePadding(OptionCause):
    number, name = 37, "edge-kernel"
    title = "Edges: another kernel, norm or padding"
    text = (
        "kornia's Laplacian has 8 neighbours, is divided by its L1 norm and reflects at the border; hand-written "
        "ones have "
        "4, no norm, zeros. Differences at the border alone are padding; a constant ratio is a norm."
    )
    torch = "F.conv2d(x, k, padding=1, groups=C)  # zeros; F.pad(x, (1, 1, 1, 1), mode='reflect') before padding=0"
    tf = "tf.nn.depthwise_conv2d(x, k, [1] * 4, 'SAME')  # zeros; tf.pad(..., mode='REFLECT') before 'VALID'"
    family = ("difference of Laplacians",)
    option = "padding"


@register(SECTION)
class EdgeKernel(EdgePadding):
    option = "kernel"


@register(SECTION)
class Structural(OptionCause):
    number, name = 38, "ssim-padding"
    title = "SSIM: windows inside the image only, or over its border too"
    text = "tf.image.ssim is kornia's padding='valid'; kornia's default is 'same'."
    torch = "kornia.losses.SSIMLoss(11, padding='valid')"
    tf = "tf.image.ssim(t, x, max_val=1.0)"
    family = ("structural similarity",)
    option = "padding"


@register(SECTION)
class Order(Cause):
    number, name = 54, "arguments-swapped"
    title = "Target and prediction are swapped"
    text = "PyTorch: loss(input, target); Keras: loss(y_true, y_pred)."
    torch = "loss = criterion(y_pred, y_true)"
    tf = "loss = criterion(y_true, y_pred)"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for relation in evidence.relations:
            if relation.name == "swapped":
                yield Match(relation.detail, relations=(relation,), weight=1.5)


@register(SECTION)
class Axis(Cause):
    number, name = 55, "channel-axis"
    title = "The channels are on another axis than the loss thinks"
    text = "PyTorch has the classes on axis 1, Keras last: a softmax over an image's width runs, and is wrong."
    torch = "criterion(x.movedim(-1, 1), y)"
    tf = "criterion(y, tf.transpose(x, (0, 2, 3, 1)))"

    def find(self, evidence: Evidence) -> Iterator[Match]:
        for relation in evidence.relations:
            if relation.name == "axis":
                yield Match(relation.detail, relations=(relation,), weight=1.5)
