"""Pairs of losses, each with what makes them differ: the tests of `dualloss compare`, and its confusion matrix.

The losses are those of PyTorch and Keras, of SMP, MONAI and kornia where they are installed, and code as people write
it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dualloss.check import Case, Side

SEG: dict[str, Any] = {"classes": 3, "spatial": (8, 9), "batch": 4}
ONE_HOT: dict[str, Any] = {**SEG, "targets": "one-hot"}
BINARY: dict[str, Any] = {"classes": 1, "spatial": (8, 9), "targets": "binary"}
VALUES: dict[str, Any] = {"classes": None, "targets": "values", "inputs": "values", "batch": 6}
MAPS: dict[str, Any] = {"classes": 2, "spatial": (5,), "targets": "values", "inputs": "values"}
IMAGES: dict[str, Any] = {"classes": 2, "spatial": (20, 22), "targets": "values", "inputs": "values"}


@dataclass(frozen=True)
class Pair:
    """Two losses.

    Attributes:
        name: what the pair is.
        causes: the numbers of what makes them differ; empty: they agree.
        make: gives both losses.
        case: the arguments of the case.
        needs: packages beside the frameworks.
    """

    name: str
    causes: tuple[int, ...]
    make: Callable[[], tuple[Any, Any]]
    case: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """What is not installed."""
        return [p for p in self.needs if p not in sys.modules and importlib.util.find_spec(p) is None]

    def built(self) -> tuple[Any, Any, Case]:
        """The losses and the case."""
        return *self.make(), Case(**self.case)


PAIRS: list[Pair] = []


def pair(
    *causes: int, needs: str = "", **case: Any
) -> Callable[[Callable[[], tuple[Any, Any]]], Callable[[], tuple[Any, Any]]]:
    """Add a pair: the function's name says what it is."""

    def add(make: Callable[[], tuple[Any, Any]]) -> Callable[[], tuple[Any, Any]]:
        PAIRS.append(Pair(make.__name__, causes, make, case, tuple(needs.split())))
        return make

    return add


def _torch() -> Any:
    import torch

    return torch


def _keras() -> Any:
    import keras

    return keras


def _tf() -> Any:
    import tensorflow as tf

    return tf


def _smp() -> Any:
    """The losses of segmentation-models-pytorch, whose package wants more than they do."""
    from dualloss.vendors.proof import losses_smp

    return losses_smp.losses


def _monai() -> Any:
    return importlib.import_module("monai.losses")


# Normalisation


@pair(1, **SEG)
def class_weights_by_elements() -> tuple[Any, Any]:
    torch, tf = _torch(), _tf()
    w = [1.0, 2.0, 0.5]

    def keras_like(y_true: Any, y_pred: Any) -> Any:
        per = tf.nn.sparse_softmax_cross_entropy_with_logits(y_true, y_pred)
        return tf.reduce_mean(per * tf.gather(tf.constant(w), y_true))

    return torch.nn.CrossEntropyLoss(weight=torch.tensor(w)), keras_like


@pair(2, **SEG, b=Side(targets="one-hot"))
def torch_one_hot_with_class_weights() -> tuple[Any, Any]:
    torch = _torch()
    return tuple(torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])) for _ in range(2))


@pair(3, **SEG)
def smoothing_and_class_weights() -> tuple[Any, Any]:
    torch, tf = _torch(), _tf()
    w = [1.0, 2.0, 0.5]

    def keras_like(y_true: Any, y_pred: Any) -> Any:
        y = tf.one_hot(y_true, 3)
        t = 0.9 * y + 0.1 / 3
        per = tf.nn.softmax_cross_entropy_with_logits(t, y_pred)
        return tf.reduce_mean(per * tf.reduce_sum(y * w, -1))

    return torch.nn.CrossEntropyLoss(weight=torch.tensor(w), label_smoothing=0.1), keras_like


@pair(4, **SEG, ignore_index=255)
def ignored_averaged_by_hand() -> tuple[Any, Any]:
    torch, tf = _torch(), _tf()

    def masked(y_true: Any, y_pred: Any) -> Any:
        valid = tf.not_equal(y_true, 255)
        per = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(valid, y_true, 0), y_pred)
        return tf.reduce_mean(per * tf.cast(valid, tf.float32))

    return torch.nn.CrossEntropyLoss(ignore_index=255), masked


@pair(4, needs="segmentation_models_pytorch", **SEG, ignore_index=255)
def ignored_by_smp() -> tuple[Any, Any]:
    smp = _smp()

    return _torch().nn.CrossEntropyLoss(ignore_index=255), smp.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255)


@pair(5, **SEG, ignore_index=255)
def everything_ignored() -> tuple[Any, Any]:
    torch, keras = _torch(), _keras()
    return (
        torch.nn.CrossEntropyLoss(ignore_index=255),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255),
    )


KL: dict[str, Any] = {"classes": 5, "targets": "probabilities", "inputs": "log-probabilities"}


@pair(6, **KL)
def kl_mean_over_classes() -> tuple[Any, Any]:
    torch = _torch()
    return torch.nn.KLDivLoss(reduction="batchmean"), torch.nn.KLDivLoss()


@pair(6, **KL)
def kl_of_keras() -> tuple[Any, Any]:
    tf, keras = _tf(), _keras()
    loss = keras.losses.KLDivergence()

    def of_logs(y_true: Any, y_pred: Any) -> Any:
        return loss(y_true, tf.exp(y_pred))

    return _torch().nn.KLDivLoss(), of_logs


