"""What is run: every loss, over a grid of its options, on data of several kinds and shapes."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .data import Array, Data, Kind

Options = dict[str, Any]

EXACT = 4.0
"""In ulp. Ours are 1 ulp from the truth, 4 for gradients; constants rounded to float32 add their share."""
NATIVE = 8.0
"""In ulp: the rounding of the formulas of both, in float32."""


@dataclass(frozen=True)
class Loss:
    """A loss of a library and the grid of its options.

    Attributes:
        vendor: "torch", "keras", "smp" or "monai".
        name: the name of its class.
        grid: the values of every option.
        kinds: the data for these options, by name.
        make: the library's loss, from its options.
        shapes: the shapes of inputs, the channels on axis 1.
        keywords: what the import has to be told beside the loss.
        valid: whether the options can stand together and be imported.
        target: the target as the library wants it.
        ignore: the label or value that the loss ignores, for these options.
        repeats: how many data each combination of options gets at least.
        native, exact: the bounds of the numerics, in ulp.
    """

    vendor: str
    name: str
    grid: Mapping[str, list[Any]]
    kinds: Callable[[Options], Mapping[str, Kind]]
    make: Callable[[Options], Any]
    shapes: Callable[[Options], list[tuple[int, ...]]]
    keywords: Callable[[Options, tuple[int, ...]], Options] = lambda options, shape: {}
    valid: Callable[[Options], bool] = lambda options: True
    target: Callable[[Options, Array, tuple[int, ...]], Array] = lambda options, target, shape: target
    ignore: Callable[[Options], Any] = lambda options: options.get("ignore_index")
    repeats: int = 2
    native: float = NATIVE
    exact: float = EXACT

    def combinations(self) -> Iterator[Options]:
        """All options that can stand together."""
        for values in itertools.product(*self.grid.values()):
            options = dict(zip(self.grid, values, strict=True))
            if self.valid(options):
                yield options

    def cases(self, repeats: int | None = None) -> Iterator[Case]:
        """The combinations, each with some of the data, so that all of these get their turn."""
        seed = zlib.crc32(f"{self.vendor}.{self.name}".encode())
        decks: dict[tuple[str, ...], _Deck] = {}
        combinations = list(self.combinations())
        for number, options in enumerate(combinations):
            kinds = self.kinds(options)
            pairs = [(kind, shape) for kind in kinds for shape in self.shapes(options)]
            key = tuple(f"{kind} {shape}" for kind, shape in pairs)
            deck = decks.setdefault(key, _Deck(len(pairs), np.random.default_rng(seed)))
            wanted = repeats or max(self.repeats, math.ceil(len(pairs) / len(combinations)))
            for i in range(min(wanted, len(pairs))):
                kind, shape = pairs[deck.draw()]
                yield Case(self, options, kind, kinds[kind], shape, (seed, number, i))


@dataclass
class _Deck:
    """Draws numbers in a shuffled order, all of them before any comes again."""

    size: int
    rng: np.random.Generator
    left: list[int] = field(default_factory=list)

    def draw(self) -> int:
        if not self.left:
            self.left = self.rng.permutation(self.size).tolist()
        return self.left.pop()


@dataclass(frozen=True)
class Case:
    """A loss with its options, and data."""

    loss: Loss
    options: Options
    kind: str
    make_data: Kind
    shape: tuple[int, ...]
    seed: tuple[int, ...]

    def data(self) -> Data:
        """The input and target, the same each time."""
        return self.make_data(np.random.default_rng(self.seed), self.shape, self.loss.ignore(self.options))

    def weight(self) -> Array | None:
        """Sample weights of positions, some of them 0, where the options say so."""
        if not self.options.get("sample_weight"):
            return None
        rng = np.random.default_rng((*self.seed, 1))
        shape = (self.shape[0], *self.shape[2:])
        return np.where(rng.random(shape) < 0.2, 0, rng.uniform(0.2, 2, shape)).astype(np.float32)
