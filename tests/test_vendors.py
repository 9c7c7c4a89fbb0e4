"""Losses of other libraries as specs and back: what is read, what is refused, what the presets are."""

from __future__ import annotations

import importlib.util
import inspect
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dualloss as dl
from dualloss.spec import TERMS, VERSIONS
from dualloss.vendors import REFUSED, ROWS, keras_losses
from dualloss.vendors._common import canonical

ROOT = Path(__file__).parents[1]
FRAMEWORKS = [
    name for name in ("torch", "keras", "monai", "segmentation_models_pytorch") if importlib.util.find_spec(name)
]


def need(*names: str) -> None:
    for name in names:
        if name not in FRAMEWORKS:
            pytest.skip(f"needs {name}")


@pytest.fixture
def nn() -> Any:
    """torch.nn."""
    need("torch")
    return pytest.importorskip("torch.nn")


@pytest.fixture
def losses() -> Any:
    """keras.losses."""
    need("keras")
    return pytest.importorskip("keras").losses


@pytest.fixture
def smp() -> Any:
    """segmentation_models_pytorch.losses, without the rest of the package."""
    need("torch", "segmentation_models_pytorch")
    from dualloss.vendors.proof.losses_smp import load

    return load()


@pytest.fixture
def monai() -> Any:
    """monai.losses."""
    need("torch", "monai")
    from dualloss.vendors.proof.losses_monai import losses

    return losses


def tensor(*values: Any) -> Any:
    import torch

    return torch.tensor(values)