@pair(7, classes=5, spatial=(12,), batch=3)
def ctc() -> tuple[Any, Any]:
    torch, tf = _torch(), _tf()
    import torch.nn.functional as F

    def ctc_torch(input: Any, target: Any) -> Any:
        labels = 1 + target[:, :3] % 4
        lengths = torch.full((len(input),), input.shape[2]), torch.full((len(input),), 3)
        return F.ctc_loss(input.permute(2, 0, 1).log_softmax(-1), labels, *lengths)

    def ctc_tf(y_true: Any, y_pred: Any) -> Any:
        labels = tf.cast(1 + y_true[:, :3] % 4, tf.int32)
        n = tf.shape(y_pred)[0]
        lengths = tf.fill([n], 3), tf.fill([n], tf.shape(y_pred)[1])
        return tf.reduce_mean(tf.nn.ctc_loss(labels, y_pred, *lengths, logits_time_major=False, blank_index=0))

    return ctc_torch, ctc_tf


@pair(8, needs="monai", **ONE_HOT)
def focal_of_monai() -> tuple[Any, Any]:
    monai = _monai()

    return (
        monai.FocalLoss(use_softmax=True, gamma=2.0),
        _keras().losses.CategoricalFocalCrossentropy(from_logits=True, alpha=1.0),
    )


@pair(8, **SEG)
def focal_over_classes() -> tuple[Any, Any]:
    tf = _tf()
    import torch.nn.functional as F

    def focal_torch(input: Any, target: Any) -> Any:
        log = input.log_softmax(1)
        t = F.one_hot(target, input.shape[1]).movedim(-1, 1)
        return -((1 - log.exp()) ** 2 * log * t).mean()

    def focal_tf(y_true: Any, y_pred: Any) -> Any:
        log = tf.nn.log_softmax(y_pred)
        return -tf.reduce_mean(tf.reduce_sum((1 - tf.exp(log)) ** 2 * log * y_true, -1))

    return focal_torch, focal_tf


@pair(9, needs="monai", **ONE_HOT)
def focal_sum_of_monai() -> tuple[Any, Any]:
    monai = _monai()

    tf = _tf()

    def focal_sum(y_true: Any, y_pred: Any) -> Any:
        log = tf.nn.log_softmax(y_pred)
        return -tf.reduce_sum((1 - tf.exp(log)) ** 2 * log * y_true)

    return monai.FocalLoss(use_softmax=True, gamma=2.0, reduction="sum"), focal_sum


@pair(10, **SEG, replicas=4)
def divided_by_replicas() -> tuple[Any, Any]:
    tf = _tf()

    def per_replica(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y_true, y_pred)) / 4.0

    return _torch().nn.CrossEntropyLoss(), per_replica


@pair(45, **SEG)
def sum_and_mean() -> tuple[Any, Any]:
    return (
        _torch().nn.CrossEntropyLoss(),
        _keras().losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
    )


@pair(46, **SEG, weights="position")
def weights_divided_by_their_sum() -> tuple[Any, Any]:
    keras = _keras()
    return (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
    )


@pair(47, **SEG)
def a_factor_of_temperature() -> tuple[Any, Any]:
    import torch

    def scaled(input: Any, target: Any) -> Any:
        return 0.37 * torch.nn.functional.cross_entropy(input, target)

    return torch.nn.CrossEntropyLoss(), scaled


# Range and epsilon


PROBABILITIES: dict[str, Any] = {"classes": 3, "targets": "one-hot", "inputs": "probabilities", "batch": 6}
BERNOULLI: dict[str, Any] = {"classes": 3, "targets": "binary", "inputs": "probabilities", "batch": 6}


@pair(11, **PROBABILITIES)
def clipped_by_keras() -> tuple[Any, Any]:
    import torch

    def plain(input: Any, target: Any) -> Any:
        p = input / input.sum(-1, keepdim=True)
        return -(torch.special.xlogy(target, p)).sum(-1).mean()

    return plain, _keras().losses.CategoricalCrossentropy()


@pair(12, **BERNOULLI)
def clamped_by_torch() -> tuple[Any, Any]:
    return _torch().nn.BCELoss(), _keras().losses.BinaryCrossentropy()


@pair(13, **SEG, a=Side(activation="softmax"), b=Side(activation="softmax"))
def logits_recovered() -> tuple[Any, Any]:
    import torch

    def of_probabilities(input: Any, target: Any) -> Any:
        p = input.clamp(1e-7, 1 - 1e-7)
        return torch.nn.functional.nll_loss(p.log(), target)

    return of_probabilities, _keras().losses.SparseCategoricalCrossentropy()


@pair(14, **SEG, a=Side(activation="softmax"))
def softmax_twice() -> tuple[Any, Any]:
    return _torch().nn.CrossEntropyLoss(), _keras().losses.SparseCategoricalCrossentropy(from_logits=True)


@pair(14, **SEG)
def softmax_inside_the_loss() -> tuple[Any, Any]:
    import torch

    def twice(input: Any, target: Any) -> Any:
        return torch.nn.functional.cross_entropy(input.softmax(1), target)

    return twice, _keras().losses.CategoricalCrossentropy(from_logits=True)


