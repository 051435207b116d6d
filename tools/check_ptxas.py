# SPDX-License-Identifier: MIT
"""Checks what nvcc makes of the kernels: registers, widths of loads and stores, rounding.

Run with: python tools/check_ptxas.py [--arch 90]

Compiles ``csrc/cuda/*.cu`` with the flags of the build and exits with 1, naming the kernel, where

* ptxas reports a stack frame or a spill, or reports nothing;
* a vector kernel of the noise does not both load and store 16 bytes at a time;
* a float operation leaves its rounding to the assembler, which could then contract it, or approximates or
  flushes denormals: results would no longer have the bits of the CPU.

Needs nvcc only. Without it, says so and exits with 0.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "csrc" / "cuda"
FLAGS = ("-std=c++17", "-O3", "--fmad=false")

#: Kernels, by mangled name, whose loads of images and stores of draws must be 16 bytes wide.
VECTOR_KERNELS = re.compile(r"\d+add_noise_vector_kernel")
WIDE_LOAD = re.compile(r"\bld\.global(?:\.\w+|::\w+)*\.(?:v4\.[fbsu]32|v2\.[fbsu]64)\b")
WIDE_STORE = re.compile(r"\bst\.global(?:\.\w+|::\w+)*\.(?:v4\.[fbsu]32|v2\.[fbsu]64)\b")

_FLOAT = r"(?:f32|f64|f16|f16x2|bf16|bf16x2|f32x2)"
#: Arithmetic whose result is rounded: ``add.rn.f32`` is fixed, ``add.f32`` may become part of an fma.
_ROUNDED = re.compile(rf"\b(?:add|sub|mul|fma|mad|div|sqrt|rcp)(?:\.\w+)*\.{_FLOAT}\b")
_ROUNDING = re.compile(r"\.(?:rn|rz|rm|rp)\b")
#: A conversion to float, or between float formats; from integers and to narrower floats it rounds.
_CONVERSION = re.compile(rf"\bcvt(?:\.\w+)*\.{_FLOAT}\.\w+\b")
_WIDENING = re.compile(r"\.(?:f64\.f32|f64\.f16|f32\.f16|f32\.bf16|f64\.bf16)$")
_NEVER = re.compile(rf"\b\w+(?:\.\w+)*\.(?:approx|ftz|full)(?:\.\w+)*\.{_FLOAT}\b")

_ENTRY = re.compile(r"^\s*(?:\.visible\s+|\.weak\s+)?\.(entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)")


def find_nvcc() -> str | None:
    """The nvcc that CMake would find."""
    named = os.environ.get("CUDACXX")
    if named and shutil.which(named):
        return shutil.which(named)
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    folders = [f"{home}/bin" for home in homes if home]
    path = os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    return shutil.which("nvcc", path=path)


def functions_of(ptx: str) -> Iterator[tuple[str, str, str]]:
    """The kind (entry or func), name and text of each function of a PTX file."""
    kind, name = "", ""
    lines: list[str] = []
    for line in ptx.splitlines():
        found = _ENTRY.match(line)
        if found:
            if name:
                yield kind, name, "\n".join(lines)
            kind, name, lines = found.group(1), found.group(2), []
        elif name:
            lines.append(line)
    if name:
        yield kind, name, "\n".join(lines)


def unfixed_operations(text: str) -> list[str]:
    """The float operations in PTX whose result is not fixed to the last bit, each once."""
    found = {match.group() for match in _NEVER.finditer(text)}
    for match in _ROUNDED.finditer(text):
        if not _ROUNDING.search(match.group()):
            found.add(match.group())
    for match in _CONVERSION.finditer(text):
        fixed = re.search(r"\.(?:rn|rz|rm|rp|rni|rzi|rmi|rpi)\b", match.group())
        if not fixed and not _WIDENING.search(match.group()):
            found.add(match.group())
    return sorted(found)


def ptx_faults(name: str, text: str) -> list[str]:
    """What is wrong with one function of a PTX file."""
    faults = [f"{operation} has no fixed rounding" for operation in unfixed_operations(text)]
    if VECTOR_KERNELS.search(name):
        if not WIDE_LOAD.search(text):
            faults.append("loads no 16 bytes at a time")
        if not WIDE_STORE.search(text):
            faults.append("stores no 16 bytes at a time")
    return faults


def resource_faults(log: str) -> dict[str, list[str]]:
    """For each function that ``ptxas -v`` reports: stack frame and spills, if it has any."""
    faults: dict[str, list[str]] = {}
    name = None
    for line in log.splitlines():
        properties = re.search(r"Function properties for (\S+)", line)
        if properties:
            name = properties.group(1)
            continue
        sizes = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        )
        if sizes and name is not None:
            frame, stores, loads = (int(size) for size in sizes.groups())
            faults[name] = []
            if frame:
                faults[name].append(f"has a stack frame of {frame} bytes")
            if stores or loads:
                faults[name].append(f"spills ({stores} bytes of stores, {loads} of loads)")
            name = None
    return faults


def readable(name: str) -> str:
    """The name without mangling, where c++filt is there."""
    # nvcc names an unnamed namespace after the file: the number before it is that name's length.
    unnamed = re.search(r"(\d+)(?=_GLOBAL__N__)", name)
    if unnamed:
        after = unnamed.end() + int(unnamed.group())
        name = name[: unnamed.start()] + "12_GLOBAL__N_1" + name[after:]
    if shutil.which("c++filt") is None:
        return name
    run = subprocess.run(["c++filt", name], capture_output=True, text=True, check=False)
    full = (run.stdout.strip() or name).replace("(anonymous namespace)::", "")
    return re.sub(r"certcal::|^void |\(.*$", "", full)


def compiled(nvcc: str, source: Path, arch: str, folder: Path) -> tuple[str, str]:
    """The PTX of a source, and what ptxas reports about it; raises RuntimeError if nvcc fails."""
    ptx = folder / f"{source.stem}.ptx"
    cubin = folder / f"{source.stem}.cubin"
    log = ""
    for command in (
        [nvcc, "-ptx", f"-arch=compute_{arch}", *FLAGS, "-o", str(ptx), str(source)],
        [nvcc, "-cubin", f"-arch=sm_{arch}", *FLAGS, "-Xptxas", "-v", "-o", str(cubin), str(ptx)],
    ):
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        log = run.stdout + run.stderr
        if run.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{log}")
    return ptx.read_text(), log


def faults_of(ptx: str, log: str) -> dict[str, list[str]]:
    """Every function of a source with its faults, none for a good one."""
    reported = resource_faults(log)
    faults = {}
    for kind, name, text in functions_of(ptx):
        faults[name] = ptx_faults(name, text)
        if kind == "entry":
            faults[name] += reported.get(name, ["is not in the report of ptxas"])
    for name in reported.keys() - faults.keys():
        faults[name] = reported[name]
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks what nvcc makes of the kernels.")
    parser.add_argument("--arch", default="90", help="compute capability, without the point")
    arch = parser.parse_args().arch
    nvcc = find_nvcc()
    if nvcc is None:
        print("check_ptxas: skipped, nvcc was not found")
        return 0
    sources = sorted(SOURCES.glob("*.cu"))
    faults: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for source in sources:
            faults |= faults_of(*compiled(nvcc, source, arch, Path(folder)))
    if not any(VECTOR_KERNELS.search(name) for name in faults):
        faults["(any)"] = [f"no kernel is named {VECTOR_KERNELS.pattern}: was it renamed?"]
    for name, reasons in faults.items():
        for reason in reasons:
            print(f"check_ptxas: {readable(name)}: {reason}")
    bad = sum(bool(reasons) for reasons in faults.values())
    print(
        f"check_ptxas: {len(faults)} functions of {len(sources)} files for sm_{arch}, {bad} with faults"
    )
    return 1 if bad or not sources else 0


if __name__ == "__main__":
    sys.exit(main())
