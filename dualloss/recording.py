"""Recordings of a training: what went into the loss and what came out, step by step, in a folder.

A recording is written while a model trains, by ``dualloss.torch.record`` or ``dualloss.tf.record``, and read without a
framework. docs/recording.md describes the files. A step is written into a folder whose name says that it is partial,
and renamed when it is complete: a process that is killed, at any moment, leaves a recording of the steps before.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import io
import json
import math
import os
import platform
import re
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

Array = Any

FORMAT = "dualloss recording"
VERSION = 1
META = "meta.json"
STEP = "step.json"
SAMPLE = 1024
"""About how many elements are kept of an array that is too large to be kept whole."""
INLINE = 64
"""Up to so many bytes stand in step.json itself."""
LEAST_BYTES = 1 << 16
"""The smallest ``max_bytes``: meta.json and a step have room."""
_META_BYTES = 1 << 14
_BLOCK = 1 << 16
_LARGE = 1 << 19
"""From so many bytes on a thread pays for itself."""
_FOLDER = re.compile(r"step-(\d{8,})")
_PARTIAL = re.compile(r"\.step-(\d{8,})\.partial")

Chosen = Iterable[int] | Callable[[int], bool]


class RecordingError(ValueError):
    """A recording that cannot be read or used; the message is complete."""


# --- Arrays


@dataclass(frozen=True)
class Statistics:
    """Of the finite elements, in float64: least, largest, mean and Euclidean norm (None: there are none); and how many
    elements are NaN or infinite.
    """

    min: float | None
    max: float | None
    mean: float | None
    norm: float | None
    nan: int
    inf: int


def statistics(raw: Array, dtype: str = "") -> Statistics:
    """The statistics of an array of numbers or booleans; of the dtype "bfloat16", given its bits."""
    flat = raw.reshape(-1)
    least, largest, total, squares, count, nan, inf = math.inf, -math.inf, 0.0, 0.0, 0, 0, 0
    for start in range(0, flat.size, _BLOCK):  # blocks stay in the cache
        block = widen(flat[start : start + _BLOCK], dtype).astype(np.float64)
        with np.errstate(all="ignore"):
            added = float(block.sum())
            if not math.isfinite(added):
                undefined = int(np.isnan(block).sum())
                nan, inf = nan + undefined, inf + int(np.isinf(block).sum())
                block = block[np.isfinite(block)]
                added = float(block.sum())
            squares += float(np.einsum("i,i->", block, block))  # not @, whose threads would wait for one another
        if block.size:
            least, largest = min(least, float(block.min())), max(largest, float(block.max()))
        total, count = total + added, count + block.size
    if not count:
        return Statistics(None, None, None, None, nan, inf)
    mean, norm = total / count, math.sqrt(squares)
    return Statistics(least, largest, _finite(mean), _finite(norm), nan, inf)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity


def stride(size: int) -> int:
    """The distance between the elements of a sample of about :data:`SAMPLE`.

    It has no divisor in common with the size, so that every channel occurs.
    """
    found = max(1, -(-size // SAMPLE))
    while math.gcd(found, size) > 1:
        found += 1
    return found


def digest(raw: Array) -> str:
    """SHA-256 of the elements in C order, little-endian."""
    return hashlib.sha256(_bytes(raw)).hexdigest()


@contextlib.contextmanager
def _hashing(raw: Array, entry: dict[str, Any]) -> Iterator[None]:
    """Add the hash to the entry; that of a large array is computed beside what is done meanwhile."""
    if raw.nbytes < _LARGE:
        entry["sha256"] = digest(raw)
        yield
        return
    thread = threading.Thread(target=lambda: entry.update(sha256=digest(raw)))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _bytes(raw: Array) -> Array:
    return np.ascontiguousarray(raw).reshape(-1).view(np.uint8)


def widen(raw: Array, dtype: str) -> Array:
    """The numbers: those of bfloat16, which NumPy has only as its bits, as float32."""
    return (raw.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else raw


def plain(array: Array) -> tuple[Array, str]:
    """An array as NumPy itself has it, and the name of its dtype: bfloat16 as bits."""
    found = np.asarray(array)
    name = found.dtype.name
    if name == "bfloat16":
        return found.view(np.uint16), name
    if found.dtype.kind not in "biuf":
        raise TypeError(f"the array has dtype {found.dtype}, expected booleans, integers or floats")
    return found.astype(found.dtype.newbyteorder("<"), copy=False), name


def channels_last(array: Array, axis: int | None) -> Array:
    """The array with this axis last; as it is where it has no such axis or the axis is None."""
    return array if axis is None or array.ndim < 2 else np.moveaxis(array, axis, -1)


THE_LOSS = "the loss"
"""Marks the call of the loss."""
RESERVED = ("input", "target", "sample_weight", "loss", "upstream", "gradient")

PREFIXES = ("terms/", "weights/", "initial/", "state/", "initial-state/")


def check_name(name: object) -> str:
    """The name of a tensor.

    Raises:
        TypeError, ValueError: no text, or one that the loss's arrays have.
    """
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}, expected a string")
    if not name or name in RESERVED or name.startswith(PREFIXES):
        raise ValueError(
            f"name is {name!r}, expected another than {', '.join(RESERVED)}, and not {'..., '.join(PREFIXES)}..."
        )
    return name


# --- How a loss is called

TARGETS = frozenset(
    ("y_true", "target", "targets", "label", "labels", "truth", "true", "y", "gt", "ground_truth")
)  # fmt: skip
WEIGHTS = ("sample_weight", "sample_weights")
ORDERS = ("auto", "input-first", "target-first")


@dataclass(frozen=True)
class Convention:
    """Where the calls of a loss have their arguments: the position, and the keyword if it is known."""

    input: tuple[int, str | None]
    target: tuple[int, str | None]
    weight: tuple[int, str | None] | None

    @classmethod
    def of(cls, function: Callable[..., Any], order: str, default: str) -> Convention:
        """That of a function: which argument comes first is told by ``order``, or "auto" by the arguments' names.

        Raises:
            ValueError: an unknown order.
        """
        if order not in ORDERS:
            raise ValueError(f"order is {order!r}, expected one of {', '.join(map(repr, ORDERS))}")
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in parameters if p.kind in by_position]
        if order == "auto":
            first, second = ([*names, "", ""])[:2]
            order = default
            if (first in TARGETS) != (second in TARGETS):
                order = "target-first" if first in TARGETS else "input-first"
        keywords = [*names, None, None][:2]
        pair = [(k, keywords[k]) for k in (0, 1)]
        if order == "target-first":
            pair.reverse()
        weight = next(((k, name) for k, name in enumerate(names) if name in WEIGHTS), None)
        if weight is None:
            weight = next(((len(names), p.name) for p in parameters if p.name in WEIGHTS), None)
        return cls(pair[0], pair[1], weight)

    def find(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Input, target and sample weight of a call; None for what is not there."""
        found = []
        for place in (self.input, self.target, self.weight):
            value = None
            if place is not None:
                value = args[place[0]] if place[0] < len(args) else kwargs.get(place[1] or "")
            found.append(value)
        return found[0], found[1], found[2]

    def replace(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], input: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call with another input."""
        position, keyword = self.input
        if position < len(args):
            return (*args[:position], input, *args[position + 1 :]), dict(kwargs)
        return tuple(args), {**kwargs, keyword or "": input}


def about(loss: Any) -> dict[str, Any]:
    """What is known of any loss: "kind", its class or function, and "settings", its options that are simple values."""
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    sources: list[Mapping[str, Any]] = [vars(loss)] if hasattr(loss, "__dict__") and named is not loss else []
    # Class weights of torch.nn; options of a function that Keras wraps, and of a partial.
    sources += [getattr(loss, name, {}) for name in ("_buffers", "_fn_kwargs", "keywords")]
    if hasattr(loss, "get_config"):
        with contextlib.suppress(NotImplementedError, TypeError, ValueError):
            sources.insert(0, loss.get_config())
    settings: dict[str, Any] = {}
    for source in sources:
        if not isinstance(source, Mapping):  # an attribute of that name which is something else
            continue
        for key, value in source.items():
            simple = value.tolist() if hasattr(value, "tolist") and getattr(value, "ndim", 2) < 2 else value
            name = key.lstrip("_")
            if name not in _OF_MODULES and "hook" not in name and _simple(simple):
                settings.setdefault(name, simple)
    return {"kind": f"{named.__module__}.{named.__qualname__}", "settings": settings}


_OF_MODULES = frozenset(("training", "built", "call_super_init", "dump_patches", "spec", "text"))


def _simple(value: Any) -> bool:
    """Whether it is None, a string, a boolean, a finite number, or at most 256 of those in a list."""
    if isinstance(value, list | tuple):
        return len(value) <= 256 and all(_simple(item) and not isinstance(item, list | tuple) for item in value)
    return value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


# --- Writing


class Writer:
    """Writes a recording.

    A step ends with :meth:`next`, or where something begins that it has already. What concerns the disk never stops a
    training: an OSError ends the recording, with a RuntimeWarning.

    Args:
        path: a folder, new or empty.
        framework: "torch" or "tf".
        versions: of the packages.
        steps: the steps to store: their numbers, or a function of the number; None: every ``every``-th.
        every: see ``steps``.
        max_bytes: how many bytes the files may have together. Three quarters of it may be whole arrays; then samples
            are kept of all arrays, and when those fill the rest, nothing more is stored.
        whole: up to how many bytes an array is kept whole.
        start: the number of the first step, of a training that resumes.

    Raises:
        FileExistsError: the folder has something in it.
        TypeError, ValueError: arguments out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        framework: str,
        versions: Mapping[str, str],
        steps: Chosen | None = None,
        every: int = 1,
        max_bytes: int = 1 << 30,
        whole: int = 1 << 24,
        start: int = 0,
    ) -> None:
        for name, value, least in (
            ("every", every, 1), ("max_bytes", max_bytes, LEAST_BYTES), ("whole", whole, 0), ("start", start, 0)
        ):  # fmt: skip
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} is {value!r}, expected an integer")
            if value < least:
                raise ValueError(f"{name} is {value}, expected at least {least}")
        self._choose, described = _chooser(steps, every)
        self.path = Path(path)
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FileExistsError(f"path is {str(self.path)!r}, which is there and not empty, expected a new folder")
        self.number = start
        self._lock = threading.RLock()
        self._max_bytes, self._whole = max_bytes, whole
        self._used = _META_BYTES
        self._seen: set[str] = set()
        self._arrays: dict[str, dict[str, Any]] = {}
        self._notes: dict[str, Any] = {}
        self._step_bytes = 0
        self._open = True
        self._meta: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "framework": framework,
            "versions": {**versions, "numpy": np.__version__, "python": platform.python_version()},
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "loss": None,
            "steps": described,
            "start": start,
            "max_bytes": max_bytes,
            "whole": whole,
            "sampled_from": None,
            "stopped_at": None,
            "stopped_by": None,
            "closed": False,
        }
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_meta()
        self._chosen = self._choose(start)

    @property
    def chosen(self) -> bool:
        """Whether the present step is stored."""
        return self._open and self._chosen

    @property
    def empty(self) -> bool:
        """Whether no loss was described."""
        return self._meta["loss"] is None

    def describe(self, **loss: Any) -> None:
        """What the loss is: JSON values.

        Raises:
            RuntimeError: there is a loss already.
        """
        if not self.empty:
            raise RuntimeError(
                "the recording has a loss already, expected one loss in a recording: record() another one elsewhere"
            )
        self._meta["loss"] = loss
        with self._disk():
            self._write_meta()

    def begin(self, mark: str) -> int | None:
        """The number of the step that what is marked so belongs to, or None if that step is not stored.

        If the present step has the mark already, the next one begins.
        """
        with self._lock:
            if mark in self._seen:
                self.next()
            self._seen.add(mark)
            return self.number if self.chosen else None

    def begin_weights(self) -> tuple[int | None, str, str]:
        """As :meth:`begin`, of a model's weights, and what to put before their names and those of its state.

        Before the loss of a step these are the weights that it starts with, afterwards those of its update.
        """
        with self._lock:
            kind = "weights" if THE_LOSS in self._seen else "initial"
            return self.begin(kind), kind, "state" if kind == "weights" else "initial-state"

    def note(self, **values: Any) -> None:
        """Something about the present step: JSON values."""
        self._notes |= values

    def put(
        self, number: int, name: str, array: Array, *, dtype: str | None = None, channel_axis: int | None = None
    ) -> None:
        """Store an array of the present step, channels last. What comes too late, or a second time, is left out.

        Args:
            number: the step that it belongs to.
            name: its name.
            array: of NumPy's dtypes or ``ml_dtypes.bfloat16``.
            dtype: "bfloat16" if ``array`` has the bits of it; None: that of the array.
            channel_axis: the axis that holds channels; None: there is none.

        Raises:
            TypeError: an array of another dtype.
        """
        if number != self.number or name in self._arrays or not self.chosen:
            return
        raw, found = plain(array)
        dtype = dtype or found
        last = channels_last(raw, channel_axis)
        raw = np.ascontiguousarray(last).reshape(last.shape)  # which makes of a number an array
        entry: dict[str, Any] = {
            "dtype": dtype,
            "shape": list(raw.shape),
            "channel_axis": None if raw.ndim < 2 else channel_axis,
        }
        with self._lock, self._disk(), _hashing(raw, entry):
            entry["statistics"] = vars(statistics(raw, dtype))
            if number != self.number or not self.chosen:
                return
            if raw.nbytes <= INLINE:
                entry |= {"kept": "whole", "data": _bytes(raw).tobytes().hex()}
            else:
                header = _header(raw)
                size = len(header) + raw.nbytes
                full = self._meta["sampled_from"] is not None or not self._room(size, 0.75)
                if raw.nbytes > self._whole or full:
                    if raw.nbytes <= self._whole and self._meta["sampled_from"] is None:
                        self._meta["sampled_from"] = self.number
                        self._write_meta()
                    step = stride(raw.size)
                    entry |= {"stride": step}
                    raw = np.ascontiguousarray(raw.reshape(-1)[::step])
                    header = _header(raw)
                    size = len(header) + raw.nbytes
                    if not self._room(size):
                        self._stop("max_bytes")
                        return
                file = _file_name(name)
                entry |= {"kept": "whole", "file": file}
                if "stride" in entry:
                    entry |= {"kept": "sample", "stored": digest(raw)}
                folder = self._partial()
                folder.mkdir(exist_ok=True)
                with (folder / file).open("wb") as stream:
                    stream.write(header)
                    stream.write(_bytes(raw).data)
                self._step_bytes += size
            self._arrays[name] = entry

    def next(self) -> None:
        """End the present step: it becomes part of the recording, if it is chosen and has anything."""
        with self._lock:
            if self.chosen and self._arrays:
                with self._disk():
                    self._finish()
            self._arrays, self._notes, self._step_bytes = {}, {}, 0
            self._seen = set()
            self.number += 1
            self._chosen = self._choose(self.number)

    def close(self) -> None:
        """End the present step and the recording. Nothing is recorded afterwards."""
        with self._lock:
            if self._seen:
                self.next()
            if self._open:
                self._meta["closed"] = True
                with self._disk():
                    self._write_meta()
            self._open = False

    def _finish(self) -> None:
        data = seal({"step": self.number, "notes": self._notes, "arrays": self._arrays}).encode()
        if not self._room(len(data)):
            self._stop("max_bytes")
            return
        folder = self._partial()
        folder.mkdir(exist_ok=True)
        (folder / STEP).write_bytes(data)
        folder.rename(self.path / f"step-{self.number:08d}")
        self._used += self._step_bytes + len(data)

    def _room(self, size: int, share: float = 1.0) -> bool:
        return self._used + self._step_bytes + size <= share * self._max_bytes

    def _partial(self) -> Path:
        return self.path / f".step-{self.number:08d}.partial"

    def _stop(self, reason: str) -> None:
        self._open = False
        shutil.rmtree(self._partial(), ignore_errors=True)
        self._meta |= {"stopped_at": self.number, "stopped_by": reason}
        self._write_meta()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._open = False
            warnings.warn(
                f"the recording {str(self.path)!r} stops at step {self.number}: {error}", RuntimeWarning, stacklevel=2
            )
            with contextlib.suppress(OSError):
                self._stop(str(error))

    def _write_meta(self) -> None:
        partial = self.path / f".{META}.partial"
        with partial.open("w") as stream:
            json.dump(self._meta, stream, indent=1)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self.path / META)