@pair(42, **SEG)
def from_logits_forgotten() -> tuple[Any, Any]:
    return _torch().nn.CrossEntropyLoss(), _keras().losses.CategoricalCrossentropy()


@pair(15, **PROBABILITIES)
def not_normalised() -> tuple[Any, Any]:
    def plain(input: Any, target: Any) -> Any:
        return -(target * input.clamp(1e-7, 1 - 1e-7).log()).sum(-1).mean()

    return plain, _keras().losses.CategoricalCrossentropy()


@pair(16, **BERNOULLI)
def half_precision() -> tuple[Any, Any]:
    tf = _tf()

    def functional(y_true: Any, y_pred: Any) -> Any:
        p = tf.clip_by_value(y_pred, 1e-7, 1 - 1e-7)
        t = tf.cast(y_true, p.dtype)
        return -tf.reduce_mean(t * tf.math.log(p) + (1 - t) * tf.math.log(1 - p))

    return functional, _keras().losses.BinaryCrossentropy()


@pair(17, **MAPS)
def double_precision() -> tuple[Any, Any]:
    return _torch().nn.MSELoss(), _keras().losses.MeanSquaredError()


# Definitions


@pair(18, needs="segmentation_models_pytorch", **BINARY)
def binary_smoothing_of_smp() -> tuple[Any, Any]:
    smp = _smp()

    return (
        smp.SoftBCEWithLogitsLoss(smooth_factor=0.1),
        _keras().losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1),
    )


@pair(18, **BINARY)
def binary_smoothing() -> tuple[Any, Any]:
    import torch

    class Smoothed(torch.nn.Module):
        smooth_factor = 0.1

        def __init__(self) -> None:
            super().__init__()
            self.smooth = 0.1

        def forward(self, input: Any, target: Any) -> Any:
            t = target * (1 - self.smooth) + (1 - target) * self.smooth
            return torch.nn.functional.binary_cross_entropy_with_logits(input, t)

    return Smoothed(), _keras().losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)


@pair(19, classes=3, spatial=(8, 9), targets="one-hot", b=Side(layout="first"))
def smoothing_off_the_last_axis() -> tuple[Any, Any]:
    return (
        _torch().nn.CrossEntropyLoss(label_smoothing=0.1),
        _keras().losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1, axis=1),
    )


@pair(20, **SEG)
def smoothing_missing_in_sparse() -> tuple[Any, Any]:
    return (
        _torch().nn.CrossEntropyLoss(label_smoothing=0.1),
        _keras().losses.SparseCategoricalCrossentropy(from_logits=True),
    )


@pair(21, **MAPS)
def huber_and_smooth_l1() -> tuple[Any, Any]:
    return _torch().nn.SmoothL1Loss(beta=0.5), _keras().losses.Huber(delta=0.5)


@pair(22, **BERNOULLI)
def poisson() -> tuple[Any, Any]:
    return _torch().nn.PoissonNLLLoss(), _keras().losses.Poisson()


@pair(23, classes=5, targets="values", inputs="values")
def cosine() -> tuple[Any, Any]:
    import torch

    def distance(input: Any, target: Any) -> Any:
        return (1 - torch.nn.functional.cosine_similarity(input, target, -1)).mean()

    return distance, _keras().losses.CosineSimilarity()


@pair(24, needs="kornia", **BINARY)
def alpha_of_kornia() -> tuple[Any, Any]:
    import kornia

    return (
        kornia.losses.BinaryFocalLossWithLogits(alpha=0.25, reduction="mean"),
        _keras().losses.BinaryFocalCrossentropy(from_logits=True),
    )


@pair(24, **BINARY)
def alpha_of_binary_focal() -> tuple[Any, Any]:
    keras = _keras()
    return (
        keras.losses.BinaryFocalCrossentropy(from_logits=True),
        keras.losses.BinaryFocalCrossentropy(from_logits=True, apply_class_balancing=True),
    )


@pair(25, **ONE_HOT)
def focal_one_against_the_rest() -> tuple[Any, Any]:
    import torch

    def one_against_the_rest(input: Any, target: Any) -> Any:
        per = torch.nn.functional.binary_cross_entropy_with_logits(input, target, reduction="none")
        p = input.sigmoid()
        return ((1 - (p * target + (1 - p) * (1 - target))) ** 2 * per).sum(1).mean()

    return one_against_the_rest, _keras().losses.CategoricalFocalCrossentropy(from_logits=True, alpha=1.0)


@pair(26, classes=1, spatial=(8, 9), targets="binary", inputs="probabilities")
def tversky_swapped() -> tuple[Any, Any]:
    def tversky(input: Any, target: Any) -> Any:
        both = (input * target).sum()
        return 1 - both / (both + 0.3 * (input * (1 - target)).sum() + 0.7 * ((1 - input) * target).sum())

    return tversky, _keras().losses.Tversky(alpha=0.3, beta=0.7)


@pair(27, classes=3, spatial=(8, 9), targets="one-hot", inputs="probabilities")
def dice_by_sample() -> tuple[Any, Any]:
    def by_sample(input: Any, target: Any) -> Any:
        axes = (2, 3)
        return (1 - 2 * (input * target).sum(axes) / (input.sum(axes) + target.sum(axes) + 1e-7)).mean()

    return by_sample, _keras().losses.Dice()


