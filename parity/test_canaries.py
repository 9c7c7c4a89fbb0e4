"""The hazards that the exact numerics avoid, shown present in the frameworks at hand.

Each test names the hazard and what docs/numerics.md or the engines do instead. A test that fails says that
a compiler or library has changed: if the hazard has gone, the rule can be looked at again; if one that was
absent has appeared, the rule that it breaks is named. Tests whose name ends in ``_absent`` are of the
second kind. That the replacements hold is what test_operations.py shows, on a million values each.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dualloss.parity.generator import bell, uniform

tf: Any = pytest.importorskip("tensorflow")
torch: Any = pytest.importorskip("torch")

Array = Any
KINDS = [np.float32, np.float64]
COUNT = 100_000


def values(name: str, kind: Any = np.float64, shape: tuple[int, ...] = (COUNT,)) -> Array:
    """Values in (-2, 2) with all bits of ``kind`` in use."""
    return ((bell(name, shape) + 1e-9) * (1 / 3)).astype(kind)


def run(how: str, function: Callable[..., Any], *arrays: Array) -> Array:
    """A function of TensorFlow's tensors: ``"eager"``, ``"graph"`` or ``"XLA"``."""
    if how != "eager":
        function = tf.function(function, autograph=False, jit_compile=how == "XLA")
    return function(*(tf.constant(a) for a in arrays)).numpy()


def bits(array: Array) -> Array:
    array = np.ascontiguousarray(array)
    return array.view({2: np.uint16, 4: np.uint32, 8: np.uint64}[array.dtype.itemsize])


def share(got: Array, expected: Array) -> float:
    """How much of an array differs, in bits."""
    assert got.shape == expected.shape and got.dtype == expected.dtype
    return float((bits(got) != bits(expected)).mean())


def present(hazard: bool, rule: str) -> None:
    assert hazard, f"hazard gone: {rule} can be looked at again"


def absent(hazard: bool, rule: str) -> None:
    assert not hazard, f"hazard appeared: {rule}"


# ------------------------------------------------------------------------------------------------------------
# Contraction and regrouping


@pytest.mark.parametrize("kind", KINDS)
def test_xla_fuses_multiplication_and_addition(kind: Any) -> None:
    """``a*b + c`` is rounded once under XLA on CPU: so every product that feeds an addition is exact or
    chopped (section 1, the circled product).
    """
    a, b, c = (values(name, kind) for name in "abc")
    found = share(run("XLA", lambda a, b, c: a * b + c, a, b, c), a * b + c)
    present(found > 0.1, "the chop of products (section 1)")


@pytest.mark.parametrize("kind", KINDS)
def test_eager_and_graph_do_not_fuse_absent(kind: Any) -> None:
    """Eager mode and plain graphs round the product and the sum: the other half of the disagreement."""
    a, b, c = (values(name, kind) for name in "abc")
    for how in ("eager", "graph"):
        found = share(run(how, lambda a, b, c: a * b + c, a, b, c), a * b + c)
        absent(found > 0, f"tf {how} fuses a*b + c; the chop of products (section 1) covers it")


@pytest.mark.parametrize("kind", KINDS)
def test_constant_divisors_become_reciprocals(kind: Any) -> None:
    """``x / 3`` is ``x * (1/3)`` under Grappler and XLA: so the mean over channels multiplies by ``I = 1 /
    C``, rounded as section 3 says, and other divisions are by tensors.
    """
    x = values("x", kind)
    for how in ("graph", "XLA"):
        present(share(run(how, lambda x: x / 3.0, x), x / kind(3)) > 0.1, f"no division by constants (tf {how})")


@pytest.mark.parametrize("kind", KINDS)
def test_division_by_tensors_is_true_division_absent(kind: Any) -> None:
    """What we use instead: the quotient of two tensors is rounded once in every mode."""
    a, b = values("a", kind), values("b", kind)
    for how in ("eager", "graph", "XLA"):
        absent(share(run(how, lambda a, b: a / b, a, b), a / b) > 0, f"tf {how} divides tensors inexactly")


def test_chained_constant_factors_are_multiplied_together() -> None:
    """``(x * c) * d`` is ``x * (c * d)`` in graphs and under XLA: so constants are not chained, or a chop
    or a rounding stands between them (section 4, ``a_k``).
    """
    x = values("x")
    for how in ("graph", "XLA"):
        found = share(run(how, lambda x: (x * 0.1) * (1 / 3), x), (x * 0.1) * (1 / 3))
        present(found > 0.1, f"no chain of constant factors (tf {how})")


