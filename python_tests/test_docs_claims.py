# SPDX-License-Identifier: MIT
"""Every sentence of the documentation that promises something is listed with what it rests on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "check_claims.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_claims", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_promise_is_listed_with_what_it_rests_on(tool: ModuleType) -> None:
    """``python tools/check_claims.py --write`` adds what is new, for you to say what it rests on."""
    claims = tool.listed()
    assert tool.problems(claims) == []
    assert sum(map(len, claims.values())) > 100


def test_a_new_sentence_fails_until_it_is_listed(tool: ModuleType, tmp_path: Path) -> None:
    claims = tool.listed()
    (tmp_path / "docs").mkdir()
    for page in tool.pages():
        copy = tmp_path / page.relative_to(tool.ROOT)
        copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "python_tests").symlink_to(tool.ROOT / "python_tests")
    (tmp_path / "bench").symlink_to(tool.ROOT / "bench")
    assert tool.problems(claims, tmp_path) == []
    page = tmp_path / "docs" / "faq.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text + "\nAttacks *never* succeed. Cats sleep.\n", encoding="utf-8")
    assert tool.problems(claims, tmp_path) == ["docs/faq.md: not listed: Attacks *never* succeed."]
    page.write_text(text.replace("exactly Gaussian", "exactly normal"), encoding="utf-8")
    changed = [line.split(": ")[1] for line in tool.problems(claims, tmp_path)]
    assert sorted(changed) == ["listed and gone", "not listed"]


def test_what_counts_as_a_sentence(tool: ModuleType) -> None:
    text = """# Never

> **Bold.** It holds
> with probability 1. "Always?" Yes.

* one. Two is exact
  to the last bit.
* three

| a | guaranteed |
|---|---|
| always | b |

```python
always = "never"
```
"""
    assert tool.sentences(text) == [
        "# Never",
        "**Bold.** It holds with probability 1.",
        '"Always?" Yes.',
        "Two is exact to the last bit.",
        "| a | guaranteed |",
        "| always | b |",
    ]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("", "rests on nothing"),
        ("we believe so", "rests on nothing"),
        ("theorem 99", "no such theorem"),
        ("section 99", "no such section"),
        ("test_bounds::test_that_is_not_there", "no such test"),
        ("test_nowhere::test_bounds_are_ordered", "no such test"),
        ("doc: faq.md#no-such-heading", "no such place"),
        ("measured: bench/results/nothing.json", "no such measurement"),
        ("theorem 5; theorem 0", "no such theorem"),
        ("says nothing: x", "says nothing"),
    ],
)
def test_a_reason_has_to_exist(tool: ModuleType, reason: str, words: str) -> None:
    page, known = next(iter(tool.listed().items()))
    lines = tool.problems({**tool.listed(), page: dict.fromkeys(known, reason)})
    assert len(lines) == len(known)
    assert all(words in line for line in lines)