@pair(27, needs="monai", classes=3, spatial=(8, 9), targets="one-hot", inputs="probabilities")
def dice_of_monai() -> tuple[Any, Any]:
    monai = _monai()

    return monai.DiceLoss(batch=True), monai.DiceLoss()


@pair(28, classes=1, spatial=(8, 9), targets="binary", inputs="probabilities")
def dice_smoothed() -> tuple[Any, Any]:
    def smoothed(input: Any, target: Any) -> Any:
        return 1 - (2 * (input * target).sum() + 1) / (input.sum() + target.sum() + 1)

    return smoothed, _keras().losses.Dice()


@pair(29, needs="segmentation_models_pytorch", classes=1, spatial=(8, 9), targets="binary", inputs="probabilities")
def dice_of_smp_on_an_empty_mask() -> tuple[Any, Any]:
    smp = _smp()

    return smp.DiceLoss("binary", from_logits=False), _keras().losses.Dice()


@pair(29, classes=1, spatial=(8, 9), targets="binary", inputs="probabilities")
def dice_on_an_empty_mask() -> tuple[Any, Any]:
    def absent(input: Any, target: Any) -> Any:
        loss = 1 - 2 * (input * target).sum() / (input.sum() + target.sum()).clamp(min=1e-7)
        return loss * (target.sum() > 0)

    return absent, _keras().losses.Dice()


# Shapes and layout


@pair(31, **VALUES)
def broadcast() -> tuple[Any, Any]:
    tf = _tf()

    def careless(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.square(y_true[:, None] - y_pred))

    return _torch().nn.MSELoss(), careless


@pair(32, classes=3, spatial=(4,), batch=4, weights="sample")
def weights_of_the_last_axis() -> tuple[Any, Any]:
    tf = _tf()
    import torch

    def right(input: Any, target: Any, weight: Any = None) -> Any:
        per = torch.nn.functional.cross_entropy(input, target, reduction="none")
        return (per if weight is None else per * weight[:, None]).mean()

    def careless(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        per = tf.nn.sparse_softmax_cross_entropy_with_logits(y_true, y_pred)
        return tf.reduce_mean(per if sample_weight is None else per * sample_weight)

    return right, careless


@pair(34, **SEG)
def a_label_out_of_range() -> tuple[Any, Any]:
    tf = _tf()

    def silent(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(tf.one_hot(y_true, 3), y_pred))

    return _torch().nn.CrossEntropyLoss(), silent


@pair(35, **SEG, b=Side(layout="first"))
def sparse_on_axis_1() -> tuple[Any, Any]:
    return _torch().nn.CrossEntropyLoss(), _keras().losses.SparseCategoricalCrossentropy(from_logits=True, axis=1)


@pair(36, classes=1, spatial=(8, 10), targets="values", inputs="values")
def strided() -> tuple[Any, Any]:
    torch, tf = _torch(), _tf()

    def strided_torch(input: Any, target: Any) -> Any:
        k = torch.ones(1, 1, 3, 3) / 9
        d = torch.nn.functional.conv2d(input - target, k, stride=2, padding=1)
        return (d**2).mean()

    def strided_tf(y_true: Any, y_pred: Any) -> Any:
        k = tf.ones((3, 3, 1, 1)) / 9
        return tf.reduce_mean(tf.nn.conv2d(y_pred - y_true, k, 2, "SAME") ** 2)

    return strided_torch, strided_tf


def _edges(mode: str, kernel: Any = None) -> Callable[[Any, Any], Any]:
    import torch
    import torch.nn.functional as F

    stencil = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]) if kernel is None else kernel

    def laplacian(v: Any) -> Any:
        v = F.pad(v, (1, 1, 1, 1), mode=mode)
        return F.conv2d(v, stencil.expand(v.shape[1], 1, 3, 3), groups=v.shape[1])

    def edges(input: Any, target: Any) -> Any:
        return F.mse_loss(laplacian(input), laplacian(target))

    return edges


@pair(37, **ONE_HOT)
def edges_reflected() -> tuple[Any, Any]:
    return _edges("constant"), _edges("reflect")


@pair(37, needs="kornia", **ONE_HOT)
def edges_of_kornia() -> tuple[Any, Any]:
    import kornia
    import torch

    def of_kornia(input: Any, target: Any) -> Any:
        found, wanted = (kornia.filters.laplacian(v, 3) for v in (input, target))
        return torch.nn.functional.mse_loss(found, wanted)

    return of_kornia, _edges("constant")


@pair(38, needs="kornia", **IMAGES)
def ssim_of_kornia() -> tuple[Any, Any]:
    import kornia

    tf = _tf()

    def ssim(y_true: Any, y_pred: Any) -> Any:
        return (1 - tf.reduce_mean(tf.image.ssim(y_true, y_pred, 1.0))) / 2

    return kornia.losses.SSIMLoss(11), ssim


