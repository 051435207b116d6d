# SPDX-License-Identifier: MIT
"""The documentation: links, figures, commands and the reference are complete, and the site builds without a warning."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

import certcal_ext
from certcal_ext.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^(```|~~~)[^\n]*\n.*?^\1\s*$", flags=re.DOTALL | re.MULTILINE)
COMMANDS: Any = typer.main.get_command(app)
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # typer brings its own click in later versions
REFERENCE = "\n".join(
    page.read_text(encoding="utf-8") for page in sorted((DOCS / "api").glob("*.rst"))
)

SUBMODULES = (
    "attacks",
    "interop.art",
    "interop.export",
    "interop.frames",
    "interop.models",
    "metrics.torchmetrics_adapter",
    "nets",
    "report",
    "runs",
    "training",
)


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def anchors(page: Path) -> set[str]:
    """What links can point to, made as forges make it: lower case, hyphens, no other punctuation."""
    headings = re.findall(
        r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    )
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> list[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_and_figures_exist(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One thing: `f(x)`\n[a](page.md#one-thing-fx) [b](#another) ![c](no.svg) [d](https://x.y)\n"
        "```text\n[e](nowhere.md)\n```\n"
    )
    assert broken_links(page) == ["#another", "no.svg"]


def test_every_figure_is_used_and_every_page_is_in_the_contents() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [f.name for f in sorted((DOCS / "figures").iterdir()) if f.name not in text] == []
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"```\{toctree\}\n(?::.*\n)*\n((?:.+\n)+?)```", index)
    entries = {entry for block in listed for entry in block.split()}
    expected = {page.stem for page in DOCS.glob("*.md")} - {"README", "index"}
    assert entries == expected | {"api/index"}


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page, each with its language."""
    found: list[tuple[str, str]] = []
    fence, language, inside = "", "", []
    for line in text.splitlines():
        opening = re.match(r"(`{3,}|~{3,})(.*)", line)
        if not fence and opening:
            fence, language, inside = opening[1], opening[2].strip(), []
        elif fence and line.rstrip() == fence:
            found.append((language, "\n".join(inside)))
            fence = ""
        else:
            inside.append(line)
    return found


def commands(text: str) -> list[list[str]]:
    """Each ``certcal`` command of the shell blocks, as words, without comments and prompts."""
    found = []
    for language, block in blocks(text):
        if language not in ("", "bash", "sh", "shell", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if not re.search(r"^(\$ )?certcal |-m (-- )?certcal_ext ", line):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            quoted = [word for word in words if " certcal_ext " in word]  # bash -c '...'
            words = shlex.split(quoted[0]) if quoted else words
            name = "certcal" if words[0] == "certcal" else "certcal_ext"
            found.append(words[words.index(name) + 1 :])
    return found


def complaint(words: list[str]) -> str | None:
    """What the command line would say about these words, None where it takes them; ``...`` stands for any options."""
    if not words or words[0].startswith("-"):
        own = {"--help", "-h", "--version", "--install-completion", "--show-completion"}
        return None if set(words) <= own else f"unknown option among {words}"
    if words[0] not in COMMANDS.commands:
        return f"no subcommand {words[0]}"
    command = COMMANDS.commands[words[0]]
    cut = words.index("...") if "..." in words else None
    rest = words[1:cut]
    parser = command.make_parser(typer.Context(command, info_name=words[0]))
    try:
        given, left, _ = parser.parse_args(rest)
    except USAGE_ERROR as error:
        return str(error.format_message())
    if left:
        return f"extra words: {left}"
    if cut is not None or given.get("help") or given.get("config") is not None:
        return None
    missing = [
        str(item.name) for item in command.params if item.required and not given.get(item.name)
    ]
    return f"missing: {', '.join(missing)}" if missing else None


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_commands_are_known(page: Path) -> None:
    found = commands(page.read_text(encoding="utf-8"))
    wrong = {shlex.join(words): complaint(words) for words in found}
    assert {line: said for line, said in wrong.items() if said is not None} == {}


def test_there_are_commands_and_wrong_ones_are_found() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len({words[0] for words in commands(text) if words}) >= 5
    block = (
        "```bash\ncertcal bound a.npz --radii 0,1 # why\ncertcal bound --no-such-option \\\n  a.npz\n"
        "torchrun -m -- certcal_ext nothing a\nsrun bash -c 'python -m certcal_ext demo --quick'\n"
        "certcal certify --sigma 1\nls\n```\n"
    )
    said = [complaint(words) for words in commands(block)]
    assert said[0] is None
    assert "no-such-option" in str(said[1])
    assert said[2] == "no subcommand nothing"
    assert said[3] is None
    assert str(said[4]).startswith("missing: ")


@pytest.mark.parametrize("name", [name for name in certcal_ext.__all__ if name != "__version__"])
def test_public_names_are_in_the_reference(name: str) -> None:
    assert re.search(rf"^\.\. auto\w+:: (?:[\w.]+\.)?{name}$", REFERENCE, re.MULTILINE), name


@pytest.mark.parametrize("name", SUBMODULES)
def test_public_submodules_are_in_the_reference(name: str) -> None:
    module = importlib.import_module(f"certcal_ext.{name}")
    for public in module.__all__:
        found = re.search(rf"^\.\. auto\w+:: (?:[\w.]+\.)?{public}$", REFERENCE, re.MULTILINE)
        assert found or public.isupper(), f"certcal_ext.{name}.{public}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for needed in ("sphinx", "myst_parser", "furo", "sphinx_copybutton"):
        pytest.importorskip(needed, reason='needs "certcal_ext[docs]"', exc_type=ImportError)
    options = ["-W", "--keep-going", "-n", "-q", "-b", "html"]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "site")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site" / "api" / "certificates.html").read_text(encoding="utf-8")
    assert 'id="certcal_ext.Certificates.bound"' in page
    assert not re.findall(
        r'(?:src|href)="(?:https?:)?//[^"]*\.(?:js|css|woff2?)', page
    )  # works offline
