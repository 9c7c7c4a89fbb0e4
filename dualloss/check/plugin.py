"""The fixture of pytest: installed with dualloss, it is there in every test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def assert_same_loss() -> Callable[..., Any]:
    """`assert_same_loss(a, b, case)`: fails with the report unless both losses agree; else returns the report.

    The arguments are those of :func:`dualloss.check.compare`.
    """
    from .compare import compare

    def check(a: Any, b: Any, case: Any = None, **options: Any) -> Any:
        __tracebackhide__ = True
        report = compare(a, b, case, **options)
        if not report.same:
            pytest.fail(report.text(), pytrace=False)
        return report

    return check
