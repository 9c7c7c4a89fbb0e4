"""Penalties on the weights of a model."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ..exact import engine, functions
from ..exact.layout import check_penalty
from ..exact.terms import Inputs
from ..spec import Spec, from_json
from . import native
from .ops import TensorFlowOps

Tensor = Any

_OPS = TensorFlowOps()
_FLOATS = (tf.float16, tf.bfloat16, tf.float32)


@keras.saving.register_keras_serializable(package="dualloss")
class Regularizer(keras.regularizers.Regularizer):
    """A penalty on the weights of a layer: ``keras.layers.Dense(5, kernel_regularizer=Regularizer(1e-4 * dl.L2()))``.

    Args:
        spec: a sum of ``L1`` and ``L2`` with weights.
        numerics: ``"exact"``: the bits that docs/numerics/penalties.md defines; ``"native"``: TensorFlow's own sums,
            differentiable any number of times.
        jit_compile: whether exact numerics compile the penalty with XLA: True, False or ``"auto"`` (True). The bits
            are the same.

    Calling it with an array, float16, bfloat16 or float32, gives a float32 scalar.

    Raises:
        ValueError: a spec of other terms, or with a schedule (give ``spec.at(step)``).
    """

    def __init__(self, spec: Spec, numerics: str = "exact", *, jit_compile: bool | str = "auto") -> None:
        check_penalty(spec, numerics)
        if jit_compile not in (True, False, "auto"):
            raise ValueError(f"jit_compile is {jit_compile!r}, expected True, False or 'auto'")
        self.spec = spec
        self.numerics = numerics
        self.jit_compile = jit_compile
        compiled = bool(jit_compile)
        self._forward = tf.function(self._value, autograph=False, jit_compile=True) if compiled else self._value
        self._backward = tf.function(self._gradient, autograph=False, jit_compile=True) if compiled else self._gradient

    @tf.autograph.experimental.do_not_convert
    def __call__(self, x: Tensor) -> Tensor:
        """The penalty of an array."""
        x = tf.convert_to_tensor(x)
        if x.dtype not in _FLOATS:
            raise TypeError(f"x has dtype {x.dtype.name}, expected float16, bfloat16 or float32: cast it")
        return self._attach(x) if self.numerics == "exact" else native.penalty(self.spec, [x])[0]

    def get_config(self) -> dict[str, Any]:
        """The settings; the spec as JSON."""
        return {"spec": self.spec.to_json(), "numerics": self.numerics, "jit_compile": self.jit_compile}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Regularizer:
        """The regularizer with these settings."""
        return cls(from_json(config["spec"]), **{key: value for key, value in config.items() if key != "spec"})

    def __repr__(self) -> str:
        """The call that makes this regularizer."""
        return f"Regularizer({self.spec!r}, numerics={self.numerics!r}, jit_compile={self.jit_compile!r})"

    def _evaluate(self, x: Tensor) -> engine.Evaluation:
        w = functions.load(_OPS, tf.reshape(x, [-1, 1]))
        return engine.evaluate(_OPS, self.spec, Inputs(_OPS, w, w, None, 1, ()), "sum")

    def _value(self, x: Tensor) -> Tensor:
        return self._evaluate(x).loss

    def _gradient(self, x: Tensor, upstream: Tensor) -> Tensor:
        gradient = tf.reshape(self._evaluate(x).gradient(None), tf.shape(x))
        return engine.backward(_OPS, upstream, gradient, x.dtype.name)

    def _attach(self, x: Tensor) -> Tensor:
        """The value, connected to the array by its gradient."""

        @tf.custom_gradient
        def scaled(x: Tensor, upstream: Tensor) -> Any:
            def again(*_: Any) -> Any:
                raise RuntimeError(
                    "exact numerics can be differentiated once only: for second derivatives use "
                    "dualloss.tf.Regularizer(spec, numerics='native')"
                )

            return self._backward(x, upstream), again

        @tf.custom_gradient
        def attached(x: Tensor) -> Any:
            return self._forward(x), lambda upstream: scaled(x, upstream)

        return attached(x)
