"""The documentation: links lead somewhere, and the generated page is what its command writes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_a_page_without_headings_has_no_anchors(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("text\n\n## A `name`, and more\n")
    assert anchors(tmp_path / "page.md") == {"a-name-and-more"}


def terms() -> ModuleType:
    """benchmarks/terms.py, which is no package."""
    return script("terms")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_terms_is_what_its_command_writes() -> None:
    assert (ROOT / "docs" / "terms.md").read_text() == terms().page()


def test_every_option_has_a_description() -> None:
    module = terms()
    for term in module.TERMS.values():
        assert module.formula(term)
        assert all(text for _, _, text in module.options(term)), term


def test_the_table_of_causes_is_what_its_command_writes() -> None:
    pytest.importorskip("torch")
    assert script("compare").causes_table() in (ROOT / "docs" / "migration.md").read_text()