def test_chained_constant_terms_are_added_together() -> None:
    """``(x + c) - d`` is ``x + (c - d)``: so additions of constants are not chained."""
    x = values("x")
    for how in ("graph", "XLA"):
        found = share(run(how, lambda x: (x + 1.0) - 0.3, x), (x + 1.0) - 0.3)
        present(found > 0.05, f"no chain of constant terms (tf {how})")


@pytest.mark.parametrize("kind", KINDS)
def test_magic_number_rounding_is_folded_away(kind: Any) -> None:
    """``(x + c) - c`` is x in graphs and under XLA: so integers come from ``rint`` and from the bits."""
    x = values("x", kind)
    c = kind(1.5 * 2.0 ** (23 if kind is np.float32 else 52))
    for how in ("graph", "XLA"):
        found = share(run(how, lambda x: (x + c) - c, x), (x + c) - c)
        present(found > 0.9, f"no rounding by magic numbers (tf {how})")


@pytest.mark.parametrize("kind", KINDS)
def test_grappler_regroups_trees_of_additions(kind: Any) -> None:
    """``(a + b) + (c + d)`` is an AddN in graphs: so the stencil is a chain of subtractions
    (docs/numerics/segmentation.md, Boundary), and the terms of a loss are chopped after every addition (section 4).
    """
    a, b, c, d = (values(name, kind) for name in "abcd")
    found = share(run("graph", lambda a, b, c, d: (a + b) + (c + d), a, b, c, d), (a + b) + (c + d))
    present(found > 0.1, "no trees of additions (Boundary; section 4)")


@pytest.mark.parametrize("kind", KINDS)
def test_chains_of_subtractions_keep_their_order_absent(kind: Any) -> None:
    """What we use instead."""
    a, b, c, d = (values(name, kind) for name in "abcd")
    for how in ("graph", "XLA"):
        found = share(run(how, lambda a, b, c, d: a * 4.0 - b - c - d, a, b, c, d), a * 4 - b - c - d)
        absent(found > 0, f"tf {how} regroups subtractions: the stencil of docs/numerics/segmentation.md, Boundary")


def test_torch_compile_does_not_fuse_absent() -> None:
    """Inductor compiles its C++ without contraction; Triton on GPUs may contract, which the chop covers
    too.
    """
    a, b, c = (values(name) for name in "abc")
    torch._dynamo.reset()
    compiled = torch.compile(lambda a, b, c: (a * b + c, a / 3.0, (a * 0.1) * (1 / 3)), dynamic=False)
    found = [t.numpy() for t in compiled(*map(torch.from_numpy, (a, b, c)))]
    for got, wanted in zip(found, (a * b + c, a / 3, (a * 0.1) * (1 / 3)), strict=True):
        absent(
            share(got, wanted) > 0,
            "torch.compile on CPU contracts or regroups; the chop of products covers it",
        )


# ------------------------------------------------------------------------------------------------------------
# Sums and library functions


@pytest.mark.parametrize("kind", KINDS)
def test_float_sums_depend_on_who_adds(kind: Any) -> None:
    """NumPy adds pairwise, the others in their own blocks: so all sums are of integers (sections 1.4 and
    1.5).
    """
    x = values("x", kind)
    found = [
        x.sum(),
        torch.from_numpy(x).sum().numpy(),
        *(run(h, tf.reduce_sum, x) for h in ("eager", "XLA")),
    ]
    present(len({bits(np.asarray(v, kind)).tobytes() for v in found}) > 1, "sums of integers (sections 1.4, 1.5)")


def test_float_sums_depend_on_the_order() -> None:
    x = values("x", np.float32)
    present(x.sum() != np.sort(x).sum(), "sums of integers (sections 1.4 and 1.5)")


def test_powers_are_not_products() -> None:
    """``x**2`` goes through pow in TensorFlow's eager mode: so squares are written ``d * d``."""
    x = values("x")
    present(share(run("eager", lambda x: x**2, x), x * x) > 0.05, "no powers")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", ["exp", "log1p"])
