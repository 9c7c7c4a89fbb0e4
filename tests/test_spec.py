"""The spec: terms and their options, the algebra, JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dualloss
from dualloss import (
    SSIM,
    BinaryCrossEntropy,
    Boundary,
    CrossEntropy,
    Dice,
    Focal,
    Huber,
    Jaccard,
    KLDivergence,
    Linear,
    MeanSquaredError,
    Poisson,
    Quantile,
    Spec,
    from_json,
)
from dualloss.parity import cases
from dualloss.spec import TERMS, Schedule, Sum, Term, option, register

FLOAT32_MAX = (2 - 2**-23) * 2.0**127
EXAMPLES: list[Spec] = [
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1, class_weights=(1, 0.1, 0), ignore_index=-100, normalizer="elements"),
    Boundary(kernel="laplacian8", on="probabilities", padding="reflect", ignore_index=255),
    BinaryCrossEntropy(pos_weight=2.5),
    BinaryCrossEntropy(pos_weight=[1.0, 3.0], label_smoothing=1),
    Huber(delta=0.1),
    MeanSquaredError(),
    -1.5 * Huber(),
    0 * MeanSquaredError() + CrossEntropy(),
    dualloss.TOTAL_LOSS,
    CrossEntropy(ignore_index=255) + 1e-30 * Boundary() + 0.1 * Boundary(on="probabilities"),
    CrossEntropy() + Linear(0, 0.5, steps=1000) * Boundary(),
    3 * (Linear(1e-30, -2, 7) * Focal(alpha=[0.25, 1])),
    *cases.MORE.values(),
]
examples = pytest.mark.parametrize("spec", EXAMPLES, ids=repr)

weights = st.just(0.0) | st.floats(2.0**-126, FLOAT32_MAX)
signed = weights | weights.map(lambda weight: 0.0 - weight)
smoothing = st.floats(0, 1)


def terms(label: int | None) -> st.SearchStrategy[Spec]:
    """Any term, one that can ignore a label ignoring this one or none."""
    ignored = st.sampled_from([None, label])
    several = st.lists(weights, min_size=1, max_size=5)
    normalizer = st.sampled_from(["weights", "valid", "elements"])
    padding = st.sampled_from(["zeros", "replicate", "reflect"])
    return st.one_of(
        st.builds(
            CrossEntropy,
            label_smoothing=smoothing,
            class_weights=st.none() | several,
            ignore_index=ignored,
            normalizer=normalizer,
        ),
        st.builds(
            Boundary,
            kernel=st.sampled_from(["laplacian", "laplacian8"]),
            on=st.sampled_from(["logits", "probabilities"]),
            padding=padding,
            ignore_index=ignored,
        ),
        st.builds(BinaryCrossEntropy, pos_weight=st.none() | weights | several, label_smoothing=smoothing),
        st.builds(Huber, delta=weights.filter(bool)),
        st.builds(Focal, gamma=weights, alpha=st.none() | weights | several, ignore_index=ignored),
        st.builds(Dice, smooth=weights, classes=st.none() | st.sets(st.integers(0, 9), min_size=1).map(list)),
        st.sampled_from([term() for term in TERMS.values()]),
    )


specs = (
    (st.none() | st.integers(1 - 2**63, 2**63 - 2))
    .flatmap(lambda label: st.lists(st.tuples(signed, terms(label)), min_size=1, max_size=4))
    .map(lambda parts: sum(weight * term for weight, term in parts))
)


# The algebra


def test_sum_keeps_the_order_of_the_terms_and_their_weights() -> None:
    spec = CrossEntropy() + 0.5 * Boundary() + Huber() * 2
    assert spec.parts == ((1.0, CrossEntropy()), (0.5, Boundary()), (2.0, Huber()))
    assert Boundary() + CrossEntropy() != CrossEntropy() + Boundary()


def test_sums_flatten_and_factors_distribute() -> None:
    a, b, c = CrossEntropy(), Boundary(), Huber()
    assert a + (b + c) == (a + b) + c
    assert (4 * (a + 0.5 * (b + 3 * c))).parts == ((4.0, a), (2.0, b), (6.0, c))


def test_builtin_sum_adds_specs() -> None:
    a, b, c = CrossEntropy(), 0.5 * Boundary(), Huber()
    assert sum([a, b, c]) == a + b + c
    assert sum([a]) is a


def test_equal_terms_stay_apart() -> None:
    assert len((Boundary() + Boundary()).parts) == 2
    assert Boundary() + Boundary() != 2 * Boundary()


def test_a_term_of_weight_one_is_the_term_however_it_is_made() -> None:
    term = Huber(delta=2)
    assert 1.0 * term is term
    assert 0.5 * (2 * term) is term
    direct = Sum(((1.0, term),))
    assert direct == term
    assert term == direct
    assert hash(direct) == hash(term)
    assert 2 * term != term


def test_weights_come_from_any_real_scalar() -> None:
    expected = 0.5 * Boundary()
    array = np.array(0.5)
    for weight in (Fraction(1, 2), Decimal("0.5"), np.float64(0.5), np.float32(0.5), np.float16(0.5), array):
        assert weight * Boundary() == expected
        assert Boundary() * weight == expected
    assert (np.int8(2) * Boundary()).parts == ((2.0, Boundary()),)
    assert all(type(weight) is float for weight, _ in (2 * Boundary() + Huber()).parts)


@pytest.mark.parametrize("weight", [True, np.True_, "2", None, 1j, [2.0], np.array([2.0])])
def test_a_weight_that_is_no_number_is_a_type_error(weight: Any) -> None:
    with pytest.raises(TypeError, match=r"weight=.*, expected a real number"):
        Boundary() * weight
    with pytest.raises(TypeError, match=r"weight=.*, expected a real number"):
        weight * Boundary()


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_a_weight_is_finite(weight: Any) -> None:
    with pytest.raises(ValueError, match=r"weight=.*, expected a finite number"):
        weight * Boundary()


@pytest.mark.parametrize("weight", [1e39, -1e39, 1e-39, -5e-324])
def test_a_weight_is_in_the_range_of_float32(weight: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"weight={weight!r}, expected 0 or a magnitude from 1.18e-38")):
        weight * Boundary()


def test_the_range_of_float32_is_that_of_its_rounding() -> None:
    largest = np.nextafter((2 - 2**-24) * 2.0**127, 0)  # the last float64 that rounds to a finite float32
    for weight in (2.0**-126, FLOAT32_MAX, largest):
        assert (weight * Boundary()).parts[0][0] == weight
    for weight in (np.nextafter(2.0**-126, 0), (2 - 2**-24) * 2.0**127):
        with pytest.raises(ValueError, match="expected 0 or a magnitude"):
            weight * Boundary()


def test_a_product_of_weights_is_checked_too() -> None:
    with pytest.raises(ValueError, match=r"weight=1e\+40, expected 0 or a magnitude"):
        1e20 * (1e20 * Boundary())
    with pytest.raises(ValueError, match=r"weight=1e-40, expected 0 or a magnitude"):
        1e-20 * (1e-20 * Boundary())


def test_a_weight_of_zero_keeps_the_term() -> None:
    spec = -0.0 * Boundary() + CrossEntropy()
    assert spec.parts == ((0.0, Boundary()), (1.0, CrossEntropy()))
    assert repr(spec) == "0.0 * Boundary() + CrossEntropy()"


@pytest.mark.parametrize("other", [1, 0.5, None, "x", False, Linear(0, 1, steps=2)])
def test_only_specs_and_the_zero_of_sum_can_be_added(other: Any) -> None:
    with pytest.raises(
        TypeError, match=r"unsupported operand|^\(Boundary\(\)\) \+ .*, expected a spec, or a number or"
    ):
        Boundary() + other
    with pytest.raises(TypeError, match=r"unsupported operand|can only concatenate|^.* \+ \(Boundary\(\)\), expected"):
        other + Boundary()


def test_a_sum_made_directly_is_checked() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        Sum(())
    with pytest.raises(TypeError, match="parts holds 3, expected pairs of a weight and a term"):
        Sum(((1.0, 3),))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weight='1', expected a real number"):
        Sum((("1", Huber()),))  # type: ignore[arg-type]


def test_names_are_snake_case_and_unique() -> None:
    assert CrossEntropy().names == ("cross_entropy",)
    spec = CrossEntropy() + Boundary() + MeanSquaredError() + 2 * Boundary() + Boundary()
    assert spec.names == ("cross_entropy", "boundary", "mean_squared_error", "boundary_2", "boundary_3")


# The ignored label


def test_an_ignored_label_holds_for_the_whole_sum() -> None:
    assert (CrossEntropy(ignore_index=255) + Boundary()).ignore_index == 255
    assert (MeanSquaredError() + 0.5 * Boundary(ignore_index=0)).ignore_index == 0
    assert (CrossEntropy(ignore_index=255) + Boundary(ignore_index=255)).ignore_index == 255
    assert dualloss.TOTAL_LOSS.ignore_index is None
    assert MeanSquaredError().ignore_index is None


def test_two_ignored_labels_in_one_sum_are_an_error() -> None:
    with pytest.raises(ValueError, match="ignore_index is 255 and 0 in one sum, expected one label"):
        CrossEntropy(ignore_index=255) + MeanSquaredError() + Boundary(ignore_index=0)


# The options


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_options_have_to_be_named(term: type[Term]) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        term(0.1)  # type: ignore[arg-type, call-arg]
    with pytest.raises(TypeError, match=f"^{term.__name__} has no option 'colour', expected "):
        term(colour=2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("term", "option", "hint"),
    [
        (CrossEntropy, "weight", "of classes: class_weights; of the term: a factor, 0.5 * term"),
        (CrossEntropy, "from_logits", 'inputs="logits" or "probabilities"'),
        (CrossEntropy, "reduction", "of the Loss: Loss(spec, reduction=...)"),
        (CrossEntropy, "ignore_class", "ignore_index"),
        (Dice, "sigmoid", 'activation="sigmoid"'),
    ],
)
def test_options_of_other_libraries_are_pointed_to_ours(term: type[Term], option: str, hint: str) -> None:
    with pytest.raises(TypeError, match=f"^{term.__name__} has no option '{option}' " + re.escape(f"({hint}")):
        cast(Any, term)(**{option: 1})


def test_what_other_operators_would_mean_is_said() -> None:
    with pytest.raises(TypeError, match=r"expected a sum: a \+ -1 \* b has the weight -1"):
        Huber() - Dice()
    with pytest.raises(TypeError, match=r"expected a number or a schedule; \+ adds terms"):
        Huber() * Dice()


def rejects(term: Any, error: type[Exception], message: str, **options: Any) -> Any:
    """One case for test_a_bad_option_is_named: options, and the whole message they should give."""
    return pytest.param(term, options, error, message, id=f"{term.__name__}-{message.split(',')[0]}")


RANGE = "expected 0 or a magnitude from 1.18e-38 to 3.4e38 (normal float32)"
NUMBER = "expected a real number"
SEQUENCE = "expected a sequence of numbers"
NAN = float("nan")


@pytest.mark.parametrize(
    ("term", "options", "error", "message"),
    [
        *(
            rejects(term, error, f"label_smoothing={value!r}, {expected}", label_smoothing=value)
            for term in (CrossEntropy, BinaryCrossEntropy)
            for value, error, expected in [
                (1.5, ValueError, "expected a number from 0 to 1"),
                (-0.1, ValueError, "expected a number from 0 to 1"),
                (NAN, ValueError, "expected a finite number"),
                (True, TypeError, NUMBER),
                ("0.1", TypeError, NUMBER),
                (None, TypeError, NUMBER),
            ]
        ),
        *(
            rejects(term, error, f"{name}{message}", **{name: value})
            for term, name in ((CrossEntropy, "class_weights"), (BinaryCrossEntropy, "pos_weight"))
            for value, error, message in [
                ([], ValueError, "=[], expected at least one number"),
                ([1.0, -2.0], ValueError, "[1]=-2.0, expected a number >= 0"),
                ([NAN], ValueError, "[0]=nan, expected a finite number"),
                ([1.0, float("inf")], ValueError, "[1]=inf, expected a finite number"),
                ([1e39], ValueError, f"[0]=1e+39, {RANGE}"),
                ([1e-39], ValueError, f"[0]=1e-39, {RANGE}"),
                ([True], TypeError, f"[0]=True, {NUMBER}"),
                (["1"], TypeError, f"[0]='1', {NUMBER}"),
                ([[1.0]], TypeError, f"[0]=[1.0], {NUMBER}"),
                (np.ones((1, 1)), TypeError, f"[0]=array([1.]), {NUMBER}"),
                ("12", TypeError, f"='12', {SEQUENCE}"),
                (b"12", TypeError, f"=b'12', {SEQUENCE}"),
                ({0: 1.0}, TypeError, f"={{0: 1.0}}, {SEQUENCE}"),
                ({1.0}, TypeError, f"={{1.0}}, {SEQUENCE}"),
            ]
        ),
        rejects(CrossEntropy, TypeError, f"class_weights=2.0, {SEQUENCE}", class_weights=2.0),
        rejects(CrossEntropy, TypeError, f"class_weights=array(2.), {SEQUENCE}", class_weights=np.array(2.0)),
        rejects(BinaryCrossEntropy, ValueError, "pos_weight=-1, expected a number >= 0", pos_weight=-1),
        rejects(BinaryCrossEntropy, ValueError, f"pos_weight=1e-40, {RANGE}", pos_weight=1e-40),
        rejects(BinaryCrossEntropy, TypeError, f"pos_weight=True, {NUMBER}", pos_weight=True),
        *(
            rejects(term, error, f"ignore_index={value!r}, {expected}", ignore_index=value)
            for term in (CrossEntropy, Boundary)
            for value, error, expected in [
                (True, TypeError, "expected an integer"),
                (np.True_, TypeError, "expected an integer"),
                (255.0, TypeError, "expected an integer"),
                ("255", TypeError, "expected an integer"),
                (2**63, ValueError, "expected an integer of 64 bits"),
            ]
        ),
        rejects(Huber, ValueError, "delta=0.0, expected a number > 0", delta=0.0),
        rejects(Huber, ValueError, "delta=-1, expected a number > 0", delta=-1),
        rejects(Huber, ValueError, "delta=inf, expected a finite number", delta=float("inf")),
        rejects(Huber, ValueError, f"delta=1e-40, {RANGE}", delta=1e-40),
        rejects(Huber, TypeError, f"delta=None, {NUMBER}", delta=None),
        *(
            rejects(term, ValueError, f"{name}={value!r}, expected one of {expected}", **{name: value})
            for term, name, expected in [
                (CrossEntropy, "normalizer", "'weights', 'valid', 'elements', 'batch', 'sample_weights', 'one'"),
                (Huber, "normalizer", "'valid', 'elements', 'batch', 'sample_weights', 'one'"),
                (Huber, "empty", "'zero', 'nan'"),
                (Dice, "activation", "'softmax', 'sigmoid', 'none'"),
                (Boundary, "kernel", "'laplacian', 'laplacian8', 'sobel'"),
                (Boundary, "on", "'logits', 'probabilities'"),
                (Boundary, "padding", "'zeros', 'replicate', 'reflect'"),
            ]
            for value in ("prewitt", "ZEROS", None, 3, ["zeros"])
        ),
        rejects(CrossEntropy, ValueError, "clip=0.5, expected a number from 3e-8, and below 0.5", clip=0.5),
        rejects(CrossEntropy, ValueError, "clip=0, expected a number from 3e-8, and below 0.5", clip=0),
        rejects(Quantile, ValueError, "quantile=1, expected a number above 0 and below 1", quantile=1),
        rejects(Poisson, TypeError, "full=1, expected True or False", full=1),
        rejects(SSIM, ValueError, "window=4, expected an odd integer from 1 to 99", window=4),
        rejects(SSIM, TypeError, "window=3.0, expected an integer", window=3.0),
        rejects(
            Dice, ValueError, "classes=[1, 1], expected at least one class index >= 0, and none twice", classes=[1, 1]
        ),
        rejects(Dice, TypeError, "classes=3, expected a sequence of class indices", classes=3),
        rejects(
            Dice,
            ValueError,
            "class_weights with per_class=False, expected per_class=True, or no class_weights",
            class_weights=[1.0],
            per_class=False,
        ),
        rejects(
            Dice,
            ValueError,
            'squared=True with overlap="minimum", expected overlap="product"',
            squared=True,
            overlap="minimum",
        ),
        rejects(
            Jaccard,
            ValueError,
            "log=True with epsilon=0, expected an epsilon > 0, below which the score is not followed",
            log=True,
            epsilon=0,
        ),
        rejects(
            BinaryCrossEntropy,
            ValueError,
            "pos_weight=2.0 with clip=None, expected a clip, or no pos_weight",
            inputs="probabilities",
            clip=None,
            pos_weight=2,
        ),
        rejects(
            KLDivergence,
            ValueError,
            'log_target=True with inputs="probabilities", expected inputs "log_probabilities"',
            inputs="probabilities",
            log_target=True,
        ),
    ],
)
def test_a_bad_option_is_named(term: type[Term], options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        term(**options)


def test_a_message_stays_short_and_survives_any_number() -> None:
    with pytest.raises(TypeError) as long:
        Huber(delta="x" * 10**6)  # type: ignore[arg-type]
    assert len(str(long.value)) < 100
    with pytest.raises(ValueError, match=r"ignore_index=.*, expected an integer of 64 bits"):
        CrossEntropy(ignore_index=10**5000)


def test_options_are_stored_in_one_form() -> None:
    label: Any = np.int64(3)
    spec = CrossEntropy(label_smoothing=0, class_weights=[1, 2], ignore_index=label)
    assert repr(spec) == "CrossEntropy(class_weights=(1.0, 2.0), ignore_index=3)"
    assert type(spec.label_smoothing) is float
    assert type(spec.ignore_index) is int
    assert BinaryCrossEntropy(pos_weight=[2]) != BinaryCrossEntropy(pos_weight=2)


@pytest.mark.parametrize(
    "given_weights",
    [
        (1.0, 0.5),
        [1, 0.5],
        iter([1, 0.5]),
        np.array([1, 0.5]),
        np.array([1, 0.5], np.float16),
        [np.float32(1), 0.5],
    ],
    ids=lambda value: type(value).__name__,
)
def test_class_weights_come_from_any_sequence(given_weights: Any) -> None:
    spec = CrossEntropy(class_weights=given_weights)
    assert spec.class_weights == (1.0, 0.5)
    assert [type(weight) for weight in spec.class_weights or ()] == [float, float]


def test_pos_weight_is_a_number_or_one_for_each_channel() -> None:
    one, several = (cast(Any, np.array(value)) for value in (2, [2, 0]))
    assert BinaryCrossEntropy(pos_weight=one).pos_weight == 2.0
    assert BinaryCrossEntropy(pos_weight=several).pos_weight == (2.0, 0.0)


def test_torch_tensors_serve_as_options() -> None:
    torch = pytest.importorskip("torch")
    assert CrossEntropy(class_weights=torch.tensor([1, 0.5])).class_weights == (1.0, 0.5)
    assert CrossEntropy(ignore_index=torch.tensor(255)).ignore_index == 255
    assert BinaryCrossEntropy(pos_weight=torch.tensor(2.0)).pos_weight == 2.0
    assert torch.tensor(0.5) * Boundary() == Boundary() * torch.tensor(0.5) == 0.5 * Boundary()
    with pytest.raises(TypeError, match="expected an integer"):
        CrossEntropy(ignore_index=torch.tensor(True))
    with pytest.raises(TypeError, match="expected a real number"):
        Huber(delta=torch.tensor([1.0]))


def test_tensorflow_tensors_serve_as_options() -> None:
    tf = pytest.importorskip("tensorflow")
    assert CrossEntropy(class_weights=tf.constant([1, 0.5])).class_weights == (1.0, 0.5)
    assert CrossEntropy(ignore_index=tf.constant(255)).ignore_index == 255
    assert BinaryCrossEntropy(pos_weight=tf.constant(2.0)).pos_weight == 2.0
    assert tf.constant(0.5) * Boundary() == Boundary() * tf.constant(0.5) == 0.5 * Boundary()
    with pytest.raises(TypeError, match="expected a real number"):
        Huber(delta=tf.constant([1.0]))


# Specs as values


@examples
def test_repr_evaluates_back(spec: Spec) -> None:
    assert eval(repr(spec), vars(dualloss)) == spec


@given(specs)
def test_repr_of_any_spec_evaluates_back(spec: Spec) -> None:
    assert eval(repr(spec), vars(dualloss)) == spec


def test_repr_shows_only_what_is_not_default() -> None:
    assert repr(dualloss.TOTAL_LOSS) == "CrossEntropy() + 0.5 * Boundary()"
    spec = CrossEntropy(ignore_index=255, normalizer="weights") + -0.5 * Boundary(padding="reflect")
    assert repr(spec) == "CrossEntropy(ignore_index=255) + -0.5 * Boundary(padding='reflect')"


@examples
def test_pickles_and_copies_are_equal(spec: Spec) -> None:
    for other in (pickle.loads(pickle.dumps(spec)), copy.copy(spec), copy.deepcopy(spec)):
        assert other == spec
        assert hash(other) == hash(spec)


def test_specs_are_equal_by_value_and_hash_accordingly() -> None:
    assert Huber() == Huber(delta=1)
    assert Huber() != Huber(delta=2)
    others: list[Any] = [MeanSquaredError(), 2 * Huber(), "Huber()", 1]
    assert Huber() not in others
    assert 2 * Huber() not in ["2.0 * Huber()", 2]
    assert len({*EXAMPLES, *map(copy.deepcopy, EXAMPLES)}) == len(EXAMPLES)


@examples
def test_specs_are_immutable(spec: Spec) -> None:
    name = dataclasses.fields(spec)[0].name if dataclasses.fields(spec) else "new"  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, name, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(spec, name)


def test_a_changed_copy_is_checked_again() -> None:
    assert dataclasses.replace(Huber(), delta=2) == Huber(delta=2)
    with pytest.raises(ValueError, match="delta=-1, expected a number > 0"):
        dataclasses.replace(Huber(), delta=-1)


# JSON


@examples
def test_json_reads_back(spec: Spec) -> None:
    assert from_json(spec.to_json()) == spec


@given(specs)
def test_json_of_any_spec_reads_back_to_the_same_bits(spec: Spec) -> None:
    again = from_json(spec.to_json())
    assert again == spec
    assert repr(again) == repr(spec)  # also tells -0.0 from 0.0


def test_the_json_of_a_released_version_keeps_its_meaning() -> None:
    text = """{"dualloss": 1, "terms": [
        {"weight": 1.0, "term": "CrossEntropy", "label_smoothing": 0.1, "class_weights": [1.0, 2.0],
         "ignore_index": 255, "normalizer": "valid"},
        {"weight": 0.5, "term": "Boundary", "kernel": "laplacian8", "on": "probabilities",
         "padding": "reflect", "ignore_index": null},
        {"weight": 2.0, "term": "BinaryCrossEntropy", "pos_weight": 3.0, "label_smoothing": 0.0},
        {"weight": -1.0, "term": "Huber", "delta": 0.1},
        {"weight": 1.0, "term": "MeanSquaredError"}]}"""
    spec = (
        CrossEntropy(label_smoothing=0.1, class_weights=(1, 2), ignore_index=255, normalizer="valid")
        + 0.5 * Boundary(kernel="laplacian8", on="probabilities", padding="reflect")
        + 2 * BinaryCrossEntropy(pos_weight=3)
        + -1 * Huber(delta=0.1)
        + MeanSquaredError()
    )
    assert from_json(text) == spec
    old, new = json.loads(text)["terms"], json.loads(spec.to_json())["terms"]
    assert all(row.items() >= given.items() for given, row in zip(old, new, strict=True))


def test_options_left_out_of_json_get_their_defaults() -> None:
    assert from_json('{"dualloss": 1, "terms": [{"weight": 1, "term": "CrossEntropy"}]}') == CrossEntropy()


def one(row: str) -> str:
    """The JSON text of a spec of this one term."""
    return f'{{"dualloss": 1, "terms": [{row}]}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the spec is not JSON: "),
        ("CrossEntropy()", "the spec is not JSON: "),
        ('{"dualloss": 1, "terms": []', "the spec is not JSON: "),
        ("[" * 10**6, "the spec is not JSON that this reads: nested too deeply"),
        ("[]", "the spec is [], expected an object with 'dualloss' and 'terms'"),
        ("null", "the spec is None, expected an object"),
        ('{"terms": []}', "the spec has the keys ['terms'], expected also 'dualloss'"),
        ('{"dualloss": 1}', "the spec has the keys ['dualloss'], expected also 'terms'"),
        ('{"dualloss": 2, "layers": []}', "the spec has version 2, expected 1"),
        ('{"dualloss": "1", "terms": []}', "the spec has version '1', expected 1"),
        ('{"dualloss": true, "terms": []}', "the spec has version True, expected 1"),
        ('{"dualloss": 1.0, "terms": []}', "the spec has version 1.0, expected 1"),
        ('{"dualloss": 1, "terms": [], "x": 0}', "the spec has the unknown key 'x', expected 'dualloss' and"),
        ('{"dualloss": 1, "terms": []}', "terms is [], expected a list of at least one term"),
        ('{"dualloss": 1, "terms": {"a": 1}}', "terms is {'a': 1}, expected a list of at least one term"),
        ('{"dualloss": 1, "dualloss": 1, "terms": []}', "the key 'dualloss' comes twice in one object"),
        (one('"Huber"'), "terms[0] is 'Huber', expected an object with 'weight' and 'term'"),
        (one('{"weight": 1}'), "terms[0] has the keys ['weight'], expected also 'term'"),
        (one('{"term": "Huber"}'), "terms[0] has the keys ['term'], expected also 'weight'"),
        (
            one('{"weight": 1, "term": "os.system"}'),
            "terms[0] has the term 'os.system', expected one of BinaryCrossEntropy, BinaryFocal, Boundary, ",
        ),
        (one('{"weight": 1, "term": ["Huber"]}'), "terms[0] has the term ['Huber'], expected one of "),
        (one('{"weight": 1, "term": "Term"}'), "terms[0] has the term 'Term', expected one of "),
        (
            one('{"weight": 1, "term": "Huber", "self": 1}'),
            "terms[0] (Huber) has the unknown option 'self', expected one of normalizer, empty, channels, delta",
        ),
        (
            one('{"weight": 1, "term": "MeanSquaredError", "delta": 1}'),
            "terms[0] (MeanSquaredError) has the unknown option 'delta', expected one of normalizer, empty, channels",
        ),
        (one('{"weight": 1, "term": "Huber", "delta": 1, "delta": 1}'), "the key 'delta' comes twice"),
        (one('{"weight": 1, "term": "Huber", "delta": NaN}'), "the spec holds NaN, expected finite numbers"),
        (one('{"weight": -Infinity, "term": "Huber"}'), "the spec holds -Infinity, expected finite numbers"),
        (one('{"weight": 1e999, "term": "Huber"}'), "terms[0] (Huber): weight=inf, expected a finite number"),
        (one('{"weight": true, "term": "Huber"}'), "terms[0] (Huber): weight=True, expected a real number"),
        (one('{"weight": null, "term": "Huber"}'), "terms[0] (Huber): weight=None, expected a real number"),
        (
            one('{"weight": 1e99, "term": "Huber"}'),
            "terms[0] (Huber): weight=1e+99, expected 0 or a magnitude",
        ),
        (
            one('{"weight": 1' + "0" * 9999 + ', "term": "Huber"}'),
            "the spec holds an integer of 10000 digits",
        ),
        (
            one('{"weight": 1, "term": "Huber", "delta": "1"}'),
            "terms[0] (Huber): delta='1', expected a real number",
        ),
        (
            one('{"weight": 1, "term": "CrossEntropy", "class_weights": [1, null]}'),
            "terms[0] (CrossEntropy): class_weights[1]=None, expected a real number",
        ),
        (
            one('{"weight": 1, "term": "Boundary", "padding": "wrap"}'),
            "terms[0] (Boundary): padding='wrap', expected one of 'zeros', 'replicate', 'reflect'",
        ),
        (
            one('{"weight": 1, "term": "Boundary", "ignore_index": 1.0}'),
            "terms[0] (Boundary): ignore_index=1.0, expected an integer",
        ),
        (
            one(
                '{"weight": 1, "term": "Boundary", "ignore_index": 1},'
                '{"weight": 1, "term": "CrossEntropy", "ignore_index": 2}'
            ),
            "ignore_index is 1 and 2 in one sum, expected one label",
        ),
    ],
)
def test_json_that_is_no_spec_says_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        from_json(text)


def test_json_is_text() -> None:
    with pytest.raises(TypeError, match="expected the JSON as a str"):
        from_json(b"{}")  # type: ignore[arg-type]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([*TERMS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["dualloss", "terms", "weight", "term", "delta", "ignore_index", "class_weights", "pos_weight", "kernel"]
)


@given(
    st.dictionaries(keys, json_values)
    | st.lists(st.fixed_dictionaries({"weight": json_values, "term": st.sampled_from([*TERMS])}) | json_values).map(
        lambda rows: {"dualloss": 1, "terms": rows}
    )
    | st.tuples(st.sampled_from([*TERMS]), st.dictionaries(keys, json_values)).map(
        lambda row: {"dualloss": 1, "terms": [{**row[1], "weight": 1, "term": row[0]}]}
    )
)
def test_json_is_a_spec_or_a_value_error(document: object) -> None:
    try:
        spec = from_json(json.dumps(document))
    except ValueError:
        return
    assert from_json(spec.to_json()) == spec


# Schedules


def test_a_schedule_is_a_weight_for_every_step() -> None:
    spec = CrossEntropy() + Linear(0, 0.5, steps=4) * Boundary()
    assert spec.scheduled and not CrossEntropy().scheduled
    assert [spec.at(step).parts[1][0] for step in (0, 1, 2, 4, 5, 10**12)] == [0.0, 0.125, 0.25, 0.5, 0.5, 0.5]
    assert not spec.at(3).scheduled
    assert CrossEntropy().at(7) == CrossEntropy()
    assert isinstance(spec.parts[1][0], Schedule)


def test_numbers_multiply_schedules() -> None:
    assert 2 * (Linear(1, 3, steps=5) * Huber()) == Linear(2, 6, steps=5) * Huber()
    assert (Linear(1, 3, steps=5) * Huber()) / 2 == Linear(0.5, 1.5, steps=5) * Huber()
    assert Linear(1, 3, steps=5) * (2 * Huber()) == Linear(2, 6, steps=5) * Huber()
    assert np.float32(2) * Linear(1, 3, steps=5) == Linear(2, 6, steps=5)
    with pytest.raises(TypeError, match="expected at most one schedule"):
        Linear(1, 3, steps=5) * (Linear(1, 3, steps=5) * Huber())
    with pytest.raises(TypeError):
        Linear(1, 3, steps=5) * "2"  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 1, 0), ValueError, "steps=0, expected an integer >= 1"),
        ((0, 1, 1.5), TypeError, "steps=1.5, expected an integer"),
        ((0, NAN, 3), ValueError, "end=nan, expected a finite number"),
        (("0", 1, 3), TypeError, "start='0', expected a real number"),
    ],
)
def test_a_bad_schedule_is_named(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        Linear(*arguments)


def test_a_step_is_an_integer_from_zero_on() -> None:
    with pytest.raises(ValueError, match="step=-1, expected an integer >= 0"):
        Linear(0, 1, 2).at(-1)
    with pytest.raises(TypeError, match=r"step=0\.5, expected an integer"):
        Linear(0, 1, 2).at(0.5)  # type: ignore[arg-type]


def test_a_spec_is_not_called_and_says_what_is() -> None:
    with pytest.raises(TypeError, match=r"make a loss of it, dualloss.torch.Loss\(spec\) or dualloss.tf.Loss\(spec\)"):
        CrossEntropy()(1, 2)


def test_specs_divide_by_numbers() -> None:
    assert (CrossEntropy() + 2 * Huber()) / 4 == 0.25 * CrossEntropy() + 0.5 * Huber()
    with pytest.raises(ZeroDivisionError):
        Huber() / 0


# The registry


def test_every_exported_term_is_registered_under_its_name() -> None:
    assert all(term.__name__ == name for name, term in TERMS.items())
    exported = {name for name, value in vars(dualloss).items() if isinstance(value, type) and issubclass(value, Term)}
    assert set(TERMS) == exported <= set(dualloss.__all__)


def test_every_option_is_documented() -> None:
    for term in TERMS.values():
        for field in dataclasses.fields(term):
            docs = [cls.__doc__ or "" for cls in term.__mro__ if issubclass(cls, Term)]
            assert any(
                re.search(rf"\n +([a-z_]+, )*{field.name}(, [a-z_]+)*: |`{field.name}`", text) for text in docs
            ), (
                term,
                field.name,
            )


def test_a_registered_name_is_free_and_options_leave_json_its_keys() -> None:
    with pytest.raises(ValueError, match="'Huber' is registered already"):
        register(type("Huber", (Term,), {}))
    clash = dataclasses.make_dataclass(
        "Clash", [("weight", float, option(1.0, lambda name, value: value))], bases=(Term,), frozen=True
    )
    with pytest.raises(ValueError, match="Clash has the option 'weight', expected a name that JSON leaves free"):
        register(clash)
    assert "Clash" not in TERMS


def test_the_registry_is_read_only() -> None:
    with pytest.raises(TypeError):
        TERMS["Mine"] = Huber  # type: ignore[index]


# The package


def test_importing_the_package_loads_the_standard_library_only() -> None:
    code = "import sys; before = set(sys.modules); import dualloss; print(*(set(sys.modules) - before))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in output.split()}
    assert loaded - set(sys.stdlib_module_names) == {"dualloss"}


def test_every_name_of_all_is_there() -> None:
    assert all(hasattr(dualloss, name) for name in dualloss.__all__)
    assert dualloss.__version__ == "0.1.0"
    assert dualloss.TOTAL_LOSS.parts == ((1.0, CrossEntropy()), (0.5, Boundary()))