@pair(38, **IMAGES)
def ssim_over_the_border() -> tuple[Any, Any]:
    tf = _tf()

    def inside(y_true: Any, y_pred: Any) -> Any:
        return 1 - tf.reduce_mean(tf.image.ssim(y_true, y_pred, 1.0))

    import torch
    import torch.nn.functional as F

    g = torch.exp(-((torch.arange(11.0) - 5) ** 2) / 4.5)
    window = (g / g.sum())[:, None] * (g / g.sum())

    def blur(v: Any) -> Any:
        return F.conv2d(
            F.pad(v, (5, 5, 5, 5), mode="reflect"), window.to(v).expand(v.shape[1], 1, 11, 11), groups=v.shape[1]
        )

    def same(input: Any, target: Any) -> Any:
        mx, mt = blur(input), blur(target)
        xx, tt, xt = blur(input**2) - mx**2, blur(target**2) - mt**2, blur(input * target) - mx * mt
        c1, c2 = 0.0001, 0.0009
        return 1 - ((2 * mx * mt + c1) * (2 * xt + c2) / ((mx**2 + mt**2 + c1) * (xx + tt + c2))).mean()

    return same, inside


@pair(54, classes=4, targets="probabilities", inputs="probabilities")
def arguments_swapped() -> tuple[Any, Any]:
    import torch

    def chi(input: Any, target: Any) -> Any:
        return ((input - target) ** 2 / (target + 0.01)).sum(-1).mean() + torch.zeros(())

    def swapped(input: Any, target: Any) -> Any:
        return chi(target, input)

    return chi, swapped


# Gradients and configuration


@pair(39, classes=None, targets="values", inputs="values")
def ties() -> tuple[Any, Any]:
    torch, tf = _torch(), _tf()

    def in_torch(input: Any, target: Any) -> Any:
        return torch.maximum(input, target).mean()

    def in_tf(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.where(y_pred >= y_true, y_pred, y_true))

    return in_torch, in_tf


@pair(40, **VALUES)
def weight_decay() -> tuple[Any, Any]:
    tf = _tf()

    def decay(input: Any, target: Any) -> Any:
        return 0.01 / 2 * (input**2).sum()

    def regularizer(y_true: Any, y_pred: Any) -> Any:
        return 0.01 * tf.reduce_sum(y_pred**2)

    return decay, regularizer


@pair(41, **MAPS)
def lost_in_the_config() -> tuple[Any, Any]:
    return _torch().nn.HuberLoss(delta=2.0), _keras().losses.Huber(delta=2.0)


@pair(56, **VALUES)
def upstream_left_out() -> tuple[Any, Any]:
    import torch

    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, t: Any) -> Any:
            ctx.save_for_backward(x, t)
            return ((x - t) ** 2).mean()

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            x, t = ctx.saved_tensors
            return 2 * (x - t) / x.numel(), None

    def own(input: Any, target: Any) -> Any:
        return Own.apply(input, target)

    return own, torch.nn.MSELoss()


@pair(43, **SEG)
def another_smoothing() -> tuple[Any, Any]:
    return (
        _torch().nn.CrossEntropyLoss(label_smoothing=0.1),
        _keras().losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
    )


def _total(weight: float, mode: str = "constant") -> Callable[[Any, Any], Any]:
    import torch
    import torch.nn.functional as F

    edges = _edges(mode)

    def total_loss(input: Any, target: Any) -> Any:
        onehot = F.one_hot(target, input.shape[1]).movedim(-1, 1).to(input.dtype)
        return F.cross_entropy(input, target) + weight * edges(input, onehot) + torch.zeros(())

    return total_loss


@pair(48, **SEG)
def another_weight_of_a_term() -> tuple[Any, Any]:
    import dualloss

    return dualloss.TOTAL_LOSS, _total(1.0)


@pair(37, **SEG)
def total_loss_reflected() -> tuple[Any, Any]:
    import dualloss

    return dualloss.TOTAL_LOSS, _total(0.5, "reflect")


# What agrees


@pair(**SEG)
def agree_total_loss() -> tuple[Any, Any]:
    import dualloss

    return dualloss.TOTAL_LOSS, _total(0.5)


@pair(**SEG)
def agree_cross_entropy() -> tuple[Any, Any]:
    tf = _tf()

    def of_logits(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y_true, y_pred))

    return _keras().losses.CategoricalCrossentropy(from_logits=True), of_logits


@pair(**{**SEG, "targets": "one-hot"})
def agree_one_hot_cross_entropy() -> tuple[Any, Any]:
    return _torch().nn.CrossEntropyLoss(), _keras().losses.CategoricalCrossentropy(from_logits=True)


@pair(**{**SEG, "targets": "one-hot"})
def agree_smoothed() -> tuple[Any, Any]:
    return (
        _torch().nn.CrossEntropyLoss(label_smoothing=0.1),
        _keras().losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
    )


@pair(**BINARY)
def agree_binary() -> tuple[Any, Any]:
    return _torch().nn.BCEWithLogitsLoss(), _keras().losses.BinaryCrossentropy(from_logits=True)


@pair(39, **BINARY)
def weighted_cross_entropy_of_tensorflow_at_0() -> tuple[Any, Any]:
    torch, tf = _torch(), _tf()

    def weighted(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.nn.weighted_cross_entropy_with_logits(y_true, y_pred, 2.5))

    return torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.5)), weighted


@pair(**{**SEG, "targets": "one-hot"})
def agree_class_form_and_spec() -> tuple[Any, Any]:
    import dualloss

    return dualloss.CrossEntropy(), _keras().losses.CategoricalCrossentropy(from_logits=True)