def test_library_functions_differ_in_the_last_bits(function: str, kind: Any) -> None:
    """So exp* and log1p* keep 33 and 28 bits, rounded at a threshold that no true value comes near
    (sections 1.2, 1.3).
    """
    x = (-uniform("x", (COUNT,)) * 80 if function == "exp" else uniform("x", (COUNT,)) * 3).astype(kind)
    found = [getattr(np, function)(x), getattr(torch, function)(torch.from_numpy(x)).numpy()]
    found += [run(how, getattr(tf.math, function), x) for how in ("eager", "XLA")]
    different = {bits(v).tobytes() for v in found}
    present(len(different) > 1, "the thresholds of exp* and log1p* (sections 1.2 and 1.3)")
    # Far from the 57 and 130 ulp that the thresholds allow; float32 has no such promise.
    apart = max(int(np.abs(bits(v).astype(np.int64) - bits(found[0]).astype(np.int64)).max()) for v in found)
    absent(kind is np.float64 and apart > 8, f"libraries are {apart} ulp apart in {function}: section 1.2 or 1.3")


# ------------------------------------------------------------------------------------------------------------
# Subnormals, NaN, signs of zero, casts

SUBNORMAL = np.array([1e-40, -1e-40, 1e-45] * 8, np.float32)


@pytest.mark.parametrize("how", ["eager", "graph", "XLA"])
def test_tensorflow_flushes_subnormals(how: str) -> None:
    """In casts and products; torch and NumPy don't: so ``load`` and ``float32`` flush by definition
    (section 1).
    """
    found = run(how, lambda x: tf.cast(x, tf.float64), SUBNORMAL)
    present(bool((found == 0).all()), f"the flush of subnormals (section 1; tf {how})")
    assert (SUBNORMAL.astype(np.float64) != 0).all() and (torch.from_numpy(SUBNORMAL).double() != 0).all()


def test_a_neutral_operation_flushes_or_not() -> None:
    """``x + 0`` flushes in eager mode and is dropped by the compilers: modes of one framework differ."""
    eager, graph, xla = (run(how, lambda x: x + 0.0, SUBNORMAL) for how in ("eager", "graph", "XLA"))
    present(bool((eager == 0).all()), "the flush of subnormals (section 1; eager)")
    present(share(eager, graph) > 0 and share(eager, xla) > 0, "the flush of subnormals (section 1; compiled)")


@pytest.mark.parametrize("kind", KINDS)
def test_xla_maximum_ignores_nan(kind: Any) -> None:
    """So NaN is found by ``isnan``, or made by what follows the maximum: in softmax the sum of d = x - max
    is NaN (docs/numerics/classification.md, Softmax), and ``amax`` promises nothing where NaN stands.
    """
    x = np.array([1.0, np.nan, 3.0, np.nan], kind)
    present(
        not np.isnan(run("XLA", tf.reduce_max, x)),
        "no NaN through a maximum (docs/numerics/classification.md, Softmax)",
    )
    for found in (run("eager", tf.reduce_max, x), torch.from_numpy(x).max().numpy(), x.max()):
        absent(not np.isnan(found), "another maximum ignores NaN: Softmax does not rely on it")


@pytest.mark.parametrize("kind", KINDS)
def test_the_maximum_of_two_zeros_has_either_sign(kind: Any) -> None:
    """So -0 counts as +0 on entry, and no result is -0 (section 1)."""
    x = np.array([0.0, -0.0], kind)
    signs = {bool(np.signbit(run(how, tf.reduce_max, x))) for how in ("eager", "XLA")}
    present(len(signs) == 2, "no -0 (section 1)")


def test_minus_zero_survives_casts_and_differs_in_bits() -> None:
    """Equal as numbers, different as bits: comparisons of this suite are of bits, and -0 never leaves."""
    x = np.array([-0.0])
    for how in ("eager", "graph", "XLA"):
        present(bool(np.signbit(run(how, lambda x: tf.cast(x, tf.float32), x))[0]), "no -0 (section 1)")
    present(bool(torch.signbit(torch.from_numpy(x).float())[0]), "no -0 (section 1)")


