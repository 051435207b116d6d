#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sentences of the documentation that promise something, and the list that says what each of them rests on.

A sentence with "guarantee", "probability", "exact", "never" or "always" in README.md or docs/*.md stands in
``python_tests/data/claims.json`` with its reason, one of

* ``theorem 5`` or ``section 7`` of docs/theory.md;
* ``test_bounds::test_name``, a test that would fail if it were false;
* ``doc: page.md#heading``, a proof or a measurement that stands there;
* ``source: ...``, a published theorem;
* ``measured: bench/results/ece.json``, a committed measurement;
* ``says nothing: ...``, a definition, a question, or a name, and which.

Several are joined by "; ". Usage: ``python tools/check_claims.py`` prints what is not listed, what is listed and gone, and
what rests on nothing; ``--write`` brings the list up to date: new sentences with an empty reason, for you to fill in.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "python_tests" / "data" / "claims.json"
WORDS = re.compile(r"\b(guarantee\w*|probabilit\w*|exact\w*|never|always)\b", re.IGNORECASE)
_FENCE = re.compile(r"^\s*(```|~~~)[^\n]*\n.*?^\s*\1\s*$", flags=re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[*\-|#>]|\d+\. ))")
_REASONS = ("theorem ", "section ", "test_", "doc: ", "source: ", "measured: ", "says nothing: ")


def pages(root: Path = ROOT) -> list[Path]:
    """README.md and the pages of the documentation."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def sentences(text: str) -> list[str]:
    """The sentences of a page that promise something, with single spaces; code is left out, a row of a table is one."""
    found = []
    quoted = re.sub(r"^> ?", "", _FENCE.sub("", text), flags=re.MULTILINE)
    for block in _BLOCK.split(quoted):
        words = " ".join(block.split())
        parts = (
            [words] if words.startswith("|") else re.split(r"(?<=[.!?])\s+(?=[\"*`\[(A-Z])", words)
        )
        found += [part for part in parts if WORDS.search(part)]
    return list(dict.fromkeys(found))


def listed() -> dict[str, dict[str, str]]:
    """By page, the reason of each sentence."""
    stored: dict[str, dict[str, str]] = json.loads(LIST.read_text(encoding="utf-8"))
    return stored


def problems(claims: dict[str, dict[str, str]], root: Path = ROOT) -> list[str]:
    """What is wrong with the list, a line each."""
    lines = []
    here = {
        page.relative_to(root).as_posix(): sentences(page.read_text(encoding="utf-8"))
        for page in pages(root)
    }
    for page, found in here.items():
        known = claims.get(page, {})
        lines += [f"{page}: not listed: {sentence}" for sentence in found if sentence not in known]
        lines += [
            f"{page}: listed and gone: {sentence}" for sentence in known if sentence not in found
        ]
        for sentence, reason in known.items():
            lines += [f"{page}: {fault}: {sentence}" for fault in _faults(reason, root)]
    lines += [f"{page}: listed and no page" for page in claims if page not in here]
    return lines


def _faults(reason: str, root: Path) -> list[str]:
    """What is wrong with a reason."""
    theory = (root / "docs" / "theory.md").read_text(encoding="utf-8")
    faults = []
    for one in reason.split("; "):
        if not one.startswith(_REASONS):
            faults.append(f"rests on nothing known ({one!r})")
        elif one.startswith("theorem "):
            if not re.search(rf"^### Theorem {re.escape(one[8:])}\b", theory, re.MULTILINE):
                faults.append(f"no such theorem ({one!r})")
        elif one.startswith("section "):
            if not re.search(rf"^## {re.escape(one[8:])}\. ", theory, re.MULTILINE):
                faults.append(f"no such section ({one!r})")
        elif one.startswith("doc: "):
            page, _, heading = one[5:].partition("#")
            if not (root / "docs" / page).is_file() or heading not in _anchors(
                root / "docs" / page
            ):
                faults.append(f"no such place ({one!r})")
        elif one.startswith("test_"):
            file, _, name = one.partition("::")
            path = next(iter((root / "python_tests").rglob(f"{file}.py")), None)
            if path is None or not re.search(
                rf"^def {re.escape(name)}\(", path.read_text("utf-8"), re.MULTILINE
            ):
                faults.append(f"no such test ({one!r})")
        elif one.startswith("measured: "):
            if not (root / one[10:]).is_file():
                faults.append(f"no such measurement ({one!r})")
        elif len(one.split(": ", 1)[1]) < 4:
            faults.append(f"says nothing ({one!r})")
    return faults


def _anchors(page: Path) -> set[str]:
    """What links can point to on a page; the page itself, too."""
    headings = re.findall(
        r"^#+ (.*)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    )
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading) for heading in headings)
    return {"", *(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain)}


def main() -> int:
    """Prints the problems, or writes the list anew."""
    claims = listed() if LIST.exists() else {}
    if "--write" in sys.argv[1:]:
        renewed = {}
        for page in pages():
            name = page.relative_to(ROOT).as_posix()
            found = sentences(page.read_text(encoding="utf-8"))
            if found:
                renewed[name] = {
                    sentence: claims.get(name, {}).get(sentence, "") for sentence in found
                }
        LIST.write_text(json.dumps(renewed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        claims = renewed
    lines = problems(claims)
    print(
        "\n".join(lines)
        if lines
        else f"{sum(map(len, claims.values()))} sentences, each with what it rests on"
    )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
