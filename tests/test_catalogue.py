"""The catalogue as a whole: every term, with the options of the parity suite, has all its places and its accuracy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualloss import Spec
from dualloss.exact import loss_and_gradient
from dualloss.oracle import evaluate, native_bound, scaled_ulp_error, ulp_error
from dualloss.parity import cases, definition, runner
from dualloss.spec import TERMS, Region, Term
from dualloss.spec import Lovasz as LovaszTerm

ROOT = Path(__file__).parents[1]
SINGLE = {name: spec for name, spec in {**cases.SPECS, **cases.MORE}.items() if isinstance(spec, Term)}
LOSSES = {name: term for name, term in TERMS.items() if not term.about_weights}


def sample(name: str, spec: Spec, reduction: str = "mean") -> cases.Case:
    """A well-behaved input of the right kind."""
    target = "soft" if getattr(spec, "target", None) == "distances" else "labels"
    config = cases.Config(f"catalogue {name}", name, spec, shape=(2, 6, 7, 3), reduction=reduction, target=target)
    return cases.make(config, "scale_1" if "scale_1" in cases.families(spec) else "probabilities")


def truth(case: cases.Case) -> Any:
    return evaluate(case.config.spec, case.input, case.target, reduction=case.config.reduction)  # type: ignore[arg-type]


def test_every_term_is_in_the_parity_suite() -> None:
    assert {type(spec) for spec in SINGLE.values()} == set(LOSSES.values())
    first = {type(spec): name for name, spec in reversed(SINGLE.items())}
    assert {name for name in first.values() if name not in cases.SPECS} <= cases.PRIMARY


@pytest.mark.parametrize("term", LOSSES)
def test_every_term_is_defined_on_a_page(term: str) -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "numerics").glob("*.md"))
    assert re.search(rf"^(## .*\b{term}\b|\| {term}\b)", pages, re.MULTILINE)


@pytest.mark.parametrize("name", SINGLE)
def test_the_definition_and_the_engine_agree(name: str) -> None:
    case = sample(name, SINGLE[name])
    found, expected = runner.NumPy().start(case.config)(case), runner.defined(case)
    assert runner.first_difference(found.loss, expected.loss) is None
    assert runner.first_difference(found.gradient, expected.gradient) is None
    assert type(SINGLE[name]).__name__ in definition.TERMS


@pytest.mark.parametrize("name", SINGLE)
def test_the_exact_numerics_are_close_to_the_oracle(name: str) -> None:
    spec = SINGLE[name]
    case = sample(name, spec)
    found = loss_and_gradient(spec, case.input, case.target)
    true = truth(case)
    ratio = isinstance(spec, Region | LovaszTerm)
    assert float(ulp_error(found.loss, true.loss)) <= (4 if ratio else 1)
    assert scaled_ulp_error(found.gradient, true.gradient) <= 4


@pytest.mark.usefixtures("formulas")
@pytest.mark.parametrize("name", SINGLE)
def test_native_torch_keeps_its_bound(name: str) -> None:
    torch = pytest.importorskip("torch")
    import dualloss.torch

    spec = SINGLE[name]
    case = sample(name, spec)
    x = torch.from_numpy(case.input).requires_grad_()
    loss = dualloss.torch.Loss(spec, numerics="native", channel_axis=-1)(x, torch.from_numpy(case.target))
    loss.backward()
    assert x.grad is not None
    check(spec, case, loss.detach().numpy(), x.grad.numpy())


@pytest.mark.usefixtures("formulas")
@pytest.mark.parametrize("name", SINGLE)
def test_native_tf_keeps_its_bound(name: str) -> None:
    tf = pytest.importorskip("tensorflow")
    import dualloss.tf

    spec = SINGLE[name]
    case = sample(name, spec)
    x = tf.constant(case.input)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = dualloss.tf.Loss(spec, numerics="native")(case.target, x)
    check(spec, case, loss.numpy(), tape.gradient(loss, x).numpy())


def check(spec: Term, case: cases.Case, loss: Any, gradient: Any) -> None:
    true, bound = truth(case), native_bound(spec)
    # Where values of both signs cancel, the error is relative to what was added.
    added = 0.0 if true.map is None else float(np.abs(true.map).mean())
    assert scaled_ulp_error(loss, true.loss, at_least=added) <= bound.loss
    assert scaled_ulp_error(gradient, true.gradient) <= bound.gradient