def _agree_values(name: str, torch_name: str, keras_name: str, **options: Any) -> None:
    def make() -> tuple[Any, Any]:
        keras = getattr(_keras().losses, keras_name)(**options)
        tf = _tf()

        def as_float32(y_true: Any, y_pred: Any) -> Any:
            return keras(y_true, tf.cast(y_pred, tf.float32))

        loss = getattr(_torch().nn, torch_name)(**options)

        def in_float32(input: Any, target: Any) -> Any:
            return loss(input.float(), target.float())

        return in_float32, as_float32

    PAIRS.append(Pair(name, (), make, {"classes": 2, "spatial": (5,), "targets": "values", "inputs": "values"}))


_agree_values("agree_mse", "MSELoss", "MeanSquaredError")
_agree_values("agree_mae", "L1Loss", "MeanAbsoluteError")
_agree_values("agree_huber", "HuberLoss", "Huber", delta=1.0)


@pair(**SEG, ignore_index=2)
def agree_ignored() -> tuple[Any, Any]:
    torch, tf = _torch(), _tf()

    def ours(y_true: Any, y_pred: Any) -> Any:
        valid = tf.not_equal(y_true, 2)
        per = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(valid, y_true, 0), y_pred)
        return tf.reduce_sum(tf.where(valid, per, 0.0)) / tf.reduce_sum(tf.cast(valid, tf.float32))

    return torch.nn.CrossEntropyLoss(ignore_index=2), ours


@pair(**ONE_HOT)
def agree_edges() -> tuple[Any, Any]:
    tf = _tf()
    k = tf.constant([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[..., None, None]

    def edges(y_true: Any, y_pred: Any) -> Any:
        d = tf.cast(y_pred, tf.float32) - tf.cast(y_true, tf.float32)
        return tf.reduce_mean(tf.nn.depthwise_conv2d(d, tf.tile(k, [1, 1, d.shape[-1], 1]), [1] * 4, "SAME") ** 2)

    return _edges("constant"), edges


@pair(classes=1, spatial=(8, 9), targets="binary", inputs="probabilities")
def agree_dice() -> tuple[Any, Any]:
    def dice(input: Any, target: Any) -> Any:
        return 1 - (2 * (input * target).sum()) / (input.sum() + target.sum() + 1e-7)

    return dice, _keras().losses.Dice()


@pair(**BINARY)
def agree_binary_focal() -> tuple[Any, Any]:
    import torch

    def focal(input: Any, target: Any) -> Any:
        per = torch.nn.functional.binary_cross_entropy_with_logits(input, target, reduction="none")
        return ((1 - torch.exp(-per)) ** 2 * per).mean()

    tf = _tf()

    def in_tf(y_true: Any, y_pred: Any) -> Any:
        per = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(y_true, y_pred.dtype), y_pred)
        return tf.reduce_mean((1 - tf.exp(-per)) ** 2 * per)

    return focal, in_tf


@pair(39, classes=5, targets="values", inputs="values")
def cosine_of_norm_0() -> tuple[Any, Any]:
    import torch

    tf = _tf()

    def cosine(input: Any, target: Any) -> Any:
        return -torch.nn.functional.cosine_similarity(input.float(), target.float(), -1).mean()

    def in_tf(y_true: Any, y_pred: Any) -> Any:
        t, x = (tf.math.l2_normalize(tf.cast(v, tf.float32), -1) for v in (y_true, y_pred))
        return -tf.reduce_mean(tf.reduce_sum(t * x, -1))

    return cosine, in_tf


@pair(classes=5, targets="values", inputs="values")
def agree_norms() -> tuple[Any, Any]:
    tf = _tf()

    def in_torch(input: Any, target: Any) -> Any:
        return ((input - target) ** 2).sum(-1).add(1e-6).sqrt().mean()

    def in_tf(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.sqrt(tf.reduce_sum((y_pred - tf.cast(y_true, y_pred.dtype)) ** 2, -1) + 1e-6))

    return in_torch, in_tf


@pair(**VALUES)
def agree_poisson() -> tuple[Any, Any]:
    tf = _tf()

    def poisson(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.exp(y_pred) - tf.cast(y_true, y_pred.dtype) * y_pred)

    return _torch().nn.PoissonNLLLoss(), poisson


@pair(**{**KL, "spatial": (4,)})
def agree_kl() -> tuple[Any, Any]:
    tf = _tf()

    def kl(y_true: Any, y_pred: Any) -> Any:
        t = tf.cast(y_true, y_pred.dtype)
        return tf.reduce_mean(tf.math.xlogy(t, t) - t * y_pred)

    return _torch().nn.KLDivLoss(), kl


@pair(classes=21, spatial=(32, 32))
def agree_many_classes() -> tuple[Any, Any]:
    tf = _tf()

    def in_tf(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y_true, y_pred))

    def by_hand(input: Any, target: Any) -> Any:
        return -input.log_softmax(1).gather(1, target[:, None]).mean()

    import dualloss

    return dualloss.CrossEntropy(), by_hand


@pair(classes=2, spatial=(6, 5, 7), batch=2)
def agree_three_dimensions() -> tuple[Any, Any]:
    import dualloss

    return dualloss.CrossEntropy() + dualloss.Dice(), dualloss.Dice() + dualloss.CrossEntropy()


@pair(**SEG)
def agree_spec_and_torch() -> tuple[Any, Any]:
    import torch

    import dualloss

    def plain(input: Any, target: Any) -> Any:
        return torch.nn.functional.nll_loss(input.log_softmax(1), target, ignore_index=-(10**6))

    return dualloss.CrossEntropy(), plain