def rounded(value: float) -> float:
    """The nearest float32, which PyTorch's weights are."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


# --- torch.nn ---


def test_cross_entropy_of_torch_divides_by_the_weights_of_labels_only(nn: Any) -> None:
    loss = nn.CrossEntropyLoss(weight=tensor(1.0, 0.5), label_smoothing=0.1)
    of_labels = dl.CrossEntropy(class_weights=(1, 0.5), label_smoothing=0.1, ignore_index=-100, empty="nan")
    of_probabilities = dl.CrossEntropy(class_weights=(1, 0.5), label_smoothing=0.1, normalizer="valid", empty="nan")
    assert dl.from_torch(loss) == of_labels
    assert dl.from_torch(loss, targets="probabilities") == of_probabilities


def test_torch_modules_become_specs(nn: Any) -> None:
    expected = {
        nn.CrossEntropyLoss(ignore_index=255, reduction="sum"): dl.CrossEntropy(ignore_index=255, normalizer="one"),
        nn.CrossEntropyLoss(label_smoothing=-0.5): dl.CrossEntropy(ignore_index=-100, empty="nan"),
        nn.NLLLoss(weight=tensor(2.0, 0.3)): dl.NegativeLogLikelihood(
            class_weights=(2, rounded(0.3)), ignore_index=-100, empty="nan"
        ),
        nn.BCELoss(): dl.BinaryCrossEntropy(inputs="probabilities", clip=None, empty="nan"),
        nn.BCEWithLogitsLoss(weight=tensor(0.5), pos_weight=tensor(3.0)): 0.5
        * dl.BinaryCrossEntropy(pos_weight=3, empty="nan"),
        nn.BCEWithLogitsLoss(pos_weight=tensor(1.0, 2.0).reshape(2, 1, 1)): dl.BinaryCrossEntropy(
            pos_weight=(1, 2), empty="nan"
        ),
        nn.MultiLabelSoftMarginLoss(): dl.BinaryCrossEntropy(empty="nan"),
        nn.MSELoss(): dl.MeanSquaredError(empty="nan"),
        nn.MSELoss(reduction="sum"): dl.MeanSquaredError(normalizer="one", channels="sum"),
        nn.L1Loss(): dl.MeanAbsoluteError(empty="nan"),
        nn.SmoothL1Loss(beta=0.5): dl.SmoothL1(beta=0.5, empty="nan"),
        nn.HuberLoss(delta=2): dl.Huber(delta=2, empty="nan"),
        nn.KLDivLoss(): dl.KLDivergence(inputs="log_probabilities", channels="mean", empty="nan"),
        nn.KLDivLoss(reduction="batchmean", log_target=True): dl.KLDivergence(
            inputs="log_probabilities", log_target=True, normalizer="batch", empty="nan"
        ),
        nn.PoissonNLLLoss(log_input=False, full=True): dl.Poisson(inputs="rate", full=True, epsilon=1e-8, empty="nan"),
        nn.PoissonNLLLoss(eps=0.0): dl.Poisson(empty="nan"),
    }
    for loss, spec in expected.items():
        assert dl.from_torch(loss) == spec


def test_weights_of_torch_must_lie_on_the_channel_axis(nn: Any) -> None:
    flat = nn.BCEWithLogitsLoss(weight=tensor(1.0, 2.0))
    with pytest.raises(ValueError, match=r"weight=\[1.0, 2.0\].*spatial=0"):
        dl.from_torch(flat)
    with pytest.raises(ValueError, match=r"axis -1 .* spatial=2: the weight needs the shape \(C, 1, 1\)"):
        dl.from_torch(flat, spatial=2)
    assert dl.from_torch(flat, spatial=0) == dl.BinaryCrossEntropy(class_weights=(1, 2), empty="nan")
    elements = nn.BCELoss(weight=tensor(1.0, 2.0, 3.0, 4.0).reshape(2, 2))
    with pytest.raises(ValueError, match="single elements"):
        dl.from_torch(elements)


def test_torch_options_that_no_spec_says_are_refused(nn: Any) -> None:
    class Mine(nn.MSELoss):
        pass

    cases: list[tuple[Any, dict[str, Any], str]] = [
        (nn.MSELoss(reduction="none"), {}, r"MSELoss\(reduction='none'\).*Loss\(spec, reduction=\"none\"\)"),
        (nn.MSELoss(reduction="mode"), {}, r"reduction='mode'.*expected \"mean\" or \"sum\""),
        (nn.CrossEntropyLoss(ignore_index=1), {"targets": "probabilities"}, "ignore_index=1"),
        (nn.CrossEntropyLoss(weight=tensor(-1.0, 1.0)), {}, r"CrossEntropyLoss: class_weights\[0\]=-1.0"),
        (nn.SmoothL1Loss(beta=-1.0), {}, "SmoothL1Loss: beta=-1.0"),
        (nn.MultiLabelSoftMarginLoss(reduction="sum"), {"spatial": 2}, "last axis"),
        (nn.CosineEmbeddingLoss(), {}, "CosineEmbeddingLoss: it compares two predictions"),
        (nn.SoftMarginLoss(), {}, r"BinaryCrossEntropy of the targets \(t \+ 1\) / 2"),
        (nn.ReLU(), {}, r"ReLU is not known: .* Expected one of torch.nn.CrossEntropyLoss"),
        (Mine(), {}, "a subclass of torch.nn.MSELoss and may compute something else"),
        (nn.MSELoss(), {"targets": "probabilities"}, "does not depend on them"),
        (nn.MSELoss(), {"like": "torch"}, "expected none"),
        (nn.MSELoss(), {"targets": "labels"}, "targets='labels', expected"),
        (nn.MSELoss(), {"spatial": -1}, "spatial=-1, expected an integer >= 0"),
    ]
    for loss, keywords, message in cases:
        with pytest.raises(ValueError, match=message):
            dl.from_torch(loss, **keywords)


def test_modules_that_were_changed_are_refused(nn: Any) -> None:
    changed = nn.MSELoss()
    changed.forward = lambda input, target: (input - target).abs().mean()
    with pytest.raises(ValueError, match="MSELoss has a forward of its own"):
        dl.from_torch(changed)
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        hooked = nn.MSELoss()
        getattr(hooked, register)(lambda *args: None)
        with pytest.raises(ValueError, match=r"MSELoss has .* hooks, which no spec says"):
            dl.from_torch(hooked)
    with pytest.raises(ValueError, match=r"the function torch\.nn\.functional\.cross_entropy, expected a loss module"):
        dl.from_torch(nn.functional.cross_entropy)


def test_keras_losses_that_were_changed_are_refused(losses: Any) -> None:
    with pytest.raises(ValueError, match=r"a loss of Keras.*use from_keras"):
        dl.from_torch(losses.MeanSquaredError())
    changed = losses.MeanSquaredError()
    changed.fn = losses.mean_absolute_error
    with pytest.raises(ValueError, match=r"MeanSquaredError has the fn .*expected that of its class"):
        dl.from_keras(changed)
    changed = losses.MeanSquaredError()
    changed.call = lambda y_true, y_pred: y_pred
    with pytest.raises(ValueError, match="MeanSquaredError has a call of its own"):
        dl.from_keras(changed)


def test_the_default_dtype_of_keras_counts(losses: Any) -> None:
    import keras

    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        for loss in (losses.MeanSquaredError(), "mse", losses.mean_squared_error):
            with pytest.raises(ValueError, match="dtype='float64'"):
                dl.from_keras(loss)
    finally:
        keras.config.set_floatx(before)


def test_what_is_no_spec_is_a_type_error() -> None:
    for export in (dl.to_torch, dl.to_keras):
        for given in (None, 3, "mse"):
            with pytest.raises(TypeError, match=f"spec is {type(given).__name__}, expected a loss spec"):
                export(given)  # type: ignore[arg-type]


def test_what_is_no_loss_is_a_type_error(nn: Any) -> None:
    with pytest.raises(TypeError, match=r"is a class, expected an instance: MSELoss\(\.\.\.\)"):
        dl.from_torch(nn.MSELoss)
    with pytest.raises(TypeError, match="loss=3, expected a loss module"):
        dl.from_torch(3)
    with pytest.raises(TypeError, match=r"loss=3, expected a loss of keras\.losses"):
        dl.from_keras(3)


# --- keras.losses ---


def test_keras_losses_become_specs(losses: Any) -> None:
    expected = [
        (losses.BinaryCrossentropy(), dl.BinaryCrossEntropy(inputs="probabilities", clip=1e-7)),
        (
            losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1, reduction="sum"),
            dl.BinaryCrossEntropy(label_smoothing=0.1, normalizer="one"),
        ),
        (losses.CategoricalCrossentropy(), dl.CrossEntropy(inputs="probabilities", normalizer="valid")),
        (
            losses.SparseCategoricalCrossentropy(ignore_class=255),
            dl.CrossEntropy(inputs="probabilities", renormalize="after", ignore_index=255, normalizer="valid"),
        ),
        (losses.BinaryFocalCrossentropy(gamma=1.5), dl.BinaryFocal(gamma=1.5, inputs="probabilities")),
        (
            losses.BinaryFocalCrossentropy(apply_class_balancing=True, from_logits=True),
            dl.BinaryFocal(alpha=0.25),
        ),
        (
            losses.CategoricalFocalCrossentropy(alpha=[0.1, 0.2], from_logits=True),
            dl.Focal(alpha=(0.1, 0.2), clip_softmax=True),
        ),
        (
            losses.MeanSquaredError(reduction="mean_with_sample_weight"),
            dl.MeanSquaredError(normalizer="sample_weights"),
        ),
        (losses.Huber(delta=0.5), dl.Huber(delta=0.5)),
        (losses.CosineSimilarity(), dl.CosineSimilarity(epsilon=1e-14)),
        (losses.Poisson(), dl.Poisson(inputs="rate", epsilon=1e-7)),
        (
            losses.Dice(reduction=None),
            dl.Dice(activation="none", per_class=False, smooth_denominator=1e-7, epsilon=0),
        ),
    ]  # fmt: skip
    for loss, spec in expected:
        assert dl.from_keras(loss) == spec


def test_what_enters_the_value_of_a_keras_loss_is_read_not_its_attributes(losses: Any) -> None:
    loss = losses.BinaryCrossentropy(from_logits=True)
    loss.from_logits = False  # changes its config, but not what it computes
    assert dl.from_keras(loss) == dl.BinaryCrossEntropy()


def test_keras_epsilon_is_read_when_importing(losses: Any) -> None:
    import keras

    keras.config.set_epsilon(1e-4)
    try:
        assert dl.from_keras(losses.KLDivergence()) == dl.KLDivergence(inputs="probabilities", clip=1e-4)
    finally:
        keras.config.set_epsilon(1e-7)
    assert dl.from_keras(losses.KLDivergence()) == dl.KLDivergence(inputs="probabilities", clip=1e-7)


def test_axes_of_keras_dice_are_groups(losses: Any) -> None:
    expected = [
        ((1, 2), 2, (True, True)),
        ((1, 2), 1, (True, False)),
        ((0, 1, 2), 2, (False, True)),
        ((0, 1, 2), 1, (False, False)),
        ([-2, -3], 2, (True, True)),
        (1, 1, (True, True)),
    ]
    for axis, spatial, (per_sample, per_class) in expected:
        term = dl.from_keras(losses.Dice(axis=axis), spatial=spatial)
        assert term == dl.Dice(like="keras", per_sample=per_sample, per_class=per_class)


def test_tversky_of_keras_asks_which_reading_is_meant(losses: Any) -> None:
    loss = losses.Tversky(alpha=0.3, beta=0.7)
    with pytest.raises(ValueError, match=r'alpha=0.3.*like="keras==3.15.1" or like="keras"'):
        dl.from_keras(loss)
    with pytest.raises(ValueError, match="like='smp', expected"):
        dl.from_keras(loss, like="smp")
    documented, computed = (dl.from_keras(loss, like=like) for like in ("keras", "keras==3.15.1"))
    assert documented == dl.Tversky(like="keras", alpha=0.3, beta=0.7)
    assert computed == dl.Tversky(like="keras", alpha=0.7, beta=0.3)
    assert dl.from_keras(losses.Tversky()) == dl.Tversky(like="keras")


def test_keras_options_that_no_spec_says_are_refused(losses: Any) -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (losses.BinaryCrossentropy(axis=1), {}, r"axis=1\).*channel_axis"),
        (losses.CategoricalCrossentropy(axis=1), {}, "smooths labels by the length of the last axis"),
        (losses.CategoricalCrossentropy(label_smoothing=-0.1), {}, "label_smoothing=-0.1"),
        (losses.MeanSquaredError(reduction="none"), {}, "reduction='none'"),
        (losses.MeanSquaredError(dtype="float64"), {}, "dtype='float64'.*float32"),
        (losses.Dice(axis=(1, 2)), {}, "spatial="),
        (losses.Dice(axis=(2, 3)), {"spatial": 2}, r"expected \(1, 2\), \(0, 1, 2\)"),
        (losses.Dice(axis=1, reduction="sum"), {"spatial": 1}, r"Loss\(spec, reduction=\"sum\"\)"),
        (losses.Dice(axis=1, reduction="none"), {"spatial": 1}, "no value at a position"),
        (losses.Circle(), {}, "Circle: it compares all pairs"),
    ]
    for loss, keywords, message in cases:
        with pytest.raises(ValueError, match=message):
            dl.from_keras(loss, **keywords)


def test_strings_and_configs_need_no_keras() -> None:
    assert dl.from_keras("mse") == dl.from_keras("MeanSquaredError") == dl.MeanSquaredError()
    assert dl.from_keras("binary_crossentropy") == dl.BinaryCrossEntropy(inputs="probabilities")
    config = {
        "class_name": "CategoricalFocalCrossentropy",
        "config": {"alpha": {"class_name": "__tuple__", "items": [0.1, 0.2]}, "reduction": "sum", "name": "focal"},
    }
    assert dl.from_keras(config) == dl.Focal(alpha=(0.1, 0.2), inputs="probabilities", normalizer="one")
    function = {"module": "builtins", "class_name": "function", "config": "huber", "registered_name": "function"}
    assert dl.from_keras(function) == dl.Huber()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("huber_loss", "'huber_loss' is no loss that is known"),
        ("ctc", "CTC: its sequences"),
        ({"class_name": "Huber", "config": {}}, "no 'delta': Keras does not write it"),
        ({"class_name": "CosineSimilarity", "config": {}}, "no 'axis'"),
        ({"class_name": "Poisson", "config": {"log_input": True}}, "unknown option 'log_input', expected none"),
        ({"class_name": "Mine", "module": "mine", "config": {}}, "of mine.Mine, expected a class of keras.losses"),
        ({"class_name": "Poisson", "config": {"reduction": "auto"}}, "reduction='auto'"),
        ({"config": {}}, "expected 'class_name' and 'config'"),
    ],
)
def test_configs_and_strings_that_say_no_spec_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dl.from_keras(given)


def test_every_serialised_keras_loss_is_read_as_the_loss_itself(losses: Any) -> None:
    for name in keras_losses.OPTIONS:
        loss = getattr(losses, name)()
        config = losses.serialize(loss)
        for lost in keras_losses.LOST.get(name, ()):
            config["config"][lost] = keras_losses.OPTIONS[name][lost]
        assert dl.from_keras(config) == dl.from_keras(loss) == dl.from_keras(name)


def test_wrapped_functions_of_keras_are_their_classes(losses: Any) -> None:
    from keras.src.losses.losses import LossFunctionWrapper

    assert dl.from_keras(losses.mean_absolute_error) == dl.MeanAbsoluteError()
    wrapped = LossFunctionWrapper(losses.huber, delta=0.5, reduction="sum")
    assert dl.from_keras(wrapped) == dl.from_keras(losses.serialize(wrapped)) == dl.Huber(delta=0.5, normalizer="one")
    with pytest.raises(ValueError, match=r"no function of keras\.losses"):
        dl.from_keras(lambda y_true, y_pred: y_pred)


def test_the_table_of_keras_options_is_that_of_keras(losses: Any) -> None:
    for function, name in keras_losses.FUNCTIONS.items():
        if name not in keras_losses.OPTIONS:
            assert (keras_losses.MODULE, name) in REFUSED
            continue
        for made in (getattr(losses, name), getattr(losses, function)):
            parameters = inspect.signature(made).parameters
            known = {
                key: parameter.default
                for key, parameter in parameters.items()
                if key not in ("reduction", "name", "dtype", "y_true", "y_pred")
            }
            assert known == keras_losses.OPTIONS[name]
    for alias, name in keras_losses.ALIASES.items():
        assert losses.get(alias) is losses.get({v: k for k, v in keras_losses.FUNCTIONS.items()}[name])


# --- segmentation-models-pytorch, MONAI ---


def test_smp_losses_become_specs(smp: Any) -> None:
    region: dict[str, Any] = {"overlap": "minimum", "empty_class": "zero"}
    expected = [
        (smp.DiceLoss("multiclass", ignore_index=255), dl.Tversky(ignore_index=255, **region)),
        (smp.DiceLoss("binary"), dl.Tversky(activation="sigmoid", per_class=False, **region)),
        (smp.JaccardLoss("multilabel", log_loss=True), dl.Jaccard(activation="sigmoid", log=True, **region)),
        (
            smp.DiceLoss("multiclass", classes=[2, 0], class_weights=[1.0, 5.0, 3.0]),
            dl.Tversky(classes=(0, 2), class_weights=(0.5, 2.5, 1.5), **region),
        ),
        (
            smp.TverskyLoss("multiclass", alpha=0.3, beta=0.7, gamma=0.75, from_logits=False),
            dl.FocalTversky(alpha=0.3, beta=0.7, gamma=0.75, power_of_mean=True, activation="none", **region),
        ),
        (
            smp.FocalLoss("multiclass", alpha=0.25, class_weights=[1.0, 3.0], ignore_index=255),
            dl.BinaryFocal(alpha=0.25, class_weights=(0.5, 1.5), ignore_index=255, empty="nan"),
        ),
        (
            smp.SoftBCEWithLogitsLoss(smooth_factor=0.1),
            dl.BinaryCrossEntropy(label_smoothing=0.2, ignore_value=-100, empty="nan"),
        ),
        (
            smp.SoftCrossEntropyLoss(smooth_factor=0.1),
            dl.CrossEntropy(label_smoothing=0.1, ignore_index=-100, normalizer="elements", empty="nan"),
        ),
        (smp.LovaszLoss("multiclass", per_image=True), dl.Lovasz(per_sample=True)),
        (smp.LovaszLoss("binary"), dl.Lovasz(activation="hinge", classes="all")),
    ]
    for loss, spec in expected:
        assert dl.from_torch(loss) == spec


def test_smp_options_that_no_spec_says_are_refused(smp: Any) -> None:
    cases = [
        (smp.DiceLoss("binary", ignore_index=255), "ignore_index=255.*boolean mask"),
        (smp.DiceLoss("multiclass", class_weights=[0.0, 0.0]), "their sum is 0"),
        (smp.DiceLoss("multiclass", classes=[1, 1]), "none twice"),
        (smp.FocalLoss("binary", normalized=True), r"FocalLoss\(normalized=True\)"),
        (smp.FocalLoss("binary", reduced_threshold=0.5), r"reduced_threshold=0.5"),
        (smp.FocalLoss("multiclass", from_logits=False), "log"),
        (smp.FocalLoss("binary", reduction="none"), "reduction='none'"),
        (smp.SoftCrossEntropyLoss(), 'smooth_factor=None.*like="smp"'),
        (smp.SoftCrossEntropyLoss(smooth_factor=0.1, dim=-1), "dim=-1.*channel_axis"),
        (smp.LovaszLoss("multilabel"), "mode='multilabel'"),
        (smp.MCCLoss(), "Matthews"),
    ]
    for loss, message in cases:
        with pytest.raises(ValueError, match=message):
            dl.from_torch(loss)
    assert dl.from_torch(smp.SoftCrossEntropyLoss(), like="smp") == dl.CrossEntropy(like="smp")


def test_monai_losses_become_specs(monai: Any) -> None:
    region: dict[str, Any] = {"per_sample": True, "smooth": 1e-5, "smooth_denominator": 1e-5, "epsilon": 0}
    dice = dl.Dice(**region)
    expected: list[tuple[Any, dl.Spec, dict[str, Any]]] = [
        (monai.DiceLoss(softmax=True, to_onehot_y=True), dice, {}),
        (
            monai.DiceLoss(sigmoid=True, include_background=False, weight=[2.0, 3.0], batch=True, soft_label=True),
            dl.Dice(
                activation="sigmoid",
                background=False,
                class_weights=(1, 2, 3),
                overlap="minimum",
                **{**region, "per_sample": False},
            ),
            {},
        ),
        (
            monai.DiceLoss(jaccard=True, squared_pred=True),
            dl.Jaccard(activation="none", squared=True, **{**region, "smooth": 0.5e-5, "smooth_denominator": 0.5e-5}),
            {},
        ),
        (monai.DiceLoss(softmax=True, weight=2.0), 2 * dice, {}),
        (monai.TverskyLoss(softmax=True, alpha=0.3, beta=0.7), dl.Tversky(alpha=0.3, beta=0.7, **region), {}),
        (monai.FocalLoss(weight=[1.0, 2.0]), dl.BinaryFocal(class_weights=(1, 2), empty="nan"), {}),
        (
            monai.FocalLoss(include_background=False),
            dl.BinaryFocal(class_weights=(0, 1.5, 1.5), empty="nan"),
            {"classes": 3},
        ),
        (
            monai.FocalLoss(use_softmax=True, alpha=0.25, weight=2.0),
            2 * dl.Focal(alpha=(0.75, 0.25, 0.25), channels="mean", empty="nan"),
            {"classes": 3},
        ),
        (
            monai.DiceCELoss(softmax=True, to_onehot_y=True, lambda_ce=0.5, weight=tensor(1.0, 2.0)),
            dl.Dice(class_weights=(1, 2), **region) + 0.5 * dl.CrossEntropy(class_weights=(1, 2), empty="nan"),
            {},
        ),
        (
            monai.DiceCELoss(softmax=True),
            dice + dl.CrossEntropy(normalizer="valid", empty="nan"),
            {},
        ),
        (
            monai.DiceCELoss(sigmoid=True, weight=tensor(3.0).reshape(1)),
            dl.Dice(activation="sigmoid", **region) + dl.BinaryCrossEntropy(pos_weight=3, empty="nan"),
            {"classes": 1},
        ),
        (
            monai.DiceFocalLoss(softmax=True, gamma=1.0, lambda_dice=0.5),
            0.5 * dice + dl.BinaryFocal(gamma=1, empty="nan"),
            {},
        ),
        (monai.SSIMLoss(2, win_size=7, data_range=2.0), dl.SSIM(window=7, data_range=2, empty="nan"), {}),
        (monai.BoundaryLoss(softmax=True), dl.DistanceMap(empty="nan"), {}),
    ]
    for loss, spec, keywords in expected:
        assert dl.from_torch(loss, **keywords) == spec


def test_weights_of_a_single_class_are_none_in_monai(monai: Any) -> None:
    options: dict[str, Any] = {"include_background": False, "to_onehot_y": True, "softmax": True}
    assert dl.from_torch(monai.DiceLoss(weight=[3.0], **options)) == dl.from_torch(monai.DiceLoss(**options))
    scalar = monai.DiceLoss(weight=3.0, **options)
    assert dl.from_torch(scalar, classes=2) == dl.from_torch(monai.DiceLoss(**options))
    assert dl.from_torch(scalar, classes=3) == 3 * dl.from_torch(monai.DiceLoss(**options))
    one = dl.from_torch(monai.DiceLoss(sigmoid=True))
    for loss in (monai.DiceLoss(sigmoid=True, weight=3.0), monai.DiceLoss(sigmoid=True, include_background=False)):
        assert dl.from_torch(loss, classes=1) == one
    tversky = monai.TverskyLoss(sigmoid=True, include_background=False)
    assert dl.from_torch(tversky, classes=1) == dl.from_torch(monai.TverskyLoss(sigmoid=True))


def test_parts_of_monai_losses_that_were_changed_are_refused(monai: Any) -> None:
    from torch import nn

    def changed(**parts: Any) -> Any:
        loss = monai.DiceCELoss(to_onehot_y=True, softmax=True)
        for name, value in parts.items():
            setattr(loss, name, value)
        return loss

    class Mine(nn.CrossEntropyLoss):
        pass

    cases = [
        (changed(cross_entropy=nn.CrossEntropyLoss(ignore_index=1)), "ignore_index=1"),
        (changed(cross_entropy=nn.CrossEntropyLoss(reduction="sum")), "reduction='sum'"),
        (changed(cross_entropy=Mine()), "expected a torch.CrossEntropyLoss itself"),
        (changed(dice=monai.DiceLoss(to_onehot_y=True, softmax=True, ignore_index=1)), "ignore the same label"),
    ]
    for loss, message in cases:
        with pytest.raises(ValueError, match=message):
            dl.from_torch(loss)
    ssim = monai.SSIMLoss(2)
    ssim.kernel_sigma = (0.5, 0.5)  # which it does not look at again
    assert dl.from_torch(ssim) == dl.from_torch(monai.SSIMLoss(2))
    ssim.ssim_metric.k1 = 0.1
    with pytest.raises(ValueError, match=r"k1=0\.1"):
        dl.from_torch(ssim)


def test_monai_options_that_no_spec_says_are_refused(monai: Any) -> None:
    import torch

    both = monai.DiceLoss(softmax=True)
    both.sigmoid = True
    cases = [
        (both, "one after the other"),
        (monai.DiceLoss(sigmoid=True, weight=2.0), "say classes="),
        (monai.DiceLoss(reduction="sum"), r"Loss\(spec, reduction=\"sum\"\)"),
        (monai.DiceLoss(reduction="none"), "no value at a position"),
        (monai.DiceLoss(ignore_index=255), "to_onehot_y"),
        (monai.DiceLoss(other_act=torch.tanh), "other_act"),
        (monai.FocalLoss(alpha=[0.1, 0.2]), "1 for the negative answers"),
        (monai.FocalLoss(include_background=False), "classes="),
        (monai.FocalLoss(use_softmax=True, alpha=0.25), "classes="),
        (monai.FocalLoss(use_softmax=True, include_background=False), "softmax without the first class"),
        (monai.DiceCELoss(sigmoid=True), "classes="),
        (monai.SSIMLoss(2, kernel_type="uniform"), "Gaussian"),
        (monai.SSIMLoss(2, win_size=(7, 9)), "of one size"),
        (monai.SSIMLoss(2, k1=0.02), "k1=0.02"),
        (monai.BoundaryLoss(include_background=False), "include_background=False"),
        (monai.GeneralizedDiceLoss(), "by their size"),
    ]
    for loss, message in cases:
        with pytest.raises(ValueError, match=message):
            dl.from_torch(loss)


def test_monai_focal_asks_which_mean_is_meant(monai: Any) -> None:
    ignoring = monai.FocalLoss(ignore_index=255, to_onehot_y=True)
    with pytest.raises(ValueError, match=r'ignore_index=255.*like="monai==1.6.1" or like="monai"'):
        dl.from_torch(ignoring)
    assert dl.from_torch(ignoring, like="monai==1.6.1") == dl.BinaryFocal(ignore_index=255, channels="sum")
    assert dl.from_torch(ignoring, like="monai") == dl.BinaryFocal(ignore_index=255)
    added = monai.FocalLoss(reduction="sum")
    for like in (None, "monai==1.6.1"):
        with pytest.raises(ValueError, match=r'reduction=.*like="monai"'):
            dl.from_torch(added, like=like)
    assert dl.from_torch(added, like="monai") == dl.BinaryFocal(normalizer="one", channels="sum")


# --- Specs as losses of the frameworks ---


def test_exported_torch_losses_say_the_spec(nn: Any) -> None:
    specs: list[tuple[Any, dict[str, Any], type]] = [
        (dl.CrossEntropy(like="torch", class_weights=(1, 0.3), label_smoothing=0.1), {}, nn.CrossEntropyLoss),
        (dl.CrossEntropy(normalizer="valid", empty="nan"), {"targets": "probabilities"}, nn.CrossEntropyLoss),
        (dl.NegativeLogLikelihood(like="torch", normalizer="one", empty="zero"), {}, nn.NLLLoss),
        (dl.BinaryCrossEntropy(like="torch", pos_weight=(1, 2)), {"spatial": 2}, nn.BCEWithLogitsLoss),
        (dl.BinaryCrossEntropy(like="torch", inputs="probabilities"), {}, nn.BCELoss),
        (dl.MeanSquaredError(like="torch"), {}, nn.MSELoss),
        (dl.MeanAbsoluteError(normalizer="one", channels="sum"), {}, nn.L1Loss),
        (dl.SmoothL1(like="torch", beta=0.5), {}, nn.SmoothL1Loss),
        (dl.Huber(like="torch", delta=0.5), {}, nn.HuberLoss),
        (dl.KLDivergence(like="torch", normalizer="batch", channels="sum"), {}, nn.KLDivLoss),
        (dl.Poisson(like="torch", inputs="rate", full=True), {}, nn.PoissonNLLLoss),
    ]
    for spec, keywords, kind in specs:
        made = dl.to_torch(spec, **keywords)
        assert type(made) is kind
        back = dl.from_torch(made, **keywords)
        assert canonical(back.parts[0][1]) == canonical(spec)
    assert dl.to_torch(specs[3][0], spatial=2).pos_weight.shape == (2, 1, 1)


def test_exported_keras_losses_say_the_spec(losses: Any) -> None:
    region: dict[str, Any] = {"activation": "none", "smooth": 0, "smooth_denominator": 1e-7, "epsilon": 0}
    specs: list[tuple[Any, dict[str, Any], type]] = [
        (dl.CrossEntropy(ignore_index=255), {}, losses.SparseCategoricalCrossentropy),
        (
            dl.CrossEntropy(like="keras", label_smoothing=0.1),
            {"targets": "probabilities"},
            losses.CategoricalCrossentropy,
        ),
        (dl.BinaryCrossEntropy(normalizer="one"), {}, losses.BinaryCrossentropy),
        (dl.BinaryFocal(alpha=0.3), {}, losses.BinaryFocalCrossentropy),
        (dl.Focal(like="keras", gamma=1), {}, losses.CategoricalFocalCrossentropy),
        (dl.KLDivergence(like="keras"), {}, losses.KLDivergence),
        (dl.Poisson(like="keras"), {}, losses.Poisson),
        (dl.Huber(delta=0.5), {}, losses.Huber),
        (dl.CosineSimilarity(like="keras"), {}, losses.CosineSimilarity),
        (dl.LogCosh(normalizer="sample_weights"), {}, losses.LogCosh),
        (dl.Dice(like="keras"), {}, losses.Dice),
        (dl.Tversky(alpha=0.3, beta=0.7, per_sample=True, **region), {"spatial": 2}, losses.Tversky),
    ]
    for spec, keywords, kind in specs:
        made = dl.to_keras(spec, **keywords)
        assert type(made) is kind
        back = dl.from_keras(
            made, spatial=keywords.get("spatial"), like="keras==3.15.1" if kind is losses.Tversky else None
        )
        assert canonical(back.parts[0][1]) == canonical(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dl.CrossEntropy(), r"it has empty='nan' where the spec has 'zero'; ignore_index=-100 where the spec has None"),
        (dl.CrossEntropy(like="keras"), "of logits, inputs='probabilities'"),
        (dl.Huber(like="torch", normalizer="elements"), "normalizer='valid' where the spec has 'elements'"),
        (dl.BinaryCrossEntropy(like="torch", class_weights=(1, 2)), "spatial="),
        (dl.BinaryCrossEntropy(like="torch", label_smoothing=0.1), "label_smoothing=0.0 where the spec has 0.1"),
        (dl.Dice(), "torch.nn has no loss for Dice"),
        (dl.TOTAL_LOSS, "no loss for a sum of terms"),
        (2 * dl.Huber(like="torch"), "has the weight 2.0, expected 1"),
    ],
)
def test_specs_that_torch_has_no_loss_for_are_refused(nn: Any, spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dl.to_torch(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dl.CrossEntropy(class_weights=(1, 2)), "class_weights=None where the spec has"),
        (dl.CrossEntropy(label_smoothing=0.1), 'targets="probabilities"'),
        (
            dl.CrossEntropy(inputs="probabilities", clip=1e-3, renormalize="after"),
            "clip=1e-07 where the spec has 0.001",
        ),
        (dl.Focal(alpha=0.25), "clip_softmax=True where the spec has False"),
        (dl.Dice(), "spatial="),
        (dl.MeanSquaredError(like="torch"), "empty='zero' where the spec has 'nan'"),
        (dl.Boundary(), "keras.losses has no loss for Boundary"),
    ],
)
def test_specs_that_keras_has_no_loss_for_are_refused(losses: Any, spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dl.to_keras(spec)


# --- Presets ---


def test_presets_are_the_libraries_defaults(nn: Any) -> None:
    pairs = {
        dl.CrossEntropy(like="torch"): nn.CrossEntropyLoss(),
        dl.NegativeLogLikelihood(like="torch"): nn.NLLLoss(),
        dl.BinaryCrossEntropy(like="torch"): nn.BCEWithLogitsLoss(),
        dl.BinaryCrossEntropy(like="torch", inputs="probabilities"): nn.BCELoss(),
        dl.KLDivergence(like="torch"): nn.KLDivLoss(),
        dl.Poisson(like="torch", inputs="rate"): nn.PoissonNLLLoss(log_input=False),
        dl.SmoothL1(like="torch"): nn.SmoothL1Loss(),
    }
    for preset, loss in pairs.items():
        assert preset == dl.from_torch(loss)


def test_presets_are_kerass_defaults() -> None:
    pairs = {
        dl.CrossEntropy(like="keras"): "categorical_crossentropy",
        dl.BinaryCrossEntropy(like="keras"): "binary_crossentropy",
        dl.BinaryFocal(like="keras"): "binary_focal_crossentropy",
        dl.Focal(like="keras"): "categorical_focal_crossentropy",
        dl.KLDivergence(like="keras"): "kl_divergence",
        dl.Poisson(like="keras"): "poisson",
        dl.CosineSimilarity(like="keras"): "cosine_similarity",
        dl.Dice(like="keras"): "dice",
        dl.Tversky(like="keras"): "tversky",
        dl.LogCosh(like="keras"): "log_cosh",
    }
    for preset, name in pairs.items():
        assert preset == dl.from_keras(name)


def test_presets_are_smps_defaults(smp: Any) -> None:
    assert dl.Tversky(like="smp") == dl.from_torch(smp.DiceLoss("multiclass"))
    assert dl.Jaccard(like="smp", ignore_index=0) == dl.from_torch(smp.JaccardLoss("multiclass", ignore_index=0))
    assert dl.FocalTversky(like="smp", gamma=2) == dl.from_torch(smp.TverskyLoss("multiclass", gamma=2.0))
    assert dl.BinaryFocal(like="smp") == dl.from_torch(smp.FocalLoss("multiclass"))
    assert dl.Lovasz(like="smp") == dl.from_torch(smp.LovaszLoss("multiclass"))
    assert dl.BinaryCrossEntropy(like="smp") == dl.from_torch(smp.SoftBCEWithLogitsLoss())


def test_presets_are_monais_defaults(monai: Any) -> None:
    assert dl.Dice(like="monai", activation="softmax") == dl.from_torch(monai.DiceLoss(softmax=True))
    assert dl.Jaccard(like="monai") == dl.from_torch(monai.DiceLoss(jaccard=True))
    assert dl.Tversky(like="monai") == dl.from_torch(monai.TverskyLoss())
    assert dl.BinaryFocal(like="monai") == dl.from_torch(monai.FocalLoss())
    assert dl.Focal(like="monai") == dl.from_torch(monai.FocalLoss(use_softmax=True))
    assert dl.SSIM(like="monai") == dl.from_torch(monai.SSIMLoss(2))
    assert dl.DistanceMap(like="monai") == dl.from_torch(monai.BoundaryLoss())
    ignoring = monai.FocalLoss(ignore_index=9, to_onehot_y=True)
    for like in ("monai", "monai==1.6.1"):
        assert dl.BinaryFocal(like=like, ignore_index=9) == dl.from_torch(ignoring, like=like)


def test_a_preset_with_a_version_swaps_what_that_version_swaps() -> None:
    assert dl.Tversky(like="keras==3.15.1", alpha=0.3, beta=0.7) == dl.Tversky(like="keras", alpha=0.7, beta=0.3)
    assert dl.Huber(like="keras==3.15.1") == dl.Huber(like="keras")


def test_dice_of_smp_is_its_tversky() -> None:
    """Its score (I + s) / max((P + T) / 2 + s, eps) with numerator and denominator doubled."""
    dice, tversky = dl.Dice(like="smp", smooth=2), dl.Tversky(like="smp", smooth=1)
    assert (dice.smooth, dice.epsilon) == (2 * tversky.smooth, 2 * tversky.epsilon)
    with pytest.raises(ValueError, match=r"Tversky\(like=\"smp\", log=True\)"):
        dl.Dice(like="smp", log=True)


def test_unknown_presets_say_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"like='kerass' for Dice, expected 'keras' \(of version 3.15.1\)"):
        dl.Dice(like="kerass")
    with pytest.raises(ValueError, match="no library's definition is known"):
        dl.Quantile(like="torch")


# --- The example, the page ---


def test_the_example_runs(nn: Any, losses: Any) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / "examples" / "import_a_loss.py")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the same in") == 2


def test_the_tables_of_the_page_are_what_its_command_writes() -> None:
    spec = importlib.util.spec_from_file_location("importing", ROOT / "benchmarks" / "importing.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "docs" / "importing.md").read_text()
    assert text == module.page(text)
    assert all(row.name in text for row in ROWS.values())


# --- The rows ---


def test_every_row_names_a_version_and_terms() -> None:
    assert len(ROWS) >= 25
    for row in ROWS.values():
        assert row.version == VERSIONS[row.vendor]
        assert row.terms and set(row.terms) <= set(TERMS)


def test_every_row_is_a_class_that_the_library_has(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = {"torch": "nn", "keras": "losses", "smp": "smp", "monai": "monai"}
    packages = {"smp": "segmentation_models_pytorch"}
    for row in ROWS.values():
        if packages.get(row.vendor, row.vendor) in FRAMEWORKS:
            kind = getattr(request.getfixturevalue(modules[row.vendor]), row.name)
            assert (kind.__module__, kind.__qualname__) == (row.module, row.name)
