"""Each backend needs its own framework and no other one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""

TORCH = """
import torch, dualloss, dualloss.torch
x = torch.tensor([[[1.0, 2.0], [0.5, -1.0]]], requires_grad=True)
loss = dualloss.torch.total_loss(torch.tensor([[0, 1]]), x)
loss.backward()
assert loss.item() > 0 and x.grad.any()
dualloss.torch.Loss(dualloss.TOTAL_LOSS, numerics="native")(x, torch.tensor([[0, 1]])).backward()
"""

TF = """
import tensorflow as tf, dualloss, dualloss.tf
x = tf.constant([[[1.0, 0.5], [2.0, -1.0]]])
for loss in (
    dualloss.tf.Loss(dualloss.TOTAL_LOSS, jit_compile=False),
    dualloss.tf.Loss(dualloss.TOTAL_LOSS, numerics="native"),
):
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss([[0, 1]], x)
    assert value.numpy() > 0 and tape.gradient(value, x).numpy().any()
"""

NUMPY = """
import numpy as np, dualloss, dualloss.exact
x = np.float32([[[1.0, 0.5], [2.0, -1.0]]])
result = dualloss.exact.loss_and_gradient(dualloss.TOTAL_LOSS, x, [[0, 1]])
assert result.loss > 0 and result.gradient.any()
"""


def run(code: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that cannot import the blocked packages."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def need(*names: str) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")


def test_the_package_imports_only_the_standard_library() -> None:
    result = run(
        """
before = set(sys.modules)
import dualloss
assert dualloss.from_json(dualloss.TOTAL_LOSS.to_json()) == dualloss.TOTAL_LOSS
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names)))
"""
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "['dualloss']"


@pytest.mark.parametrize(
    ("code", "needed", "blocked"),
    [
        (TORCH, ("torch",), ("tensorflow", "keras")),
        (TF, ("tensorflow", "keras"), ("torch",)),
        (NUMPY, (), ("tensorflow", "keras", "torch", "ml_dtypes")),
    ],
    ids=["torch", "tf", "numpy"],
)
def test_backend_computes_without_the_others(code: str, needed: tuple[str, ...], blocked: tuple[str, ...]) -> None:
    need(*needed)
    result = run(code, *blocked)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", ["torch", "numpy"])
def test_importing_one_backend_loads_no_other(module: str) -> None:
    """Not blocked, but not loaded either."""
    if module == "torch":
        need("torch")
    code = {"torch": "import dualloss.torch", "numpy": "import dualloss.exact"}[module]
    others = {"tensorflow", "keras"} | ({"torch"} if module == "numpy" else set())
    result = run(f"{code}\nprint(sorted({others} & set(sys.modules)))")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(("backend", "framework"), [("torch", "torch"), ("tf", "keras")])
def test_a_missing_framework_is_an_import_error_that_names_it(backend: str, framework: str) -> None:
    result = run(f"import dualloss.{backend}", framework, "tensorflow")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: dualloss.") and f"no module '{framework}'" in last
