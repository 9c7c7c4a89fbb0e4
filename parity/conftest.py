"""Settings that must stand before a framework is imported, and the ways to run a function."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from modes import NAMES, Mode, make  # after the settings


@pytest.fixture(params=NAMES, scope="module")
def mode(request: pytest.FixtureRequest) -> Iterator[Mode]:
    """Every framework, eager and compiled."""
    yield make(request.param)
