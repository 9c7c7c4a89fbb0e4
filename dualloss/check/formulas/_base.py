"""What a formula is: a loss in float64 with its conventions as options, plain code of the textbook kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..case import Case
from ..probes import Array, Probe

Options = Mapping[str, Any]
LOOSE = "in its code"
"""The name of settings that have none: numbers of a function's code."""


@dataclass(frozen=True)
class Family:
    """A loss and the conventions that implementations of it follow.

    Attributes:
        name: what it is called.
        value: the loss of a probe, float64; NaN and inf are answers.
        options: each option's values; the first is the plain definition.
        applies: whether it can be what a case's losses compute.
        numbers: options whose values may also be numbers found in the settings of the losses, by the words that their
            names contain.
        only_if: options that say nothing but where this holds of those before them.
        linear: an option of which the loss is a linear function, so that its value can be told from a loss.
    """

    name: str
    value: Callable[..., float]
    options: Mapping[str, tuple[Any, ...]]
    applies: Callable[[Case], bool]
    numbers: Mapping[str, tuple[str, ...]]
    only_if: Mapping[str, Callable[[dict[str, Any], Case], bool]]
    linear: str | None = None

    def variants(self, case: Case, settings: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """All combinations of options."""
        choices: dict[str, list[Any]] = {}
        for option, values in self.options.items():
            more = choices[option] = [*values]
            if option == "ignore" and case.ignore_index is not None:
                # Whether a label that is no class is ignored or just not found, nobody can tell apart.
                inside = case.classes is not None and 0 <= case.ignore_index < case.classes
                choices[option] = [case.ignore_index, *([None] if inside else [])]
                continue
            if option == "weights":
                for found in settings:
                    pair = found.get("alpha"), found.get("beta")
                    if all(_is_number(v) for v in pair):
                        more += [p for p in (_as(pair), _as(pair[::-1])) if p not in more]
            for found in settings:
                for key, number in found.items():
                    wanted = any(word in key for word in self.numbers.get(option, ()))
                    if wanted and _is_number(number) and _as(number) not in more:
                        more.append(_as(number))
                for number in found.get(LOOSE, []) if option in self.numbers else []:
                    if _may_be(option, number, case) and _as(number) not in more and len(more) < len(values) + 4:
                        more.append(_as(number))
        yield from self._chosen({}, list(choices.items()), case)

    def _chosen(
        self, before: dict[str, Any], rest: list[tuple[str, list[Any]]], case: Case
    ) -> Iterator[dict[str, Any]]:
        if not rest:
            yield before
            return
        (option, values), *rest = rest
        varies = self.only_if.get(option)
        for value in values if varies is None or varies(before, case) else values[:1]:
            yield from self._chosen({**before, option: value}, rest, case)


def _may_be(option: str, number: Any, case: Case) -> bool:
    """Whether a number that has no name can be this option."""
    if isinstance(number, list):
        return option == "class_weight" and len(number) == case.classes and _is_number(number)
    least, most = {"smoothing": (0.0, 0.5), "alpha": (0.0, 1.0), "gamma": (0.0, 6.0)}.get(option, (1e-4, 1e4))
    return option != "class_weight" and _is_number(number) and least < number < most


def _is_number(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_is_number(v) for v in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as(value: Any) -> Any:
    return tuple(float(v) for v in value) if isinstance(value, (list, tuple)) else float(value)


def one_hot(probe: Probe) -> Array:
    """The target as float64, dense; labels out of range are zeros."""
    if not probe.labels:
        return probe.target.astype(np.float64)
    return (probe.target[..., None] == np.arange(probe.x.shape[-1])).astype(np.float64)


def log_softmax(x: Array) -> Array:
    """Over the last axis."""
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return np.exp(-np.logaddexp(0.0, -x))


def activated(probe: Probe, activation: str) -> Array:
    """The input as the loss gets it, float64."""
    x = probe.x.astype(np.float64)
    if activation == "softmax":
        return np.exp(log_softmax(x))
    if activation == "log-softmax":
        return log_softmax(x)
    return sigmoid(x) if activation == "sigmoid" else x


def reduced(each: Array, how: str, weight: Array | None = None, weighting: str = "elements") -> float:
    """The number that a map of losses, (B, *spatial) or with channels, becomes.

    `how`: "mean" over all, "sum", or "sum, mean over samples".
    """
    count = float(each.size)
    if weight is not None:
        spread = weight.astype(np.float64).reshape(weight.shape + (1,) * (each.ndim - weight.ndim))
        if weighting == "last axis":  # what NumPy's rules make of a weight per sample
            spread = weight.astype(np.float64)
        each = np.where(spread == 0, 0.0, each * spread) if weighting != "ignored" else each
        if weighting == "sum of weights":
            count = float(np.broadcast_to(spread, each.shape).sum())
    total = float(each.sum())
    if how == "sum":
        return total
    if how == "sum, mean over samples":
        return total / each.shape[0]
    return total / count if count else float("nan")
