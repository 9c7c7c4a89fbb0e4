"""Why recorded losses differ: the diagnosis without the losses."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dualloss.check.explain import case_of, explain  # noqa: E402

F: Any = torch.nn.functional


def recorded(loss: Callable[[Any, Any], Any], number: int = 6, seed: int = 0) -> list[Any]:
    """What a recording has of some steps of cross-entropy-like losses."""
    random, steps = torch.Generator().manual_seed(seed), []
    for _ in range(number):
        x = torch.randn((4, 3, 6, 5), generator=random).requires_grad_()
        y = torch.randint(0, 3, (4, 6, 5), generator=random)
        value = loss(x, y)
        (gradient,) = torch.autograd.grad(value, x)
        steps.append(SimpleNamespace(
            input=x.detach().movedim(1, -1).numpy(), target=y.numpy(), sample_weight=None,
            loss=np.float32(value.item()), gradient=gradient.movedim(1, -1).numpy(), framework="torch", kind="loss",
            settings={},
        ))  # fmt: skip
    return steps


def strange(x: Any, y: Any) -> Any:
    return F.cross_entropy(x + 0.3 * x.sin(), y)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (F.cross_entropy, lambda x, y: F.cross_entropy(x.softmax(1), y), "[14: softmax-twice]"),
        (
            F.cross_entropy,
            lambda x, y: F.cross_entropy(x, y, reduction="sum"),
            "[45: reduction]: reduction: a has mean",
        ),
        (strange, lambda x, y: 3 * strange(x, y), "[47: constant-factor]: value and gradient of b are 3 times a's"),
        (strange, lambda x, y: strange(x, y) + 1, "[52: constant-offset]: b is a + 1"),
        (F.cross_entropy, strange, "no cause that is known explains it"),
    ],
)
def test_the_cause(a: Any, b: Any, said: str) -> None:
    assert said in explain(recorded(a), recorded(b))


def test_too_few_steps() -> None:
    steps = recorded(F.cross_entropy, 3)
    assert explain(steps, steps) == "fewer than 4 steps hold input and loss whole (a: 3, b: 3): not enough to say why"


def test_the_case_is_read_from_the_arrays() -> None:
    (step,) = recorded(F.cross_entropy, 1)
    assert case_of([step]).targets == "index" and case_of([step]).spatial == (6, 5)
    onehot = np.eye(3)[step.target]
    for target, inputs, kind in (
        (onehot, step.input, "one-hot"), (0.9 * onehot + 0.1 / 3, step.input, "probabilities"),
        ((step.input > 0).astype(np.float32), step.input, "binary"), (step.input, step.input, "values"),
    ):  # fmt: skip
        assert case_of([SimpleNamespace(**{**vars(step), "target": target, "input": inputs})]).targets == kind
    soft = np.exp(step.input) / np.exp(step.input).sum(-1, keepdims=True)
    assert case_of([SimpleNamespace(**{**vars(step), "input": soft})]).inputs == "probabilities"
    assert case_of([SimpleNamespace(**{**vars(step), "input": np.log(soft)})]).inputs == "log-probabilities"