def _chooser(steps: Chosen | None, every: int) -> tuple[Callable[[int], bool], Any]:
    """Which steps are stored, as a function and for meta.json."""
    if steps is None:
        return lambda number: number % every == 0, f"every {every}"
    if callable(steps):
        function: Callable[[int], bool] = steps
        return lambda number: bool(function(number)), "chosen by a function"
    if not isinstance(steps, Iterable):
        raise TypeError(f"steps is {type(steps).__name__}, expected numbers of steps or a function of the number")
    numbers = frozenset(steps)
    for number in numbers:
        if not isinstance(number, int | np.integer) or isinstance(number, bool):
            raise TypeError(f"steps holds {number!r}, expected integers")
    listed = sorted(map(int, numbers))
    return numbers.__contains__, listed if len(listed) <= 100 else f"{len(listed)} numbers up to {listed[-1]}"


def seal(step: dict[str, Any]) -> str:
    """What stands in step.json: an object with a hash of itself, by which damage shows."""
    return json.dumps({**step, "sha256": _hash_of(step)}, allow_nan=False)


def _hash_of(step: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(step, sort_keys=True).encode()).hexdigest()


def _file_name(name: str) -> str:
    quoted = quote(name, safe="")
    return (quoted if len(quoted) <= 200 else hashlib.sha256(name.encode()).hexdigest()) + ".npy"


