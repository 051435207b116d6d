# SPDX-License-Identifier: MIT
"""``certcal doctor``: what was built, what is found at run time, why a GPU is or is not used."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from certcal_ext.cli import _common, _options
from certcal_ext.cli._tables import print_json
from certcal_ext.cli._unfold import unfolded

EXAMPLES = _common.examples(
    ("What is installed and what it can do here", "certcal doctor"),
    ("The same for a bug report", "certcal doctor --json"),
)
_LIBRARIES = [
    "numpy",
    "scipy",
    "pyarrow",
    "highspy",
    "typer",
    "rich",
    "jinja2",
    "matplotlib",
    "torch",
]


@unfolded
def doctor(as_json: _options.Json = False) -> None:
    """Says what was built, what is found at run time, and why a GPU is or is not used.

    Exits 2, with the command that rebuilds it, where the compiled module is missing or does not
    load.
    """
    facts = examine()
    if as_json:
        print_json(facts)
    else:
        _print(facts)
    if not facts["compiled_module"]["loaded"]:
        if as_json:
            _common.note(f"certcal: error: {facts['compiled_module']['error']}")
        raise typer.Exit(_common.BAD_INPUT)


def examine() -> dict[str, Any]:
    """Everything the command shows, in sections; never raises because something is missing.

    Example:
        >>> sorted(examine())
        ['compiled_module', 'cpu', 'gpu', 'libraries', 'python']
    """
    compiled, core = _compiled_module()
    return {
        "python": {
            "version": platform.python_version(),
            "executable": sys.executable,
            "platform": platform.platform(),
        },
        "compiled_module": compiled,
        "cpu": _cpu(core),
        "gpu": _gpu(core),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _compiled_module() -> tuple[dict[str, Any], Any]:
    try:
        from certcal_ext._load import load_core

        core = load_core()
    except ImportError as error:
        return {"loaded": False, "error": " ".join(str(error).split())}, None
    path = str(Path(core.__file__).resolve()) if core.__file__ else None
    return {"loaded": True, "version": core.__version__, "file": path, **core.build_info()}, core


def _cpu(core: Any) -> dict[str, Any]:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {"cores": available}
    if core is not None:
        from certcal_ext._threads import num_threads

        facts |= {"threads": num_threads(), "simd": list(core.simd_paths())}
    return facts


def _gpu(core: Any) -> dict[str, Any]:
    """Whether a GPU is used, in one sentence why, and what the module and torch see."""
    status: dict[str, Any] = {} if core is None else dict(core.cuda_status())
    try:
        import torch

        torch_cuda, torch_sees = torch.version.cuda, torch.cuda.is_available()
    except ImportError:
        torch_cuda, torch_sees = None, False
    reason = why_no_gpu(status, torch_cuda, torch_sees)
    return {
        "used": reason is None,
        "reason": reason or "models and images on a CUDA device stay there",
        "devices": status.get("devices", []),
        "driver": _driver(status.get("driver")),
        "torch_cuda": torch_cuda,
        "torch_sees_gpu": torch_sees,
    }


def why_no_gpu(status: dict[str, Any], torch_cuda: str | None, torch_sees: bool) -> str | None:
    """The first reason, from the build outwards, why no GPU is used; None where one is.

    Args:
        status: what the compiled module's ``cuda_status`` says; empty where it does not load.
        torch_cuda: the CUDA version that torch was built for, or None.
        torch_sees: whether torch can use a GPU.

    Returns:
        The reason with its remedy, or None.

    Example:
        >>> why_no_gpu({"compiled": True, "driver": None, "devices": []}, None, False)
        'there is no NVIDIA driver on this machine'
    """
    if not status:
        return "the compiled module does not load"
    if not status["compiled"]:
        return (
            "this build has no CUDA part: rebuild where nvcc is found, with CERTCAL_CUDA=ON "
            "in the environment"
        )
    if status["driver"] is None:
        return "there is no NVIDIA driver on this machine"
    if not status["devices"]:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        beside = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES={hidden!r})"
        return f"the driver shows no GPU{beside}: {status['error'] or 'none installed'}"
    if torch_cuda is None:
        return "torch is not installed, or is a build for CPUs only, so models run on the CPU"
    if not torch_sees:
        return f"torch, built for CUDA {torch_cuda}, cannot use the GPU: is the driver too old?"
    return None


def _driver(version: int | None) -> str | None:
    """The CUDA version that the driver speaks, from 1000 * major + 10 * minor."""
    return None if version is None else f"CUDA {version // 1000}.{version % 1000 // 10}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _print(facts: dict[str, Any]) -> None:
    for section, values in facts.items():
        typer.secho(section.replace("_", " "), bold=True)
        width = max(map(len, values))
        for name, value in values.items():
            typer.echo(f"{name.replace('_', ' '):<{width}} {_text(value)}")
        typer.echo()


def _text(value: Any) -> str:
    if value is None:
        return "not found"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_text(item)}" for name, item in value.items())
    return str(value)