@pair(**ONE_HOT)
def agree_hinge_free() -> tuple[Any, Any]:
    """A loss that no formula here knows."""
    torch, tf = _torch(), _tf()

    def in_torch(input: Any, target: Any) -> Any:
        return (torch.atan(input - target) ** 2).mean()

    def in_tf(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.atan(y_pred - tf.cast(y_true, y_pred.dtype)) ** 2)

    return in_torch, in_tf


# Causes beside those of the catalogue, and the rest of it


@pair(30, needs="kornia", **SEG)
def tversky_of_another_version() -> tuple[Any, Any]:
    """kornia 0.9.0rc1 took the sum of alpha and beta alone."""
    import kornia
    import torch

    def both_by_their_sum(input: Any, target: Any) -> Any:
        p, t = input.softmax(1), torch.nn.functional.one_hot(target, input.shape[1]).movedim(-1, 1)
        axes, half = (2, 3), (0.3 + 0.7) / 2
        both, there = (p * t).sum(axes), t.sum(axes) > 0
        score = both / (both + half * (p * (1 - t)).sum(axes) + half * ((1 - p) * t).sum(axes))
        return 1 - ((score * there).sum(1) / there.sum(1)).mean()

    return kornia.losses.TverskyLoss(alpha=0.3, beta=0.7, eps=1e-12), both_by_their_sum


@pair(33, **SEG)
def class_weight_of_fit() -> tuple[Any, Any]:
    def through_fit(y_true: Any, y_pred: Any) -> Any:
        keras = _keras()
        model = keras.Sequential([keras.Input(y_pred.shape[1:]), keras.layers.Activation("linear")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(y_pred, y_true, class_weight={0: 1.0, 1: 2.0, 2: 0.5}, verbose=0)

    return _torch().nn.CrossEntropyLoss(), through_fit


@pair(44, **SEG, ignore_index=2)
def nothing_is_ignored() -> tuple[Any, Any]:
    return (
        _torch().nn.CrossEntropyLoss(ignore_index=2),
        _keras().losses.SparseCategoricalCrossentropy(from_logits=True),
    )


@pair(49, **MAPS)
def another_loss() -> tuple[Any, Any]:
    return _torch().nn.MSELoss(), _keras().losses.LogCosh()


@pair(50, classes=3, spatial=(8, 9), targets="one-hot", inputs="probabilities")
def dice_of_squares() -> tuple[Any, Any]:
    def squares(input: Any, target: Any) -> Any:
        return 1 - 2 * (input * target).sum() / ((input**2).sum() + (target**2).sum())

    return squares, _keras().losses.Dice()


@pair(51, needs="monai", classes=3, spatial=(8, 9), targets="one-hot", inputs="probabilities")
def dice_without_background() -> tuple[Any, Any]:
    monai = _monai()
    return monai.DiceLoss(include_background=False), monai.DiceLoss()


@pair(52, **MAPS)
def an_offset() -> tuple[Any, Any]:
    import torch

    def strange(input: Any, target: Any) -> Any:
        return torch.atan(input - target).square().mean()

    def offset(input: Any, target: Any) -> Any:
        return strange(input, target) + torch.log(torch.tensor(2.0))

    return strange, offset


@pair(55, classes=4, spatial=(4, 4), targets="probabilities")
def the_wrong_axis() -> tuple[Any, Any]:
    import torch

    def over(axis: int) -> Callable[[Any, Any], Any]:
        def strange(input: Any, target: Any) -> Any:
            return (torch.atan(input.softmax(axis) - target) ** 2).mean()

        return strange

    def on_axis_2(input: Any, target: Any) -> Any:
        return over(2)(input, target)

    return over(1), on_axis_2


@pair(57, **MAPS)
def detached() -> tuple[Any, Any]:
    import torch

    def cut(input: Any, target: Any) -> Any:
        return torch.nn.functional.mse_loss(input.detach(), target)

    return torch.nn.MSELoss(), cut


@pair(58, **MAPS)
def half_of_the_gradient() -> tuple[Any, Any]:
    import torch

    def half(input: Any, target: Any) -> Any:
        return torch.nn.functional.mse_loss(input / 2 + input.detach() / 2, target)

    return torch.nn.MSELoss(), half


@pair(59, **MAPS)
def noisy() -> tuple[Any, Any]:
    import torch

    def with_noise(input: Any, target: Any) -> Any:
        return torch.nn.functional.mse_loss(input + 0.1 * torch.randn_like(input), target)

    return torch.nn.MSELoss(), with_noise


@pair(61, **SEG)
def class_weights_missing() -> tuple[Any, Any]:
    torch = _torch()
    return (
        torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 4.0])),
        _keras().losses.SparseCategoricalCrossentropy(from_logits=True),
    )


@pair(61, **BINARY)
def pos_weight_missing() -> tuple[Any, Any]:
    torch, tf = _torch(), _tf()

    def by_hand(y_true: Any, y_pred: Any) -> Any:
        yes, no = tf.nn.softplus(-y_pred), tf.nn.softplus(y_pred)
        return tf.reduce_mean(4.5 * y_true * yes + (1 - y_true) * no)

    return torch.nn.BCEWithLogitsLoss(), by_hand


