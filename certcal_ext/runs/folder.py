# SPDX-License-Identifier: MIT
"""The work folder of a run: a manifest that says which run it is, and the shards that are done."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certcal_ext._files import replacing
from certcal_ext.certificates.provenance import created_now
from certcal_ext.runs.shards import SHARD_NAME, DamagedShard, counts_of, shard_bytes, shard_of
from certcal_ext.runs.units import Layout, Unit
from certcal_ext.smoothing.draws import Request
from certcal_ext.smoothing.sampling import Counts

MANIFEST, _LOCK = "manifest.json", "lock"
_FORMAT = 1

#: What file systems say that have no locks; a run is safe without, only two at once are then not told apart.
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)


@dataclass(frozen=True)
class Manifest:
    """Which run a folder belongs to.

    Attributes:
        problem: everything that fixes the result, by name.
        layout: how requests are cut into units.
        created: when the run was first started, ISO 8601.
    """

    problem: dict[str, Any]
    layout: Layout
    created: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all, in hexadecimal: two runs that share it can share shards."""
        return hashlib.sha256(_canonical(dataclasses.asdict(self))).hexdigest()

    def to_json(self) -> str:
        """What is stored; it has a digest of itself."""
        stored = {"format": _FORMAT, **dataclasses.asdict(self)}
        return json.dumps({**stored, "digest": self.fingerprint}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: bytes, path: Path) -> Manifest:
        """Reads what ``to_json`` wrote.

        Raises:
            ValueError: something else, or a damaged one.
        """
        expected = f"{path}: expected the manifest of a run"
        try:
            stored = json.loads(text)
            if stored["format"] > _FORMAT:
                raise ValueError(f"format {stored['format']}, this version knows {_FORMAT}")
            made = cls(stored["problem"], Layout(**stored["layout"]), stored["created"])
            if stored["digest"] != made.fingerprint:
                raise ValueError("it was changed")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{expected}, which cannot be read: {error}") from error
        return made


class WorkFolder:
    """The files of a run. The first process opens it; the others are told its manifest.

    Args:
        path: the folder.
        manifest: of the run.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._run = manifest.fingerprint
        self._names: dict[str, dict[str, list[str]]] = {}

    def look(self) -> None:
        """Looks which shards are there.

        Raises:
            ValueError: the folder is gone, or not the one that the first process made.
        """
        if not (self.path / MANIFEST).is_file():
            raise ValueError(
                f"work: {self.path} has no manifest here; expected a folder that all processes share"
            )
        self._names = {}
        for name in _shards_in(self.path):
            request, row, draw, _, _ = name.split(".")
            units = self._names.setdefault(request, {})
            units.setdefault(f"{row}.{draw}", []).append(name)

    @property
    def empty(self) -> bool:
        """Whether there is no shard yet."""
        return not _shards_in(self.path)

    def write(self, request: Request, unit: Unit, counts: Counts) -> None:
        """Keeps what a unit's draws gave; nobody ever sees half of it.

        Raises:
            OSError: the disk refuses.
        """
        name, content = shard_bytes(self._run, request, unit, counts)
        try:
            with replacing(self.path / name) as file:
                file.write(content)
        except OSError as error:
            raise OSError(
                f"work: {self.path / name} cannot be written ({error.strerror or error}); the shards "
                "before it are kept, so the run can be resumed"
            ) from error

    def read(self, request: Request, unit: Unit) -> Counts | None:
        """What a unit's draws gave, as of the last ``look``; None where they are still to be taken.

        Raises:
            ValueError: a shard of another run, of other draws, or two of the same.

        Warns:
            UserWarning: a damaged shard, whose draws are then taken again.
        """
        names = self._names.get(request.name, {}).get(str(unit), [])
        held = []
        for name in names:
            try:
                note, table = shard_of((self.path / name).read_bytes(), name)
            except DamagedShard:
                warnings.warn(
                    f"work: {self.path / name} is damaged; its draws are taken again", stacklevel=2
                )
                continue
            self._require_own(name, note, request, unit)
            held.append(counts_of(table))
        if len(held) > 1:
            raise ValueError(
                f"work: expected one shard of {request.name}.{unit}, got {' and '.join(names)}, which "
                "differ; remove one"
            )
        return held[0] if held else None

    def _require_own(self, name: str, note: dict[str, Any], request: Request, unit: Unit) -> None:
        if note.get("run") != self._run:
            raise ValueError(
                f"work: {self.path / name} is a shard of another run (its fingerprint differs); "
                "remove it, or take another folder"
            )
        if (note.get("request"), note.get("unit")) != (request.digest, str(unit)):
            raise ValueError(
                f"work: {self.path / name} holds other draws than its name says; remove it"
            )

    def require_no_others(self, request: Request, units: list[Unit]) -> None:
        """Refuses shards of the request's draws that are none of its units.

        Raises:
            ValueError: there is one: some of its draws would be counted twice.
        """
        known = set(map(str, units))
        for unit, names in self._names.get(request.name, {}).items():
            if unit not in known:
                raise ValueError(
                    f"work: {self.path / names[0]} overlaps the units of this run; remove it, or take "
                    "another folder"
                )


def open_folder(
    path: Path, problem: dict[str, Any], resume: bool, layout: Any
) -> tuple[WorkFolder, Any]:
    """Opens a run's folder, or begins it.

    Args:
        path: the folder; its parent has to exist.
        problem: everything that fixes the result, by name, as JSON has it.
        resume: go on where shards are there.
        layout: called for the layout where the run begins here.

    Returns:
        The folder, and what holds its lock while it is kept.

    Raises:
        ValueError: shards are there and ``resume`` is False, they are those of another problem (what differs is named), the
            folder holds other things, or another run is at work in it.
        OSError: the disk refuses.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"work: expected a folder, got the file {path}")
    if not path.parent.is_dir():
        raise ValueError(f"work: there is no folder {path.parent}")
    file = path / MANIFEST
    if not file.is_file() and _shards_in(path):
        raise ValueError(f"work: {path} has shards and no {MANIFEST}; take another folder")
    if path.is_dir() and not file.is_file() and any(not _is_ours(name) for name in path.iterdir()):
        raise ValueError(f"work: expected a new or empty folder or that of a run, got {path}")
    path.mkdir(exist_ok=True)
    lock = _locked(path)
    try:
        manifest = _manifest_in(path, problem, resume, layout)
    except BaseException:
        lock.close()
        raise
    return WorkFolder(path, manifest), lock