ZERO_AFTER_MINUS_ZERO = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
tf.constant(-0.0, tf.float64)
print(tf.constant(0.0, tf.float64).numpy())
"""


def test_the_cache_of_eager_constants_ignores_the_sign_of_zero() -> None:
    """After ``tf.constant(-0.0)`` eager mode gives the same tensor for ``0.0``, anywhere in the process: so
    a zero that may leave must not be an eager constant made of a Python number (section 1: no -0).
    """
    command = [sys.executable, "-c", ZERO_AFTER_MINUS_ZERO]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    present(done.stdout.strip() == "-0.0", "zeros that are no eager constants")


def test_torch_casts_nan_to_bfloat16_in_two_ways() -> None:
    """0xffff where it is vectorised, 0x7fc0 in the rest: so ``store`` sets NaN on the bits, after the cast
    (section 1).
    """
    found = torch.full((17,), float("nan"), dtype=torch.float64).to(torch.bfloat16).view(torch.int16)
    present(len(set(found.tolist())) == 2, "NaN set after the cast (section 1)")


def test_torch_compile_casts_nan_after_a_selection() -> None:
    """Inductor computes ``where(isnan, nan, v.to(bfloat16))`` in float32 and casts last: a NaN must be
    selected among integers, by the bits (section 1).
    """
    torch._dynamo.reset()
    nan = torch.full((), float("nan"), dtype=torch.bfloat16)
    select = torch.compile(lambda v: torch.where(v.isnan(), nan, v.to(torch.bfloat16)), dynamic=False)
    found = select(torch.full((1024,), float("nan"), dtype=torch.float64)).view(torch.int16)
    present(bool((found != 0x7FC0).any()), "NaN selected by its bits (section 1)")


def test_nan_has_either_sign() -> None:
    """inf - inf is a negative NaN on this processor, other operations give positive ones: so the one NaN
    that leaves is set at the end (section 1).
    """
    x = np.full(64, np.inf)
    with np.errstate(invalid="ignore"):
        signs = {bool(np.signbit(x - x)[0]), bool(np.signbit(run("XLA", lambda x: x * float("nan"), x))[0])}
    present(len(signs) == 2, "the canonical NaN (section 1)")


@pytest.mark.parametrize("how", ["eager", "graph", "XLA"])
def test_casts_from_float64_to_float16_round_twice(how: str) -> None:
    """By way of float32, in TensorFlow and torch; NumPy rounds once: so ``to_dtype`` rounds on the bits
    (section 1).
    """
    x = np.full(16, 1 + 2.0**-11 + 2.0**-40)  # just above halfway between 1 and the next float16
    present(bool((run(how, lambda x: tf.cast(x, tf.float16), x) == 1).all()), f"rounding on the bits (tf {how})")
    present(bool((torch.from_numpy(x).half() == 1).all()), "rounding on the bits (torch)")
    assert (x.astype(np.float16) > 1).all()


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_xla_keeps_pairs_of_casts_absent(kind: Any) -> None:
    """XLA may drop float64 -> narrow -> float64, where it is allowed excess precision:
    ``TensorFlowOps.float32`` rounds on the bits whether or not it does.
    """
    x = values("x").astype(np.float32).astype(np.float64) if kind is not np.float32 else values("x")
    narrow = tf.as_dtype(kind)
    for factor in (1.0, 3.7):
        got = run("XLA", lambda x, f=factor: tf.cast(tf.cast(x * f, narrow), tf.float64) * 2.5, x)
        wanted = (x * factor).astype(np.float32).astype(kind).astype(np.float64) * 2.5
        absent(share(got, wanted) > 0, f"XLA drops casts to {np.dtype(kind).name} and back")


def test_torch_square_roots_in_eager_mode_are_not_the_nearest() -> None:
    """TorchOps corrects them by their exact rest."""
    v = np.abs(values("square roots")) + 1e-3
    present(share(torch.from_numpy(v).sqrt().numpy(), np.sqrt(v)) > 0, "square roots are corrected (TorchOps.sqrt)")


def test_torch_divides_numbers_by_tensors_by_a_reciprocal() -> None:
    """So the numerics divide no number but 1 by an array."""
    v = np.abs(values("quotients")) + 1e-3
    present(share((100.0 / torch.from_numpy(v)).numpy(), 100.0 / v) > 0.1, "no number but 1 is divided by an array")
    absent(share((1.0 / torch.from_numpy(v)).numpy(), 1.0 / v) > 0, "PyTorch's reciprocals are inexact")


def test_no_number_but_1_is_divided_by_an_array() -> None:
    """Of constants alone Python computes the quotient."""
    import ast
    from pathlib import Path

    import dualloss.exact

    found = []
    for file in Path(dualloss.exact.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (
                isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.left, ast.Constant)
            ):
                continue
            if node.left.value != 1.0 and not isinstance(node.right, ast.Constant):
                found.append(f"{file.name}:{node.lineno}")
    assert not found