@pair(62, classes=4, spatial=(5,), targets="probabilities")
def cross_entropy_and_divergence() -> tuple[Any, Any]:
    import torch
    import torch.nn.functional as F

    def divergence(input: Any, target: Any) -> Any:
        return F.kl_div(input.log_softmax(1), target, reduction="none").sum(1).mean()

    return torch.nn.CrossEntropyLoss(), divergence


def _dice(activation: str) -> Callable[[Any, Any], Any]:
    def dice(input: Any, target: Any) -> Any:
        p = input.softmax(1) if activation == "softmax" else input.sigmoid()
        return 1 - 2 * (p * target).sum() / (p.sum() + target.sum())

    return dice


@pair(63, **ONE_HOT)
def dice_of_sigmoids() -> tuple[Any, Any]:
    return _dice("softmax"), _dice("sigmoid")


@pair(14, **SEG, a=Side(activation="softmax"), b=Side(activation="softmax"))
def softmax_before_both() -> tuple[Any, Any]:
    return _torch().nn.CrossEntropyLoss(), _keras().losses.SparseCategoricalCrossentropy()


@pair(47, **MAPS)
def half_the_squares() -> tuple[Any, Any]:
    import torch

    def half(input: Any, target: Any) -> Any:
        return 0.5 * torch.nn.functional.mse_loss(input, target)

    return torch.nn.MSELoss(), half


@pair(44, **SEG, ignore_index=255)
def ignored_label_made_a_class() -> tuple[Any, Any]:
    tf = _tf()

    def careless(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(y_true == 255, 0, y_true), y_pred)
        )

    return _torch().nn.CrossEntropyLoss(ignore_index=255), careless


@pair(49, **{**ONE_HOT})
def binary_for_categorical() -> tuple[Any, Any]:
    return _torch().nn.BCEWithLogitsLoss(), _keras().losses.CategoricalCrossentropy(from_logits=True)


@pair(43, **BINARY)
def another_tversky() -> tuple[Any, Any]:
    def tversky(a: float, b: float) -> Callable[[Any, Any], Any]:
        def loss(input: Any, target: Any) -> Any:
            p = input.sigmoid()
            both = (p * target).sum()
            return 1 - both / (both + a * (p * (1 - target)).sum() + b * ((1 - p) * target).sum())

        return loss

    return tversky(0.3, 0.7), tversky(0.5, 0.5)


@pair(**SEG)
def agree_sparse_by_hand() -> tuple[Any, Any]:
    """It takes one-hot targets too, without a word."""
    tf = _tf()

    def sparse(y_true: Any, y_pred: Any) -> Any:
        log = tf.nn.log_softmax(y_pred)
        return (
            -tf.reduce_mean(tf.gather(log, tf.cast(y_true, tf.int32), batch_dims=3))
            if len(y_true.shape) == 3
            else (-tf.reduce_mean(log * tf.cast(y_true, log.dtype)))
        )

    return _torch().nn.CrossEntropyLoss(), sparse


@pair(**BINARY, ignore_index=255)
def agree_masked_binary() -> tuple[Any, Any]:
    import torch.nn.functional as F

    def masked(input: Any, target: Any) -> Any:
        valid = target != 255
        per = F.binary_cross_entropy_with_logits(input, target.where(valid, 0), reduction="none")
        return (per * valid).sum() / valid.sum()

    tf = _tf()

    def in_tf(y_true: Any, y_pred: Any) -> Any:
        valid = tf.cast(y_true != 255, y_pred.dtype)
        t = tf.cast(tf.where(y_true == 255, 0.0, y_true), y_pred.dtype)
        return tf.reduce_sum(valid * tf.nn.sigmoid_cross_entropy_with_logits(t, y_pred)) / tf.reduce_sum(valid)

    return masked, in_tf


@pair(4, **SEG, ignore_index=255)
def ignored_left_out_of_each_image() -> tuple[Any, Any]:
    tf = _tf()

    def by_image(y_true: Any, y_pred: Any) -> Any:
        valid = tf.not_equal(y_true, 255)
        per = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(valid, y_true, 0), y_pred)
        sums = tf.reduce_sum(tf.where(valid, per, 0.0), (1, 2))
        return tf.reduce_mean(tf.math.divide_no_nan(sums, tf.reduce_sum(tf.cast(valid, tf.float32), (1, 2))))

    return _torch().nn.CrossEntropyLoss(ignore_index=255), by_image


@pair(44, **SEG)
def ignored_by_one_that_says_so() -> tuple[Any, Any]:
    """Nobody told the comparison of the label."""
    return (
        _torch().nn.CrossEntropyLoss(ignore_index=2),
        _keras().losses.SparseCategoricalCrossentropy(from_logits=True),
    )


@pair(28, classes=1, spatial=(8, 9), targets="binary", inputs="probabilities")
def dice_smoothed_below_only() -> tuple[Any, Any]:
    def dice(above: float) -> Callable[[Any, Any], Any]:
        def loss(input: Any, target: Any) -> Any:
            return 1 - (2 * (input * target).sum() + above) / (input.sum() + target.sum() + 1e-7)

        return loss

    return dice(1e-7), dice(0.0)


@pair(43, **SEG)
def another_number_in_the_code() -> tuple[Any, Any]:
    import torch.nn.functional as F

    return (
        lambda input, target: F.cross_entropy(input, target, label_smoothing=0.13),
        lambda input, target: F.cross_entropy(input, target, label_smoothing=0.21),
    )