def _header(raw: Array) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(raw))
    return stream.getvalue()


# --- Reading


@dataclass(frozen=True)
class Stored:
    """An array of a step, channels last.

    Attributes:
        name: its name.
        dtype: of what was recorded.
        shape: its shape, the channels last.
        channel_axis: where the channels were.
        sha256: of all its elements.
        statistics: of all its elements.
        stride: None if the array is there whole; else every stride-th element is.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    channel_axis: int | None
    sha256: str
    statistics: Statistics
    stride: int | None
    _stored: str = field(repr=False)
    _file: Path | None = field(repr=False)
    _data: bytes | None = field(repr=False)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return self.stride is None

    def raw(self) -> Array:
        """The array as it is stored; bfloat16 as uint16. None if only a sample is there."""
        return self._load() if self.whole else None

    def values(self) -> Array:
        """The array; bfloat16 as float32. None if only a sample is there."""
        return widen(self._load(), self.dtype) if self.whole else None

    def sample(self) -> Array:
        """Some of its elements, the same of every array of this size, whether it is there whole or not."""
        found = widen(self._load(), self.dtype)
        return found.reshape(-1)[:: stride(self.size)] if self.whole else found

    def _load(self) -> Array:
        if self._data is not None:
            return np.frombuffer(self._data, _numpy_dtype(self.dtype)).reshape(self.shape)
        assert self._file is not None
        count = self.size if self.stride is None else -(-self.size // self.stride)
        dtype = _numpy_dtype(self.dtype)
        with self._file.open("rb") as stream:
            begin = stream.read(10)
            offset = 10 + int.from_bytes(begin[8:], "little")
            if begin[:8] != b"\x93NUMPY\x01\x00" or self._file.stat().st_size != offset + count * dtype.itemsize:
                raise ValueError(f"{self._file.name} is no .npy file of {count} elements")
        flat = np.fromfile(self._file, dtype, offset=offset)
        return flat.reshape(self.shape) if self.whole else flat

    def check(self) -> str | None:
        """What is wrong with what is stored; None: nothing."""
        try:
            raw = self._load()
        except (OSError, ValueError) as error:
            return f"{self.name} cannot be read ({error})"
        return None if digest(raw) == self._stored else f"{self.name} is damaged: its hash is another one"


@functools.cache
def _numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype("uint16" if name == "bfloat16" else name).newbyteorder("<")


@dataclass(frozen=True)
class Step:
    """What was recorded of a step.

    Attributes:
        number: its number.
        arrays: by name, in the order in which they came. Those of the loss are "input", "target", "sample_weight",
            "loss", "terms/NAME", "upstream" (the gradient that arrives at the loss) and "gradient" (by the input).
            "weights/NAME" are the weights after the update, "initial/NAME" those before the loss; "state/NAME" and
            "initial-state/NAME" what the model holds beside them, such as running statistics.
        notes: what else is known: "schedule", the step of the loss's schedules; "iteration", that of the optimizer.
    """

    number: int
    arrays: dict[str, Stored]
    notes: dict[str, Any]


class Recording:
    """A recording that was read: the steps that are complete and have the hashes that they should have.

    Attributes:
        path: its folder.
        meta: what meta.json says.
        steps: by number, ascending.
        dropped: what is there but incomplete or damaged, a line each.

    Raises:
        RecordingError: there is no recording, or one of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.meta = _read_meta(self.path)
        self.steps: dict[int, Step] = {}
        self.dropped: list[str] = []
        for entry in sorted(self.path.iterdir()):
            if partial := _PARTIAL.fullmatch(entry.name):
                self.dropped.append(f"step {int(partial[1])}: incomplete, the process was killed there or is at it")
            elif complete := _FOLDER.fullmatch(entry.name):
                step = _read_step(entry, int(complete[1]))
                if isinstance(step, Step):
                    self.steps[step.number] = step
                else:
                    self.dropped.append(f"step {int(complete[1])}: {step}")
        self.steps = dict(sorted(self.steps.items()))

    @property
    def framework(self) -> str:
        """The framework that it was recorded in."""
        return str(self.meta["framework"])

    @property
    def loss(self) -> dict[str, Any]:
        """What is known of the loss: see :func:`about`; of a dualloss loss also "spec", "reduction" and "numerics"."""
        return self.meta["loss"] or {}

    @property
    def limits(self) -> list[str]:
        """Where the recording is less than was asked for, a line each."""
        lines = []
        if self.meta["sampled_from"] is not None:
            lines.append(f"from step {self.meta['sampled_from']} on arrays are sampled only: max_bytes is near")
        if self.meta["stopped_at"] is not None:
            lines.append(f"nothing is stored from step {self.meta['stopped_at']} on: {self.meta['stopped_by']}")
        return lines


