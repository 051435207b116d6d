# SPDX-License-Identifier: MIT
"""Checks what nvcc makes of the kernels: registers, widths of loads and stores, rounding, and instructions.

Run with: python tools/check_ptxas.py [--arch 80 90 100 120] [--write]

Compiles ``csrc/cuda/*.cu`` with the flags of the build and exits with 1, naming the kernel, where

* ptxas reports a stack frame or a spill, or reports nothing;
* a vector kernel of the noise does not both load and store 16 bytes at a time;
* a float operation leaves its rounding to the assembler, which could then contract it, or approximates or
  flushes denormals: results would no longer have the bits of the CPU (but for the seed of a square root, which is rounded
  afterwards as nvcc rounds its own);
* Philox multiplies 64-bit numbers;
* an inner loop (``LOOPS``) has more instructions than ``tools/sass_budgets.json`` says for this architecture, narrower
  loads, or conversions; ``--write`` writes what there is.

Needs nvcc, and nvdisasm for the last; where one is missing, says what was not checked.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
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

#: The one approximation: what ``square_root`` of core/scalar.hpp begins with.
_SEED = "rsqrt.approx.ftz.f32"
#: A product of 64-bit numbers, one of which is a multiplier of Philox, in any of its spellings.
_WIDE_PHILOX = re.compile(
    r"\bmul(?:\.lo|\.hi)?\.[su]64[^;]*\b(?:3528531795|3449720151|-766435501|-845247145)\b"
)

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
    found = {match.group() for match in _NEVER.finditer(text)} - {_SEED}
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
    if _WIDE_PHILOX.search(text):
        faults.append("multiplies 64-bit numbers in Philox")
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


@dataclass(frozen=True)
class Loop:
    """An inner loop of some kernels.

    Attributes:
        name: of the loop.
        kernels: pattern of the readable names of its kernels.
        has: the smallest loop that has all of these operations is meant.
        never: pattern of operations that it must not have.
    """

    name: str
    kernels: str
    has: tuple[str, ...]
    never: str


_CONVERSION_SASS = r"I2F\b|F2I|F2F|FRND|D(?:ADD|MUL|FMA|SETP)\b"
_NARROW_LOAD = r"LDG\.E(?!\.128|\.ENL2)"
LOOPS = (
    # Some of it (products, keys) that does not depend on the draw is outside.
    Loop("draws", r"^add_noise_vector_kernel", ("MUFU.RSQ", "STG"), r"CALL.*\$|MUFU\.(?!RSQ)|F2I|LDG"),
    Loop(
        "vectors", r"^count_votes_kernel<32.*(?:Float16|float)", ("LDG", "MNMX"),
        f"{_CONVERSION_SASS}|{_NARROW_LOAD}",
    ),
    Loop("row", r"^count_votes_kernel<32.*(?:Float16|float)", ("REDUX", "LDG", "ATOMS", "MNMX"), r"CALL.*(?:div|rcp)"),
    Loop(
        "values", r"^score_histogram_kernel<32.*(?:Float16|float)", ("LDG", "FFMA", "FSETP", "SHF"),
        f"{_CONVERSION_SASS}|{_NARROW_LOAD}",
    ),
)  # fmt: skip
BUDGETS = Path(__file__).resolve().parent / "sass_budgets.json"

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_BRANCH = re.compile(r"^BRA\b.*`\((\.L_x_\d+)\)")


def find_nvdisasm(nvcc: str) -> str | None:
    """nvdisasm: named by NVDISASM, beside nvcc, on the PATH, or of the package nvidia-cuda-nvdisasm."""
    named = os.environ.get("NVDISASM")
    packages = [*Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin")]
    folders = [str(Path(nvcc).resolve().parent), *map(str, packages), "/usr/local/cuda/bin"]
    path = os.pathsep.join([os.environ.get("PATH", ""), *folders])
    return shutil.which(named) if named else shutil.which("nvdisasm", path=path)


def instructions_of(sass: str) -> Iterator[tuple[str, list[str], list[tuple[int, int]]]]:
    """The name, instructions and loops (first and last instruction) of each function of a disassembly."""
    for part in re.split(r"^\.text\.", sass, flags=re.MULTILINE)[1:]:
        instructions: list[str] = []
        labels: dict[str, int] = {}
        for line in part.splitlines():
            label, instruction = _LABEL.match(line), _INSTRUCTION.match(line)
            if label:
                labels[label.group(1)] = len(instructions)
            elif instruction:
                instructions.append(instruction.group(1))
        branches = [(k, _BRANCH.match(one)) for k, one in enumerate(instructions)]
        targets = [(labels.get(found.group(1)), k) for k, found in branches if found]
        loops = [(to, k) for to, k in targets if to is not None and to < k]
        yield part.split(":", 1)[0], instructions, loops


def smallest_loop(
    loop: Loop, instructions: list[str], loops: list[tuple[int, int]]
) -> list[str] | None:
    """The instructions of the smallest loop that has all that ``loop`` has."""
    bodies = (instructions[first : last + 1] for first, last in loops)
    fitting = [b for b in bodies if all(any(op in one for one in b) for op in loop.has)]
    return min(fitting, key=len, default=None)


def sass_faults(
    sass: str, budgets: dict[str, int] | None
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """What is wrong with the inner loops of a disassembly, by function, and how long they are.

    Args:
        sass: what nvdisasm prints.
        budgets: most instructions of each loop; None: any number.
    """
    faults: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for name, instructions, loops in instructions_of(sass):
        short = readable(name)
        for loop in LOOPS:
            if not re.search(loop.kernels, short):
                continue
            found, key = smallest_loop(loop, instructions, loops), f"{short}, {loop.name}"
            told = faults.setdefault(name, [])
            if found is None:
                told.append(f"has no loop with {', '.join(loop.has)}")
                continue
            counts[key] = len(found)
            wrong = sorted({one.split()[0] for one in found if re.match(loop.never, one)})
            told += [f"{loop.name}: {operation} in the inner loop" for operation in wrong]
            if budgets is not None and len(found) > budgets.get(key, 0):
                told.append(
                    f"{loop.name}: {len(found)} instructions, {budgets.get(key, 0)} are allowed"
                )
    return faults, counts


def square_root_faults(sass: str) -> list[str]:
    """What is wrong with nvcc's own sqrtf as the pattern of ``square_root``: its way without a branch must be the same."""
    for _, instructions, _ in instructions_of(sass):
        operations = [one.split()[0].split(".")[0] for one in instructions]
        if "MUFU" in operations:
            steps = [
                one for one in operations[operations.index("MUFU") :] if one in ("FMUL", "FFMA")
            ]
            if steps[:4] == ["FMUL", "FMUL", "FFMA", "FFMA"]:
                return []
            return [f"sqrtf is {' '.join(steps)} after its seed: is square_root still the same?"]
    return ["sqrtf has no seed: is square_root still the same?"]


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
    """The PTX of a source, and what ptxas reports about it; raises RuntimeError if nvcc fails.

    The machine code is left in ``folder`` as NAME.cubin.
    """
    ptx = folder / f"{source.stem}.ptx"
    cubin = folder / f"{source.stem}.cubin"
    log = ""
    for command in (
        [nvcc, "-ptx", f"-arch=compute_{arch}", *FLAGS, "-o", str(ptx), str(source)],
        [nvcc, "-cubin", f"-arch=sm_{arch}", *FLAGS, "-Xptxas", "-v", "-o", str(cubin), str(ptx)],
    ):
        log = output_of(command)
    return ptx.read_text(), log


