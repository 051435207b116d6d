# SPDX-License-Identifier: MIT
"""Every reader of files as a function of bytes, for the fuzzer (tools/fuzz) and for the replay of what it found.

A reader may give back what it read, or raise ValueError, TypeError or OSError whose message names the file. Some targets
take the bytes as they are; where a container would hide a mutation behind its checksums, they are made into one first
(``made_...``), so that what is inside is mutated.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BENCH = Path(__file__).resolve().parents[1] / "bench"


class Finding(AssertionError):
    """A reader did what none may do."""


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        suffix: of the file that it reads.
        read: the reader, and what is done with a result.
        made: what becomes of the bytes before they are written.
        seeds: inputs to start from.
    """

    suffix: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    made: Callable[[bytes], bytes] = bytes


def run(target: Target, data: bytes, folder: Path) -> str:
    """The reader's answer to these bytes: "read", or the message with which it refused them.

    Raises:
        Finding: it raised something else, or its message does not name the file.
    """
    path = folder / f"fuzzed{target.suffix}"
    path.write_bytes(target.made(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", UserWarning)  # the package's own advice
            target.read(path)
    except (ValueError, TypeError, OSError) as error:
        if path.name not in str(error):
            raise Finding(f"the message does not name the file: {error!r}") from error
        return str(error)
    except Exception as error:
        raise Finding(f"{type(error).__name__}: {error}") from error
    return "read"


# ---- bytes to containers ----------------------------------------------------------------------------------------------


class _Bytes:
    """Reads values off the front of bytes; zeros come after their end."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        head, self.data = self.data[:size], self.data[size:]
        return head.ljust(size, b"\0")

    def below(self, count: int) -> int:
        return self.take(1)[0] % count

    def integer(self) -> int:
        return int(struct.unpack("<q", self.take(8))[0])

    def real(self) -> float:
        return float(struct.unpack("<d", self.take(8))[0])

    def text(self) -> bytes:
        return self.take(self.below(40))


_DTYPES = ("|u1", "<i8", "<f4", "<f8", "|O", "|b1", "<c16", "<U3", "|V2", "<M8[s]", "<u8", ">f2")
_NAMES = ("images", "labels", "label", "counts", "sigma", "n")


def made_npz(data: bytes, names: tuple[str, ...] = _NAMES) -> bytes:
    """A zip archive of arrays whose headers claim what the bytes say."""
    held, stream = _Bytes(data), io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names[: 1 + held.below(len(names))]:
            kind = held.below(8)
            if kind == 7:
                continue
            shape = tuple(
                abs(held.integer()) if held.below(16) == 0 else held.below(7)
                for _ in range(held.below(6))
            )
            dtype = _DTYPES[held.below(len(_DTYPES))]
            text = repr({"descr": dtype, "fortran_order": held.below(2) == 1, "shape": shape})
            if kind == 6:
                text = held.text().decode("latin-1")
            header = text.encode("latin-1") + b"\n"
            body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
            size = held.below(256) * (1 if kind else 8)
            payload = held.take(min(size, len(held.data)))
            how = zipfile.ZIP_DEFLATED if kind == 5 else zipfile.ZIP_STORED
            archive.writestr(f"{name}.npy", body + payload.ljust(size, b"\1"), how)
    return stream.getvalue()


_TABLE_NAMES = (
    "lower",
    "upper",
    "correct",
    "label",
    "predicted",
    "radius",
    "norm",
    "votes",
    "n",
    "counts",
    "sigma",
)


def made_arrays(data: bytes) -> bytes:
    """The same with the names of intervals, votes, logs and counts, some of them in front."""
    names = _TABLE_NAMES[data[0] % len(_TABLE_NAMES) :] if data else _TABLE_NAMES
    return made_npz(data[1:], names)


def made_frame(data: bytes) -> bytes:
    """A Parquet file without provenance, of columns and types that the bytes choose."""
    held, columns = _Bytes(data), {}
    rows = 1 + held.below(4)
    for _ in range(1 + held.below(6)):
        name = (*_TABLE_NAMES, "p_lower", "p_upper", "index", "time")[held.below(15)]
        kind = (pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.list_(pa.int64()))[
            held.below(5)
        ]
        cells = [
            held.text().decode("latin-1") if kind == pa.string() else _cell(held, kind)
            for _ in range(rows)
        ]
        columns[name] = pa.array(cells, kind)
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def made_text(data: bytes) -> bytes:
    """Text in one of the encodings and packings that are read, as the first byte says."""
    import gzip

    if not data:
        return data
    text = data[1:].decode("utf-8", "replace")
    encodings = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be")
    encoded = text.encode(encodings[data[0] % 4], "surrogatepass")
    return gzip.compress(encoded, 1, mtime=0) if data[0] & 4 else encoded


def made_idx(data: bytes) -> bytes:
    """Plain or packed idx, as the first byte says."""
    import gzip

    return gzip.compress(data[1:], 1, mtime=0) if data[:1] == b"z" else data[1:]


def made_torch(data: bytes) -> bytes:
    """A torch archive whose pickle is these bytes, beside the two storages that the seeds have."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
        for key, size in enumerate((16, 8)):
            archive.writestr(f"archive/data/{key}", bytes(size))
    return stream.getvalue()


def made_table(data: bytes) -> bytes:
    """A certificates' file with a right digest, in which some values of the table or of the provenance are replaced."""
    from certcal_ext.certificates.table import SCHEMA

    held = _Bytes(data)
    table, text = _table(held.below(4))
    stored = json.loads(text)
    for _ in range(held.below(5)):
        what, names = held.below(4), table.schema.names
        name = names[held.below(len(names))]
        if what == 0:
            keys = sorted(stored)
            stored[keys[held.below(len(keys))]] = _json_value(held)
        elif what == 1 and name in SCHEMA.names:
            column = table.column(name).to_pylist()
            column[held.below(len(column))] = _cell(held, SCHEMA.field(name).type)
            kind = SCHEMA.field(name).type
            table = table.set_column(
                names.index(name), pa.field(name, kind), pa.array(column, kind)
            )
        elif what == 2:
            table = table.drop_columns([name]) if len(names) > 1 else table
        else:
            table = table.slice(0, held.below(len(table) + 1))
            if not len(table):
                break
    encoded = json.dumps(stored).encode()
    if held.below(8) == 7:
        encoded = held.data
    return _parquet(table, encoded)


def _json_value(held: _Bytes) -> Any:
    kind = held.below(9)
    known = (None, True, -1, 0, 1e308, "votes", "l2", [], {}, "scores", "log", "intervals", 2**70)
    if kind < 4:
        return known[held.below(len(known))]
    if kind == 4:
        return held.integer()
    if kind == 5:
        return held.real()
    if kind == 6:
        return held.text().decode("latin-1")
    return json.dumps({"format": held.below(3), "kind": held.text().decode("latin-1")})


def _cell(held: _Bytes, kind: pa.DataType) -> Any:
    if held.below(4) == 0:
        return None
    if pa.types.is_list(kind):
        return [held.integer() >> held.below(64) for _ in range(held.below(5))]
    if pa.types.is_boolean(kind):
        return held.below(2) == 1
    if pa.types.is_floating(kind):
        return held.real()
    return held.integer() >> held.below(64)


def _certificates(which: int) -> Any:
    import certcal_ext as cc

    counts, labels = [[90, 10], [30, 70], [100, 0]], [0, 0, 0]
    if which == 0:
        return cc.Certificates.from_counts(counts, labels, 0.25, keep_counts=True)
    if which == 1:
        return cc.Certificates.from_intervals([1, 0], [0.1, 0.2], [0.3, 0.4], radius=1.5)
    if which == 2:
        return cc.Certificates.from_scores(
            [[10, 90], [50, 50]], [0.8, 0.5], [90, 50], [0, 1], [0, 1], 0.25
        )
    return cc.Certificates.from_votes([90, 30], 100, [0, 1], None, 0.25)


def _table(which: int) -> tuple[pa.Table, str]:
    made = _certificates(which)
    return made.table, made.with_provenance(created="2026-01-01T00:00:00").provenance.to_json()


def _parquet(table: pa.Table, text: bytes) -> bytes:
    from certcal_ext.certificates.table import _DIGEST_KEY, _METADATA_KEY, _digest

    stream = io.BytesIO()
    keys = {_METADATA_KEY: text, _DIGEST_KEY: _digest(text, len(table))}
    pq.write_table(table.replace_schema_metadata(keys), stream, write_page_checksum=True)
    return stream.getvalue()


# ---- readers ----------------------------------------------------------------------------------------------------------


def _read_log(path: Path) -> None:
    import certcal_ext as cc

    cc.Certificates.from_cohen_log(path, sigma=0.25, n=100_000, alpha=0.001)


def _read_counts(path: Path) -> None:
    import certcal_ext as cc

    cc.Certificates.from_npz(path, sigma=None)


def _read_file(path: Path) -> None:
    import certcal_ext as cc

    for options in (
        {},
        {"sigma": 0.25, "n": 100_000},
        {"interval_radius": 0.5, "interval_norm": "linf"},
    ):
        try:
            made = cc.Certificates.from_file(path, **options)
        except (ValueError, TypeError, OSError) as error:
            refused = error
            continue
        if not ((len(made) and made.provenance.source == str(path)) or made.provenance.kind):
            raise Finding("certificates without rows or source")
        return
    raise refused


def _read_parquet(path: Path) -> None:
    import certcal_ext as cc

    made = cc.Certificates.from_parquet(path)
    # What was accepted can be written and read again, and is then the same.
    again = path.with_name("again.parquet")
    made.to_parquet(again)
    stored = cc.Certificates.from_parquet(again)
    if not (stored == made or _holds_nan(made)):
        raise Finding("what was written is not what was read")
    for use in (lambda: made.ece([0.0, 0.1]), lambda: made.bound("brier", 0.1, delta=0.01)):
        try:
            use()
        except (ValueError, TypeError) as error:
            if not str(error):
                raise Finding("an error without words") from error


def _holds_nan(made: Any) -> bool:
    columns = (made.table.column(name) for name in ("confidence", "p_lower", "p_upper"))
    return any(np.isnan(column.drop_null().to_numpy()).any() for column in columns)


def _read_images(path: Path) -> None:
    from certcal_ext.datasets import load_images

    data = load_images(path)
    if data.images.dtype != np.float32 or data.images.ndim != 4:
        raise Finding(f"images of {data.images.dtype} {data.images.shape}")
    if not (data.images.min() >= 0 and data.images.max() <= 1):
        raise Finding("pixels outside [0, 1]")
    if data.labels is not None and (len(data.labels) != len(data.images) or data.labels.min() < 0):
        raise Finding("labels that do not fit")


def _read_weights(path: Path) -> None:
    from certcal_ext.models import load_model

    load_model("fuzz_targets:small_net", path)


def small_net() -> Any:
    """The model that weights are loaded into."""
    import torch

    return torch.nn.Linear(2, 2)


def _read_checkpoint(path: Path) -> None:
    from certcal_ext.training.checkpoint import Checkpoint

    Checkpoint.load(path)


def _read_attack(path: Path) -> None:
    from certcal_ext.attacks.result import AttackResult

    AttackResult.from_parquet(path)


def _read_config(path: Path) -> None:
    from certcal_ext.cli._config import read_options

    wanted = {"sigma": float, "n": int, "radii": str, "out": Path, "metric": list[str]}
    read_options(path, "bound", {**wanted, "joint": str, "json": bool}, {"bound", "certify"})


def _read_plan(path: Path) -> None:
    if str(BENCH) not in sys.path:
        sys.path.append(str(BENCH))
    from experiment_plan import read_plan

    try:
        read_plan(path)
    except UnicodeError:
        raise
    except ValueError as error:  # names the part of the one plan that a run has
        raise ValueError(f"{path}: {error}") from error


# ---- where the fuzzer starts ------------------------------------------------------------------------------------------

_LOG = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.377\t1\t0:00:14\n2\t1\t-1\t0.0\t0\t1 day, 2:00:14\n"
_INTERVALS = "correct,lower,upper\n1,0.5,0.75\nTrue,0.25,1\n0,0,1e-3\n"
_RECORDS = (
    '{"correct": [1, 0], "lower": [0.5, 0.25], "upper": [0.75, 1.0], "norm": "l1", "eps": 0.5}',
    '[{"label": 1, "predict": 1, "radius": 0.50}, {"label": 1, "predict": -1, "radius": 0}]',
    '{"votes": [9], "n": [10], "predicted": [0], "sigma": 0.5}\n',
    '{"columns": ["lower", "upper", "correct"], "data": [[0.1, 0.2, true]]}',
    '{"counts": [[9, 1], [2, 8]], "y": [0, 1], "sigma": 0.25}',
    '{"provenance": {"format": 3, "kind": "intervals", "package_version": "", "created": ""}, "rows": [{"index": 0, '
    '"p_lower": 0.1, "p_upper": 0.2, "correct": true}]}',
)
_PLAN = """name = "tiny"
result = "r"
seeds = [0]
alpha = 0.001
bins = 10
within = 0.05
least_accuracy = 0.05
reference = "a"
[datasets.digits]
model = "m:f"
sigma = 0.25
training = 2
validation = 4
test = 6
radii = [0.0]
n0 = 2
n = 20
validation_n = 10
batch_size = 10
[[datasets.digits.runs]]
name = "a"
method = "smoothadv"
options = { steps = 1 }
candidates = [{ radius = 0.1 }]
"""
_CONFIG = (
    'sigma = 0.25\nmetric = ["ece"]\n[bound]\nradii = [0, 0.25]\nout = "x"\n[certify]\nn = 3\n'
)


def _npz_seeds() -> list[bytes]:
    """As ``made_npz`` takes them: how many names, then of each kind, shape, dtype, order, size and content."""
    skip = [7]
    image = [1, 4, 1, 1, 1, 1, 1, 2, 1, 2, 0, 0, 4, 0, 80, 160, 255]
    label = [5, 1, 1, 1, 1, 0, 8, 3, *bytes(7)]
    counts = [1, 2, 1, 2, 1, 2, 1, 0, 32, *b"".join(struct.pack("<q", k) for k in (9, 1, 2, 8))]
    sigma = [1, 0, 3, 0, 8, *struct.pack("<d", 0.25)]
    return [
        bytes([0, *image]),
        bytes([1, *image, *label]),
        bytes([4, *skip, *skip, *skip, *counts, *sigma]),
    ]


def _idx_seeds() -> list[bytes]:
    plain = b"\0\0\x08\x03" + struct.pack(">3I", 2, 2, 2) + bytes(8)
    return [b"p" + plain, b"z" + plain, b"p\0\0\x0d\x03" + struct.pack(">3I", 1, 1, 1) + bytes(4)]


def _file_seeds() -> list[bytes]:
    texts = (
        _LOG,
        _INTERVALS,
        _LOG.replace("\t", ","),
        _INTERVALS.replace(",", ";"),
        "# x\nlower upper correct\n0 1 1\n",
    )
    return [bytes([kind]) + text.encode() for kind, text in enumerate((*texts, _LOG, _INTERVALS))]


def _array_seeds() -> list[bytes]:
    """As ``made_arrays`` takes them: lower, upper and correct; and label, predicted and radius."""

    def array(dtype: int, kind: str, values: tuple[float, ...]) -> bytes:
        return bytes([1, 1, 1, len(values), dtype, 0, 8 * len(values)]) + struct.pack(
            f"<{len(values)}{kind}", *values
        )

    ends = array(3, "d", (0.25, 0.5)) + array(3, "d", (0.5, 0.75))
    whole = array(1, "q", (1, 0))
    return [
        bytes([0, 2]) + ends + whole,
        bytes([3, 2]) + whole + whole + array(3, "d", (0.5, 0.25)),
    ]


def _frame_seeds() -> list[bytes]:
    """As ``made_frame`` takes them: two rows of lower, upper and correct."""
    ends = [
        bytes([at, 1]) + b"".join(b"\1" + struct.pack("<d", value) for value in pair)
        for at, pair in enumerate(((0.25, 0.5), (0.5, 0.75)))
    ]
    return [bytes([1, 2]) + ends[0] + ends[1] + bytes([2, 2, 1, 1, 1, 0]), bytes(range(90))]


def _parquet_seeds() -> list[bytes]:
    return [made_table(bytes([which])) for which in range(4)]


def _table_seeds() -> list[bytes]:
    changed = [bytes([which, 3]) + bytes(range(which, 30 + which)) for which in range(4)]
    return [bytes(1), *changed]


def _attack_seeds() -> list[bytes]:
    from certcal_ext.attacks.result import _COLUMNS, _FORMAT, _METADATA_KEY

    stored = {"format": _FORMAT, "attack": "a", "draws": 1, "fresh": True, "settings": {}}
    schema = pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in _COLUMNS.items()],
        metadata={_METADATA_KEY: json.dumps(stored).encode()},
    )
    columns = [pa.array([0, 1]).cast(kind) for kind in _COLUMNS.values()]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), stream, compression="none")
    return [stream.getvalue()]