def _manifest_in(path: Path, problem: dict[str, Any], resume: bool, layout: Any) -> Manifest:
    """The manifest that is there and fits, or a new one where nothing was finished."""
    file = path / MANIFEST
    for left in path.glob(".*.tmp"):  # of processes that were killed while they wrote
        left.unlink()
    if file.is_file() and _shards_in(path):
        if not resume:
            raise ValueError(
                f"work: {path} has the finished part of a run; go on with it (resume), remove it, or "
                "take another folder"
            )
        manifest = Manifest.from_json(file.read_bytes(), file)
        _require_same(path, manifest.problem, problem)
        return manifest
    manifest = Manifest(problem, layout(), created_now())
    with replacing(file) as out:
        out.write(manifest.to_json().encode())
    return manifest


def remove_work(path: str | os.PathLike[str]) -> None:
    """Removes the folder of a run whose result is safe elsewhere; only a run's own files go.

    Args:
        path: the folder; it stays where it holds other files. None there is no error.
    """
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        return
    for name in [*_shards_in(folder), MANIFEST, _LOCK]:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _require_same(path: Path, stored: dict[str, Any], given: dict[str, Any]) -> None:
    names = sorted(stored.keys() | given.keys())
    unlike = [name for name in names if stored.get(name) != given.get(name)]
    if unlike:
        words = "; ".join(
            f"{name}: {_short(stored.get(name))} there, {_short(given.get(name))} now"
            for name in unlike
        )
        raise ValueError(f"work: {path} belongs to another run, which differs in {words}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."


def _locked(path: Path) -> Any:
    """An open file that only one process can hold; it is free again when its holder ends, however it ends."""
    file = open(path / _LOCK, "wb")  # noqa: SIM115 - it stays open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ValueError(f"work: another run is at work in {path}") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            file.close()
            raise
    return file


def _shards_in(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    return sorted(filter(SHARD_NAME.fullmatch, os.listdir(path)))


def _is_ours(path: Path) -> bool:
    return path.name == _LOCK or (path.name.startswith(".") and path.name.endswith(".tmp"))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's type, shape and values, in hexadecimal."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
