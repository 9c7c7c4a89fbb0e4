"""A loss that somebody wrote, called on probes: whatever it does, what comes back is an observation."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..recording import about
from ..spec import Spec, Term, from_json
from .case import Case, Side
from .formulas import LOOSE
from .probes import Array, Probe, battery

TARGET_NAMES = frozenset(
    [
        "y_true",
        "target",
        "targets",
        "label",
        "labels",
        "truth",
        "true",
        "y",
        "gt",
        "ground_truth",
        "mask",
        "masks",
        "t",
        "y_t",
    ]
)
INPUT_NAMES = frozenset(
    [
        "y_pred",
        "y_hat",
        "yhat",
        "input",
        "inputs",
        "pred",
        "preds",
        "prediction",
        "predictions",
        "logits",
        "output",
        "outputs",
        "out",
        "prob",
        "probs",
        "x",
        "p",
    ]
)
WEIGHT_NAMES = ("sample_weight", "sample_weights", "weight", "weights")

MAP = "returns a number for each position or sample: their mean is compared"
NO_FORM = "a label out of range has no one-hot form"
"""Why a side that takes one-hot targets cannot get a probe."""


class CannotRun(Exception):
    """A loss that cannot be used at all; the message is complete."""


@dataclass(frozen=True)
class Observation:
    """What a loss did on a probe.

    Attributes:
        value: the loss, float64; None where there is none.
        gradient: by the input, channels last, or None.
        error: what it raised, in one line.
        notes: what else it did that a loss should not.
        dtype: of what it returned.
        shape: of what it returned.
    """

    value: float | None = None
    gradient: Array | None = field(default=None, repr=False)
    error: str | None = None
    notes: tuple[str, ...] = ()
    dtype: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class About:
    """What is known of a loss before it is called.

    Attributes:
        name: how it is spoken of.
        framework: "torch", "tf" or "spec".
        library: the package it comes from: "torch", "keras", "monai" and the like, or "" for users' own code.
        kind: the name of its class or function.
        spec: its spec as JSON, where an importer knows it.
        settings: its options, as far as they are numbers, strings or None.
        calls: how it is called, for the report.
        config: whether it comes back from its own configuration (Keras): None where there is none.
        guessed: whether it takes class indices and one-hot targets alike, and which it got is a guess.
    """

    name: str
    framework: str
    library: str = ""
    kind: str = ""
    spec: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    calls: tuple[str, ...] = ()
    config: str | None = None
    guessed: bool = False


def resolve(reference: str) -> Any:
    """The object that `module:expression` or the name of a file with a spec stands for."""
    if reference.endswith(".json"):
        try:
            return from_json(Path(reference).read_text())
        except (OSError, ValueError) as error:
            raise CannotRun(f"{reference}: {error}") from None
    module, colon, expression = reference.partition(":")
    if not colon or not expression:
        raise CannotRun(f"{reference!r} is neither module:loss, such as torch.nn:CrossEntropyLoss(), nor a .json file")
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        hint = f"; without .py: {module[:-3]}:{expression}" if module.endswith(".py") else ""
        raise CannotRun(f"import {module}: {_line(error)}{hint}") from None
    top = module.partition(".")[0]
    names = {**vars(found), top: importlib.import_module(top), "np": np, "numpy": np}
    try:
        value = eval(expression, names)
    except Exception as error:
        raise CannotRun(f"{expression} in {module}: {_line(error)}") from None
    return _instance(value, expression) if isinstance(value, type) else value


def _instance(kind: type, name: str) -> Any:
    try:
        return kind()
    except Exception as error:
        raise CannotRun(f"{name} is a class, and {name}() fails: {_line(error)}") from None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


class Runner:
    """A loss and how it is called.

    Raises:
        CannotRun: it is no loss, or how it is called cannot be told.
    """

    def __init__(self, loss: Any, case: Case, side: Side, name: str | None = None, timeout: float = 20.0) -> None:
        self.case, self.side, self.timeout = case, side, timeout
        if isinstance(loss, Term):
            loss = 1.0 * loss
        if isinstance(loss, type):
            loss = _instance(loss, loss.__name__)
        self.loss = loss
        if isinstance(loss, Spec):
            self.framework = "spec"
        elif callable(loss):
            self.framework = _framework(loss, side)
        else:
            raise CannotRun(
                f"{name or repr(loss)} is {type(loss).__name__}, expected a loss: something that can be called"
            )
        self.library = _library(loss)
        kind = loss.__name__ if inspect.isfunction(loss) else type(loss).__name__
        self.kind = str(loss) if self.framework == "spec" else kind
        self.name = name or self.kind
        first = side.layout == "first" or (side.layout == "auto" and self.framework == "torch")
        self.first = first and bool(case.spatial) and case.classes is not None
        self.target_first, self._named = self._order()
        self.one_hot = self.guessed = False
        self._feed()

    def _order(self) -> tuple[bool, bool]:
        if self.framework == "spec":
            return False, True
        call = self.loss
        if self.library in ("torch", "monai", "segmentation_models_pytorch", "kornia"):
            by_default = False
        else:
            by_default = self.framework == "tf"
        if self.side.order != "auto":
            return self.side.order == "target-first", True
        forward = getattr(call, "forward", None) or getattr(call, "call", None)
        try:
            parameters = [*inspect.signature(forward or call).parameters]
        except (TypeError, ValueError):
            return by_default, False
        for name in parameters[:2]:
            lower = name.lower()
            if lower in INPUT_NAMES or lower in TARGET_NAMES:
                return (parameters.index(name) == 0) == (lower in TARGET_NAMES), True
        return by_default, False

    def _feed(self) -> None:
        """Whether the loss takes one-hot targets; tried where nothing says it."""
        if self.case.targets != "index" or self.framework == "spec":
            return
        known = _takes(self.loss, self.library)
        if self.side.targets != "auto" or known:
            self.one_hot = (known if self.side.targets == "auto" else self.side.targets) == "one-hot"
            return
        probe = battery(self.case)[0]
        worked = {}
        for one_hot in (False, True):
            self.one_hot = one_hot
            worked[one_hot] = self.run(probe).error is None
        if worked[False] != worked[True]:
            self.one_hot = worked[True]
        else:
            self.one_hot = self.framework == "tf"
            self.guessed = worked[True]

    def about(self) -> About:
        """What is known of it."""
        calls: list[str] = []
        if self.framework != "spec":
            calls.insert(0, "called as loss(target, input)" if self.target_first else "called as loss(input, target)")
            if self.case.spatial and self.case.classes is not None:
                calls.append("channels on axis 1" if self.first else "channels last")
            if self.case.targets == "index":
                guess = " (a guess: it takes both)" if self.guessed else ""
                calls.append(("targets one-hot" if self.one_hot else "targets as class indices") + guess)
        if self.side.activation != "none":
            calls.append(f"after {self.side.activation}")
        return About(
            self.name, self.framework, self.library, self.kind, self._spec(), _settings(self.loss), tuple(calls),
            self._config(), self.guessed,
        )  # fmt: skip

    def _spec(self) -> str | None:
        if isinstance(self.loss, Spec):
            return self.loss.to_json()
        own = getattr(self.loss, "spec", None)
        if isinstance(own, Spec):
            return own.to_json()
        from .. import vendors

        context = {"spatial": len(self.case.spatial), "classes": self.case.classes}
        targets = "indices" if self.case.targets == "index" and not self.one_hot else "probabilities"
        try:
            if self.framework == "torch":
                return vendors.from_torch(self.loss, targets=targets, **context).to_json()  # type: ignore[arg-type]
            return vendors.from_keras(self.loss, spatial=context["spatial"]).to_json()
        except Exception:
            return None

    def _config(self) -> str | None:
        """Whether a loss made from its configuration computes the "same", or "other", or why there is none."""
        if not hasattr(self.loss, "get_config") or not hasattr(type(self.loss), "from_config"):
            return None
        probe = battery(self.case)[0]
        before = self.run(probe)
        again = Runner.__new__(Runner)
        again.__dict__.update(self.__dict__)
        try:
            again.loss = type(self.loss).from_config(self.loss.get_config())
        except Exception as error:
            return _line(error)
        after = again.run(probe)
        if before.value is None or after.value is None:
            return None
        return "same" if np.float64(before.value).tobytes() == np.float64(after.value).tobytes() else "other"

    def run(self, probe: Probe) -> Observation:
        """Call it once; whatever happens is in the observation."""
        try:
            with _deadline(self.timeout), np.errstate(all="ignore"):
                if self.framework == "spec":
                    return self._of_spec(probe)
                return self._of_torch(probe) if self.framework == "torch" else self._of_tf(probe)
        except _Late:
            return Observation(error=f"took more than {self.timeout:g} s")
        except CannotRun as error:
            return Observation(error=str(error))
        except (Exception, SystemExit) as error:
            return Observation(error=_line(error))

    def _target(self, probe: Probe) -> Array:
        """The target as this side takes it, channels still last."""
        target = probe.target
        if probe.labels and self.one_hot:
            classes = probe.x.shape[-1]
            if ((target < 0) | (target >= classes)).any() and self.case.ignore_index is None:
                raise CannotRun(NO_FORM)
            return (target[..., None] == np.arange(classes)).astype(np.float32)
        return target

    def _of_spec(self, probe: Probe) -> Observation:
        from ..exact import reference

        if probe.trailing:
            raise CannotRun("labels have an axis of length 1")
        if self.side.activation != "none":
            raise CannotRun("a spec has its activation in it: name it there")
        found = reference.loss_and_gradient(self.loss, probe.x, probe.target, sample_weight=probe.weight)
        return Observation(float(found.loss), np.asarray(found.gradient, np.float64) * probe.upstream, dtype="float32")

    def _arrays(self, probe: Probe) -> tuple[Array, Array]:
        x, target = probe.x.astype(probe.dtype), self._target(probe)
        if target.dtype.kind == "f":
            target = target.astype(probe.dtype if self.framework == "torch" else np.float32)
        if self.first:
            x = np.moveaxis(x, -1, 1)
            if target.ndim == x.ndim:
                target = np.moveaxis(target, -1, 1)
        if probe.trailing:
            target = target[..., None]
        return np.ascontiguousarray(x), np.ascontiguousarray(target)

    def _back(self, gradient: Array) -> Array:
        gradient = np.asarray(gradient, np.float64)
        return np.moveaxis(gradient, 1, -1) if self.first else gradient

    def _call(self, x: Any, target: Any, weight: Any) -> Any:
        arguments = (target, x) if self.target_first else (x, target)
        if weight is None:
            return self.loss(*arguments)
        try:
            parameters = inspect.signature(getattr(self.loss, "forward", self.loss)).parameters
        except (TypeError, ValueError):
            parameters = {}  # type: ignore[assignment]
        # The weight of PyTorch's own functions is one of classes.
        for name in WEIGHT_NAMES[:2] if self.library == "torch" else WEIGHT_NAMES:
            if name in parameters:
                return self.loss(*arguments, **{name: weight})
        raise CannotRun("takes no sample weights")

    def _of_torch(self, probe: Probe) -> Observation:
        import torch

        x, target = self._arrays(probe)
        given = torch.from_numpy(x.copy()).requires_grad_()
        wanted = torch.from_numpy(target.copy())
        weight = None if probe.weight is None else torch.from_numpy(probe.weight.copy())
        axis = 1 if self.first or given.ndim == 1 + (self.case.classes is not None) else -1
        shown = given
        if self.side.activation == "softmax":
            shown = given.softmax(axis)
        elif self.side.activation == "log-softmax":
            shown = given.log_softmax(axis)
        elif self.side.activation == "sigmoid":
            shown = given.sigmoid()
        notes: list[str] = []
        with _watched(notes, _torch_state):
            value = self._call(shown, wanted, weight)
        if not isinstance(value, torch.Tensor):
            raise CannotRun(_returns(value))
        if not np.array_equal(given.detach().numpy(), x, equal_nan=True):
            notes.append("changes its input")
        if not np.array_equal(wanted.numpy(), target, equal_nan=True):
            notes.append("changes its target")
        total = value.mean() if value.ndim else value
        if value.ndim:
            notes.append(MAP)
        gradient = None
        if not total.requires_grad:
            notes.append("is not differentiable by its input")
        else:
            (found,) = torch.autograd.grad(total * probe.upstream, given, allow_unused=True)
            gradient = None if found is None else self._back(found.detach().double().numpy())
            if found is None:
                notes.append("does not depend on its input")
        shape = tuple(value.shape)
        return Observation(
            float(total.detach().double()), gradient, None, tuple(notes), str(value.dtype).removeprefix("torch."), shape
        )

    def _of_tf(self, probe: Probe) -> Observation:
        import keras
        import tensorflow as tf

        x, target = self._arrays(probe)
        given, wanted = tf.constant(x), tf.constant(target)
        weight = None if probe.weight is None else tf.constant(probe.weight)
        axis = 1 if self.first else -1
        notes: list[str] = []
        with tf.GradientTape() as tape:
            tape.watch(given)
            # Keras' own: behind them its losses find the logits.
            activations = {
                "none": lambda v: v, "softmax": lambda v: keras.activations.softmax(v, axis),
                "log-softmax": lambda v: keras.activations.log_softmax(v, axis), "sigmoid": keras.activations.sigmoid,
            }  # fmt: skip
            shown = activations[self.side.activation](given)
            with _watched(notes, _tf_state):
                value = self._call(shown, wanted, weight)
            if not tf.is_tensor(value):
                raise CannotRun(_returns(value))
            shape = tuple(value.shape)
            total = tf.reduce_mean(value) if shape else value
            if shape:
                notes.append(MAP)
            scaled = total * tf.cast(probe.upstream, total.dtype)
        gradient = tape.gradient(scaled, given)
        if gradient is None:
            notes.append("is not differentiable by its input")
        else:
            gradient = self._back(tf.cast(tf.convert_to_tensor(gradient), tf.float64).numpy())
        return Observation(float(tf.cast(total, tf.float64)), gradient, None, tuple(notes), value.dtype.name, shape)


class _Late(Exception):
    pass


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise where the code inside takes longer, as far as Python gets a turn and this is the main thread."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(*_: Any) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


State = dict[str, tuple[Any, Callable[[Any], object]]]
"""Global settings by name: what they are, and what sets them."""


@contextlib.contextmanager
def _watched(notes: list[str], state: Callable[[], State]) -> Iterator[None]:
    """Note what code prints and what of the global state it changes; put that back."""
    before = state()
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            yield
    finally:
        after = state()
        if text := out.getvalue().strip():
            notes.append(f"prints: {text.splitlines()[0][:80]}")
        for name, (value, put_back) in before.items():
            if after[name][0] != value:
                how = f"changes {name}: {value} before, {after[name][0]} after"
                notes.append(f"uses {name}" if "random" in name else how)
                put_back(value)


def _keep(_: Any) -> None:
    """Random numbers that were drawn are drawn."""


def _numpy_state() -> State:
    return {"NumPy's random numbers": (np.random.get_state()[1].tobytes(), _keep)}  # type: ignore[index]


def _torch_state() -> State:
    import torch

    return {
        "PyTorch's default dtype": (torch.get_default_dtype(), torch.set_default_dtype),
        "PyTorch's grad mode": (torch.is_grad_enabled(), torch.set_grad_enabled),
        "PyTorch's number of threads": (torch.get_num_threads(), torch.set_num_threads),
        "PyTorch's random numbers": (torch.random.get_rng_state().numpy().tobytes(), _keep),
        **_numpy_state(),
    }


def _tf_state() -> State:
    import keras
    import tensorflow as tf

    return {
        "Keras' floatx": (keras.config.floatx(), keras.config.set_floatx),
        "Keras' image data format": (keras.config.image_data_format(), keras.config.set_image_data_format),
        "TensorFlow's eager mode for functions": (tf.config.functions_run_eagerly(), tf.config.run_functions_eagerly),
        **_numpy_state(),
    }


def _returns(value: Any) -> str:
    hint = ": wrap it in a function that returns the loss" if isinstance(value, (tuple, list, dict)) else ""
    return f"returns {type(value).__name__}, expected a tensor{hint}"


def _top(module: Any) -> str:
    return str(module or "").partition(".")[0]


def _library(loss: Any) -> str:
    """The package a loss comes from, if it is a well-known one."""
    module = getattr(loss, "__module__", None) if inspect.isroutine(loss) else type(loss).__module__
    known = ("torch", "keras", "tensorflow", "monai", "segmentation_models_pytorch", "kornia", "dualloss")
    return _top(module) if _top(module) in known else ""


def _framework(loss: Any, side: Side) -> str:
    if side.framework != "auto":
        return side.framework
    owners = [_top(base.__module__) for base in type(loss).__mro__] + [_top(getattr(loss, "__module__", ""))]
    if "dualloss" in owners:
        owners.append(str(getattr(loss, "__module__", "") or type(loss).__module__).split(".")[1])
    torch_like = {"torch", "monai", "segmentation_models_pytorch", "kornia"} & set(owners)
    tf_like = {"keras", "tensorflow", "tf"} & set(owners)
    if bool(torch_like) != bool(tf_like):
        return "torch" if torch_like else "tf"
    call = inspect.unwrap(getattr(loss, "func", loss))
    if not inspect.isroutine(call):
        call = type(call).__call__
    used = _used(getattr(call, "__func__", call), 3)
    torch_like, tf_like = {"torch"} & used, {"keras", "tensorflow"} & used
    if bool(torch_like) != bool(tf_like):
        return "torch" if torch_like else "tf"
    with contextlib.suppress(TypeError, ValueError):
        names = [*inspect.signature(loss).parameters][:2]
        if names == ["y_true", "y_pred"]:
            return "tf"
        if names and names[0].lower() in INPUT_NAMES:
            return "torch"
    raise CannotRun(
        f"{getattr(loss, '__name__', loss)!r} says neither PyTorch nor TensorFlow: name its framework "
        "(Side(framework=...), --framework-a, --framework-b)"
    )


def _used(call: Any, depth: int) -> set[str]:
    """The packages that a function's code names, its own and that of the functions it calls."""
    code = getattr(call, "__code__", None)
    if code is None or depth == 0:
        return set()
    names, inner = set(code.co_names), [code]
    while inner:
        one = inner.pop()
        names |= set(one.co_names)
        inner += [c for c in one.co_consts if inspect.iscode(c)]
    values = [v for k, v in getattr(call, "__globals__", {}).items() if k in names]
    for cell in getattr(call, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # not yet filled
            values.append(cell.cell_contents)
    found = {name for name in names if name in ("torch", "tensorflow", "keras")}  # imported inside
    for value in values:
        module = getattr(value, "__name__", "") if inspect.ismodule(value) else None
        if module is None:
            module = getattr(value, "__module__", None) if inspect.isroutine(value) else type(value).__module__
        found.add(_top(module))
        if inspect.isfunction(value) and _top(module) not in ("torch", "tensorflow", "keras"):
            found |= _used(value, depth - 1)
    return found


def _takes(loss: Any, library: str) -> str | None:
    """What targets a library's loss takes, where its name says it."""
    kind = (loss.__name__ if inspect.isroutine(loss) else type(loss).__name__).lower().replace("_", "")
    if library == "torch":
        return (
            "index"
            if kind in ("crossentropyloss", "nllloss", "crossentropy", "nllloss2d", "multimarginloss")
            else "one-hot"
        )
    if library == "keras":
        return "index" if kind.startswith("sparse") else "one-hot"
    if library == "dualloss":
        return "index"
    return None


def _settings(loss: Any) -> dict[str, Any]:
    """The options of a loss, as far as they are simple; lists of one number as the number; the numbers in its code."""
    found: dict[str, Any] = about(loss)["settings"]
    found = {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in found.items()}
    for child in getattr(loss, "_modules", {}).values():
        if child is not None:
            found = {**_settings(child), **found}
    call = getattr(loss, "func", loss)
    call = (
        call if inspect.isroutine(call) else getattr(type(call), "forward", None) or getattr(type(call), "call", None)
    )
    numbers_of = _numbers(call, 3) if _library(loss) == "" else []
    return {**found, LOOSE: numbers_of[:12]} if numbers_of else found


def _numbers(call: Any, depth: int) -> list[Any]:
    """The numbers, and lists of them, that a function's code, defaults, closure and globals hold."""
    code = getattr(call, "__code__", None)
    if code is None or depth == 0:
        return []
    values: list[Any] = [
        *(getattr(call, "__defaults__", None) or ()),
        *(getattr(call, "__kwdefaults__", None) or {}).values(),
    ]
    names, inner = set(), [code]
    while inner:
        one = inner.pop()
        names |= set(one.co_names)
        values += [c for c in one.co_consts if isinstance(c, (float, tuple))]
        inner += [c for c in one.co_consts if inspect.iscode(c)]
    values += [v for k, v in getattr(call, "__globals__", {}).items() if k in names]
    for cell in getattr(call, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # not yet filled
            values.append(cell.cell_contents)
    found: list[Any] = []
    for value in values:
        if inspect.isfunction(value) and _top(value.__module__) not in ("torch", "tensorflow", "keras", "numpy"):
            found += _numbers(value, depth - 1)
        elif hasattr(value, "tolist") and getattr(value, "ndim", 9) <= 1:
            found.append(value.tolist())
        elif hasattr(value, "numpy") and getattr(getattr(value, "shape", None), "rank", 9) in (0, 1):
            found.append(value.numpy().tolist())
        elif isinstance(value, float) or (
            isinstance(value, (list, tuple)) and value and all(isinstance(v, (int, float)) for v in value)
        ):
            found.append(list(value) if isinstance(value, (list, tuple)) else value)
    return [v for k, v in enumerate(found) if v not in found[:k]]