def _pickle_of(value: Any) -> bytes:
    """The pickle inside what torch writes for a value."""
    import torch

    stream = io.BytesIO()
    torch.save(value, stream)
    with zipfile.ZipFile(stream) as archive:
        name = next(item for item in archive.namelist() if item.endswith("data.pkl"))
        return archive.read(name)


def _torch_seeds() -> list[bytes]:
    import torch

    images = {"images": torch.zeros(1, 1, 2, 2), "labels": torch.zeros(1, dtype=torch.int64)}
    return [
        _pickle_of(images),
        _pickle_of((torch.zeros(1, 2, 2), torch.zeros(1, dtype=torch.int64))),
        _pickle_of(small_net().state_dict()),
        pickle.dumps({"a": [1, (2.5, None)]}, 2),
    ]


def _checkpoint_seeds() -> list[bytes]:
    import torch

    held: dict[str, Any] = {
        "certcal_training": 1,
        "state_dict": {"weight": torch.zeros(4)},
        "position": {"epoch": 1, "batch": 0},
        "random": [{"cpu": torch.zeros(8, dtype=torch.uint8)}],
        "seconds": 1.5,
    }
    for name in ("optimizer", "scheduler", "objective", "run", "history"):
        held[name] = {}
    return [_pickle_of(held), *_torch_seeds()]


