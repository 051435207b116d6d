# SPDX-License-Identifier: MIT
"""The house stands as CONTRIBUTING tells it: layers, no circles, no names taken from behind a door, nothing too large."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "certcal_ext"

MOST_LINES, MOST_PARAMETERS = 80, 8

if not PACKAGE.is_dir():
    pytest.skip("no source tree beside the tests", allow_module_level=True)


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def typing_only(tree: ast.Module) -> set[int]:
    """The nodes under ``if TYPE_CHECKING``, which never run."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }


@cache
def imports() -> dict[str, set[tuple[str, str]]]:
    """Of each module the (module, name) pairs of the package that it takes, inside functions too."""
    result = {}
    for name, tree in modules().items():
        skipped, taken = typing_only(tree), set()
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.Import):
                taken |= {(item.name, "") for item in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for item in node.names:
                    whole = f"{node.module}.{item.name}"
                    taken.add((whole, "") if whole in modules() else (node.module, item.name))
        result[name] = {pair for pair in taken if pair[0] in modules() and pair[0] != name}
    return result


def layers() -> list[list[str]]:
    """The layers of CONTRIBUTING, lowest first."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- layers -->\n+((?:    .*\n)+)", text)
    assert block, "CONTRIBUTING.md: no block of layers after <!-- layers -->"
    return [line.split("#")[0].split() for line in block[1].splitlines()]


def room(module: str) -> str:
    """The folder or file at the top; the private files are one, and so is the package's own."""
    name = [*module.split("."), "certcal_ext"][1] if "." in module else "certcal_ext"
    return "_" if name.startswith("_") and name != "__main__" else name


def test_every_room_stands_in_one_layer() -> None:
    listed = [name for layer in layers() for name in layer]
    assert len(listed) == len(set(listed))
    assert {room(name) for name in modules()} == set(listed)


def test_imports_point_downwards() -> None:
    level = {name: at for at, layer in enumerate(layers()) for name in layer}
    upwards = [
        f"{name} imports {other}"
        for name, pairs in imports().items()
        for other, _ in pairs
        if room(name) != room(other) and level[room(other)] >= level[room(name)]
    ]
    assert not upwards, "\n".join(upwards)


def test_no_circle_between_files() -> None:
    graph = {name: {other for other, _ in pairs} for name, pairs in imports().items()}
    while True:  # takes away what imports nothing that is left
        ends = {name for name, others in graph.items() if not others & graph.keys()}
        if not ends:
            break
        graph = {name: others for name, others in graph.items() if name not in ends}
    assert not graph, f"circles among {sorted(graph)}"


def test_no_private_name_of_another_folder() -> None:
    taken = [
        f"{name} takes {other}.{item}"
        for name, pairs in imports().items()
        for other, item in pairs
        if item.startswith("_") and not item.startswith("__")
        if room(name) != room(other) and room(other) != "_"
    ] + [
        f"{name} takes {other}"
        for name, pairs in imports().items()
        for other, _ in pairs
        if other.count(".") > 1 and other.rsplit(".", 1)[1].startswith("_")
        if room(name) != room(other)
    ]
    assert not taken, "\n".join(taken)


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    return [
        (name, node)
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_no_function_is_long() -> None:
    long = [
        f"{name}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for name, node in functions()
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > MOST_LINES
    ]
    assert not long, "\n".join(long)


def test_no_function_has_many_parameters() -> None:
    many = []
    for name, node in functions():
        given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        count = sum(item.arg not in ("self", "cls") for item in given)
        if count > MOST_PARAMETERS:
            many.append(f"{name}.{node.name}: {count} parameters")
    assert not many, "\n".join(many)


def test_tests_mirror_the_source() -> None:
    tests = Path(__file__).parent
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert {path.name for path in tests.iterdir() if path.is_dir()} >= rooms
    for folder in rooms:
        modules_there = {path.stem for path in (PACKAGE / folder).glob("*.py")}
        for path in (tests / folder).glob("test_*.py"):
            subject = re.match(r"test_(_?[^_].*?)(__|$)", path.stem)
            assert subject, path
            assert subject[1] in modules_there, f"{path}: no module {folder}/{subject[1]}.py"