def output_of(command: list[str]) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{run.stdout + run.stderr}")
    return run.stdout + run.stderr


def disassembled(nvdisasm: str, cubin: Path) -> str:
    return output_of([nvdisasm, "-c", str(cubin)])


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


def checked(
    nvcc: str, nvdisasm: str | None, arch: str, budgets: dict[str, int] | None
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """All functions for one architecture with their faults, and the lengths of the inner loops."""
    faults: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for source in sorted(SOURCES.glob("*.cu")):
            faults |= faults_of(*compiled(nvcc, source, arch, folder))
            if nvdisasm is not None:
                found, loops = sass_faults(
                    disassembled(nvdisasm, folder / f"{source.stem}.cubin"), budgets
                )
                counts |= loops
                for name, reasons in found.items():
                    faults.setdefault(name, []).extend(reasons)
        if nvdisasm is not None:
            root = folder / "root.cu"
            root.write_text("__global__ void root(float* x) { *x = sqrtf(*x); }\n")
            compiled(nvcc, root, arch, folder)
            faults["sqrtf"] = square_root_faults(disassembled(nvdisasm, folder / "root.cubin"))
    if not any(VECTOR_KERNELS.search(name) for name in faults):
        faults["(any)"] = [f"no kernel is named {VECTOR_KERNELS.pattern}: was it renamed?"]
    return faults, counts


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks what nvcc makes of the kernels.")
    parser.add_argument("--arch", nargs="+", default=["90"], help="without the point")
    parser.add_argument("--write", action="store_true", help="the lengths of the inner loops")
    asked = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        print("check_ptxas: skipped, nvcc was not found")
        return 0
    nvdisasm = find_nvdisasm(nvcc)
    if nvdisasm is None:
        print("check_ptxas: instructions were not counted, nvdisasm was not found")
    budgets = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}
    failed = False
    for arch in asked.arch:
        allowed = None if asked.write else budgets.get(f"sm_{arch}", {})
        faults, counts = checked(nvcc, nvdisasm, arch, allowed)
        for name, reasons in faults.items():
            for reason in reasons:
                print(f"check_ptxas: {readable(name)}: {reason}")
        bad = sum(bool(reasons) for reasons in faults.values())
        print(
            f"check_ptxas: {len(faults)} functions for sm_{arch}, {len(counts)} inner loops counted, {bad} with faults"
        )
        failed |= bool(bad)
        if asked.write and counts:
            budgets[f"sm_{arch}"] = dict(sorted(counts.items()))
    if asked.write:
        BUDGETS.write_text(json.dumps(dict(sorted(budgets.items())), indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