TARGETS: dict[str, Target] = {
    "log": Target(".tsv", _read_log, lambda: [_LOG.encode(), _LOG.replace("\n", "\r\n").encode()]),
    "counts": Target(".npz", _read_counts, _npz_seeds, made_npz),
    "file": Target(".txt", _read_file, _file_seeds, made_text),
    "json": Target(".json", _read_file, lambda: [text.encode() for text in _RECORDS]),
    "arrays": Target(".npz", _read_file, _array_seeds, made_arrays),
    "frame": Target(".parquet", _read_file, _frame_seeds, made_frame),
    "parquet": Target(".parquet", _read_parquet, _parquet_seeds),
    "table": Target(".parquet", _read_parquet, _table_seeds, made_table),
    "attack": Target(".parquet", _read_attack, _attack_seeds),
    "config": Target(".toml", _read_config, lambda: [_CONFIG.encode()]),
    "plan": Target(".toml", _read_plan, lambda: [_PLAN.encode()]),
    "idx": Target(".idx", _read_images, _idx_seeds, made_idx),
    "npz": Target(".npz", _read_images, _npz_seeds, made_npz),
    "zip": Target(".npz", _read_images, lambda: [made_npz(seed) for seed in _npz_seeds()]),
    "torch": Target(".pt", _read_images, _torch_seeds, made_torch),
    "torch_file": Target(".pt", _read_images, lambda: [made_torch(s) for s in _torch_seeds()]),
    "weights": Target(".pt", _read_weights, _torch_seeds, made_torch),
    "checkpoint": Target(".pt", _read_checkpoint, _checkpoint_seeds, made_torch),
}
