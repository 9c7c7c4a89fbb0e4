"""The examples: each script runs, and what they rely on holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def _examples_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def run(script: str, *arguments: str, where: Path) -> str:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, cwd=where, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_both_trainings_run_and_agree(tmp_path: Path) -> None:
    """Its trainings are those of train_torch.py and train_keras.py."""
    out = tmp_path / "out"
    assert " 0 of 180,226 values differ" in run("same_bits.py", "--quick", "--out", str(out), where=tmp_path)
    files = {"PyTorch.npz", "Keras.npz", "loss_curves.png", "predictions.png"}
    assert {file.name for file in out.iterdir()} == files
    ours, theirs = (np.load(out / f"{name}.npz")["losses"] for name in ("PyTorch", "Keras"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.parametrize("script", ["train_torch.py", "train_keras.py"])
def test_a_training_starts_as_a_script(script: str, tmp_path: Path) -> None:
    assert "--quick" in run(script, "--help", where=tmp_path)


def test_nets_start_out_equal() -> None:
    images = import_module("scenes").Scenes("train", 4).batch(0)[0]
    in_torch, in_keras = import_module("unet_torch").UNet(), import_module("unet_keras").unet()
    for training in (False, True):
        in_torch.train(training)
        with torch.no_grad():
            ours = in_torch(torch.from_numpy(images[:, None])).movedim(1, -1).numpy()
        theirs = in_keras(images[..., None], training=training).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_scenes_repeat() -> None:
    scenes = import_module("scenes")
    images, classes = scenes.Scenes("train", 3).batch(5)
    again, classes_again = scenes.Scenes("train", 3).batch(5)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(classes, classes_again)
    assert not np.array_equal(images, scenes.Scenes("train", 3).batch(6)[0])
    assert images.shape == classes.shape == (3, 64, 64)
    assert set(np.unique(classes)) <= set(range(11))


def test_held_out_digits_are_not_trained_on() -> None:
    scenes = import_module("scenes")
    train, held_out = ({image.tobytes() for image in scenes.digits(split)[0]} for split in ("train", "held-out"))
    assert len(train) + len(held_out) == 1797
    assert train.isdisjoint(held_out)


def test_low_iou_fails(tmp_path: Path) -> None:
    common = import_module("common")
    settings = common.Settings(out=tmp_path, held_out=20)
    truth = settings.held_out_scenes[1]
    assert common.finish(settings, "PyTorch", [1.0], truth).iou == 1
    with pytest.raises(SystemExit, match=r"PyTorch: mean IoU 0\.\d+ .* below the required 0\.80"):
        common.finish(settings, "PyTorch", [1.0], np.zeros_like(truth))


def test_the_wrong_port_is_mended(tmp_path: Path) -> None:
    said = run("migrate.py", "--html", "reports", where=tmp_path)
    first, *_, last = re.split(r"^Round \d: ", said, flags=re.MULTILINE)[1:]
    assert all(name in first for name in ("[37] padding", "[42] reads", "[48] the difference of Laplacians"))
    assert "No difference found: " in last
    assert {file.name for file in (tmp_path / "reports").iterdir()} == {f"round{k}.html" for k in (1, 2, 3, 4)}