def _read_meta(path: Path) -> dict[str, Any]:
    where = f"{str(path)!r} "
    if not path.exists():
        raise RecordingError(f"{where}does not exist, expected the folder of a recording")
    if not path.is_dir() or not (path / META).is_file():
        raise RecordingError(f"{where}is no recording, expected a folder with a {META}")
    try:
        meta = json.loads((path / META).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise RecordingError(f"{where}is no recording: its {META} cannot be read ({error})") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise RecordingError(f"{where}is no recording: its {META} has no format {FORMAT!r}")
    if meta.get("version") != VERSION:
        raise RecordingError(
            f"{where}has the format version {meta.get('version')!r}, this version of dualloss reads {VERSION}: read it "
            f"with the one that wrote it ({meta.get('versions')})"
        )
    for key, kinds in _META_KINDS.items():
        if key not in meta or not isinstance(meta[key], kinds):
            came = f"{meta[key]!r}" if key in meta else "nothing"
            raise RecordingError(f"{where}is no recording: its {META} has {came} for {key!r}")
    loss = {"kind": "", "settings": {}, **(meta["loss"] or {})}
    if not isinstance(loss.pop("settings"), dict) or any(not isinstance(value, str) for value in loss.values()):
        raise RecordingError(f"{where}is no recording: its {META} has {meta['loss']!r} for 'loss'")
    return meta


_NOTHING = type(None)
_META_KINDS: dict[str, tuple[type, ...]] = {
    "framework": (str,), "loss": (dict, _NOTHING), "sampled_from": (int, _NOTHING), "stopped_at": (int, _NOTHING),
    "stopped_by": (str, _NOTHING), "closed": (bool,),
}  # fmt: skip


def _read_step(folder: Path, number: int) -> Step | str:
    """The step, or what is wrong with it."""
    try:
        found = json.loads((folder / STEP).read_text())
        if found.pop("sha256") != _hash_of(found):
            return f"{STEP} is damaged: its hash is another one"
        if found["step"] != number:
            return f"{STEP} is that of step {found['step']}"
        arrays = {name: _stored(folder, name, entry) for name, entry in found["arrays"].items()}
        step = Step(number, arrays, dict(found["notes"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{STEP} cannot be read ({type(error).__name__}: {error})"
    return next((wrong for array in arrays.values() if (wrong := array.check())), step)


def _stored(folder: Path, name: str, entry: dict[str, Any]) -> Stored:
    file = entry.get("file")
    if file is not None and Path(file).name != file:
        raise ValueError(f"{name} has the file {file!r}, expected a name without a folder")
    return Stored(
        name,
        str(entry["dtype"]),
        tuple(int(n) for n in entry["shape"]),
        entry["channel_axis"],
        str(entry["sha256"]),
        Statistics(**entry["statistics"]),
        entry.get("stride"),
        str(entry.get("stored", entry["sha256"])),
        None if file is None else folder / file,
        bytes.fromhex(entry["data"]) if file is None else None,
    )
