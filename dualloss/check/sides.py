"""The two losses of a comparison: in this process, or each in a process, and an interpreter, of its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .case import Case, Side
from .probes import Probe
from .runner import About, CannotRun, Observation, Runner, resolve

START = 180.0
"""Seconds that a process may take to import its framework."""


GRACE = 5.0
"""Seconds more than a loss may take: the process tells by itself what is late, if Python gets a turn."""


class Compared(Protocol):
    """A loss that can be called on probes."""

    def about(self) -> About:
        """What is known of it."""

    def run(self, probe: Probe) -> Observation:
        """What it does on a probe."""

    def close(self) -> None:
        """End what was started for it."""


class Here:
    """A loss in this process."""

    def __init__(self, loss: Any, case: Case, side: Side, timeout: float) -> None:
        self._runner = Runner(loss, case, side, timeout=timeout)

    def about(self) -> About:
        """What is known of it."""
        return self._runner.about()

    def run(self, probe: Probe) -> Observation:
        """What it does on a probe."""
        return self._runner.run(probe)

    def close(self) -> None:
        """Nothing was started."""


class Elsewhere:
    """A loss in a process of its own, which may hang or die without harm to this one.

    Raises:
        CannotRun: the process does not start, or the loss cannot be used.
    """

    def __init__(self, reference: str, case: Case, side: Side, timeout: float, python: str | None = None) -> None:
        self._what = (reference, case, side, timeout)
        self._timeout, self._python = timeout, python or sys.executable
        self._folder = tempfile.TemporaryDirectory(prefix="dualloss-compare-")
        self._lost = 0
        self._process: subprocess.Popen[str] | None = None
        try:
            self._start()
        except CannotRun:
            self._folder.cleanup()
            raise

    def _start(self) -> None:
        self._end()
        reference, case, side, timeout = self._what
        root = str(Path(__file__).parents[2])
        paths = [os.getcwd(), root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment.setdefault("KERAS_BACKEND", "tensorflow")
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two frameworks share the cores
        try:
            self._process = subprocess.Popen(
                [self._python, "-m", "dualloss.check.worker", self._folder.name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
            )  # fmt: skip
        except OSError as error:
            raise CannotRun(f"{self._python}: {error}") from None
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()
        self._send({"reference": reference, "case": _plain(case), "side": _plain(side), "timeout": timeout})
        self._ready = False

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # that it has ended is seen where the answer is read

    def _answer(self, seconds: float) -> dict[str, Any] | str:
        """The next line, or why there is none."""
        assert self._process is not None
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self._process.kill()
            return f"took more than {seconds:g} s"
        if line is None:
            code = self._process.wait()
            return f"its process ended with exit status {code}" + (" (killed by a signal)" if code < 0 else "")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _wait(self) -> None:
        answer = self._answer(START)
        if isinstance(answer, str):
            raise CannotRun(f"{self._what[0]} with {self._python}: {answer}")
        if "error" in answer:
            raise CannotRun(answer["error"])
        self._about, self._ready = answer, True

    def about(self) -> About:
        """What is known of it."""
        if not self._ready:
            self._wait()
        return About(**{**self._about, "calls": tuple(self._about["calls"])})

    def run(self, probe: Probe) -> Observation:
        """What it does on a probe."""
        if self._lost >= 3:
            return Observation(error="not called any more: it was lost three times")
        if not self._ready:
            self._wait()
        folder = Path(self._folder.name)
        np.save(folder / "x.npy", probe.x)
        np.save(folder / "target.npy", probe.target)
        if probe.weight is not None:
            np.save(folder / "weight.npy", probe.weight)
        more = {"name": probe.name, "group": probe.group, "upstream": probe.upstream, "dtype": probe.dtype,
                "trailing": probe.trailing, "weighted": probe.weight is not None}  # fmt: skip
        self._send(more)
        answer = self._answer(self._timeout + GRACE)
        if isinstance(answer, str):
            self._lost += 1
            self._start()
            return Observation(error=answer)
        gradient = np.load(folder / "gradient.npy") if answer.pop("differentiated") else None
        return Observation(gradient=gradient, **{
            **answer, "notes": tuple(answer["notes"]), "shape": tuple(answer["shape"]),
            "value": None if answer["value"] is None else float(answer["value"]),
        })  # fmt: skip

    def close(self) -> None:
        """End the process."""
        self._end()
        self._folder.cleanup()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):  # what was not yet written is not needed any more
                        stream.close()


def _plain(value: Case | Side) -> dict[str, Any]:
    return asdict(value)


def side(loss: Any, case: Case, how: Side, timeout: float, python: str | None = None) -> Compared:
    """A loss, given as an object (here) or as a reference, `module:expression` or a file (elsewhere)."""
    if isinstance(loss, str):
        if loss.endswith(".json") and python is None:
            return Here(resolve(loss), case, how, timeout)  # a spec needs no framework
        return Elsewhere(loss, case, how, timeout, python)
    return Here(loss, case, how, timeout)
