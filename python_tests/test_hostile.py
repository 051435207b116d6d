# SPDX-License-Identifier: MIT
"""Files of an attacker: none runs code, none allocates what it only claims, and pages escape what is in them.

A payload is a pickle that would create a file. That it was not created is what shows that nothing ran; that the same bytes
do create it when they are unpickled shows that the payload works.
"""

from __future__ import annotations

import dataclasses
import gzip
import html.parser
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import certcal_ext as cc
from certcal_ext.certificates.readers import read_counts
from certcal_ext.datasets import load_images, load_torch_file
from certcal_ext.models import load_model

HERE = Path(__file__).resolve().parent


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "created by the payload"


def test_the_payload_works(target: Path) -> None:
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.exists()


# ---- code ---------------------------------------------------------------------------------------------------------------


def torch_files(target: Path) -> dict[str, bytes]:
    """What torch.save writes for a payload, in both of its formats and deep inside, and a bare pickle."""
    torch = pytest.importorskip("torch")
    files = {"pickle": pickle.dumps(Payload(target))}
    for name, new in (("archive", True), ("legacy", False)):
        for place, held in (
            ("alone", Payload(target)),
            ("inside", {"state_dict": {"weight": torch.zeros(2), "hidden": Payload(target)}}),
        ):
            stream = io.BytesIO()
            torch.save(held, stream, _use_new_zipfile_serialization=new)
            files[f"{name}, {place}"] = stream.getvalue()
    return files


FORMS = ["pickle", "archive, alone", "archive, inside", "legacy, alone", "legacy, inside"]


@pytest.mark.parametrize("form", FORMS)
def test_weights_run_no_code(form: str, tmp_path: Path, target: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(torch_files(target)[form])
    with pytest.raises(ValueError, match=r"weights\.pt.*cannot be"):
        load_model("fuzz_targets:small_net", path)
    with pytest.raises(ValueError, match=r"weights\.pt.*cannot be"):
        load_torch_file(path)
    assert not target.exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_runs_no_code(form: str, tmp_path: Path, target: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(torch_files(target)[form])
    from certcal_ext.training.checkpoint import Checkpoint

    with pytest.raises(ValueError, match=r"last\.pt.*cannot be"):
        Checkpoint.load(path)
    assert not target.exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", ["data", "labels"])
def test_images_and_labels_run_no_code(form: str, which: str, tmp_path: Path, target: Path) -> None:
    path, good = tmp_path / "hostile.pt", tmp_path / "good.npz"
    path.write_bytes(torch_files(target)[form])
    np.savez(good, images=np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"hostile\.pt.*cannot be"):
        load_images(*((path, None) if which == "data" else (good, path)))
    assert not target.exists()


@pytest.mark.parametrize("name", ["images", "labels", "counts", "label", "sigma"])
def test_an_npz_runs_no_code(name: str, tmp_path: Path, target: Path) -> None:
    held: dict[str, Any] = {
        "images": np.zeros((1, 2, 2), np.uint8),
        "labels": np.zeros(1, np.int64),
        "counts": np.array([[9, 1]]),
        "label": np.zeros(1, np.int64),
        "sigma": np.array(0.5),
    }
    held[name] = np.array([Payload(target)], dtype=object)
    path = tmp_path / "hostile.npz"
    np.savez(path, **held)
    read = load_images if name in ("images", "labels") else read_counts
    with pytest.raises(ValueError, match=r"hostile\.npz.*holds object and no numbers"):
        read(path)
    assert not target.exists()


def test_a_table_runs_no_code(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "hostile.parquet"
    path.write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(ValueError, match=r"hostile\.parquet"):
        cc.Certificates.from_parquet(path)
    assert not target.exists()


# ---- memory -------------------------------------------------------------------------------------------------------------


def claimed_npz(shape: str, content: bytes, dtype: str = "|u1", name: str = "images") -> bytes:
    """An archive with one array whose header says what it is given."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content
        archive.writestr(f"{name}.npy", body)
    return stream.getvalue()


def claimed_size(archive: bytes, size: int) -> bytes:
    """The same archive, whose directory says that its one file has so many bytes."""
    at = archive.index(b"PK\x01\x02")
    changed = bytearray(archive)
    changed[at + 24 : at + 28] = struct.pack("<I", size)
    return bytes(changed)


def expanded_tensor() -> bytes:
    """A tensor of 10^12 numbers that are all the same one in memory."""
    torch = pytest.importorskip("torch")
    stream = io.BytesIO()
    torch.save(torch.zeros(1).expand(10**6, 1, 1000, 1000), stream)
    return stream.getvalue()


def unpacks_to_more() -> bytes:
    """Packed idx of one image of 2 x 2, and 400 MB of zeros after it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(b"\0\0\x08\x03" + struct.pack(">3I", 1, 2, 2) + bytes(4))]
    parts += [packer.compress(bytes(4_000_000)) for _ in range(100)]
    return b"".join([*parts, packer.flush()])


BOMBS: dict[str, tuple[str, Any]] = {
    "an array of 10^12": ("x.npz", lambda: claimed_npz("(1000000, 1000, 1000)", bytes(8))),
    "an array of 10^12 strings of no length": (
        "x.npz",
        lambda: claimed_npz("(1000000, 1000, 1000)", b"", "<U0"),
    ),
    "a negative size": ("x.npz", lambda: claimed_npz("(-1, -1000000, 1000000)", bytes(8))),
    "a directory that claims 4 GB": (
        "x.npz",
        lambda: claimed_size(claimed_npz("(4000000000, 1, 1)", bytes(8)), 4_000_000_068),
    ),
    "idx of 10^12": ("x.idx", lambda: b"\0\0\x08\x03" + struct.pack(">3I", 10**6, 1000, 1000)),
    "packed idx of 10^12": (
        "x.gz",
        lambda: gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 10**6, 1000, 1000) + bytes(99)),
    ),
    "a gzip file that unpacks to far more than its header says": ("x.gz", unpacks_to_more),
    "a tensor of 10^12 in one number": ("x.pt", expanded_tensor),
}

#: Reads a file with at most so much memory more than is taken already; prints the error that it gives.
CHILD = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from certcal_ext.datasets import load_images
if sys.argv[1].endswith(".pt"):
    import torch
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 200_000_000,) * 2)
try:
    load_images(sys.argv[1])
except ValueError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("bomb", BOMBS)
def test_what_a_file_only_claims_is_not_allocated(bomb: str, tmp_path: Path) -> None:
    name, content = BOMBS[bomb]
    path = tmp_path / name
    path.write_bytes(content())
    assert path.stat().st_size < 1_000_000
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(HERE)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    assert "allocate" not in done.stdout


def test_counts_that_are_only_claimed(tmp_path: Path) -> None:
    path = tmp_path / "votes.npz"
    path.write_bytes(claimed_npz("(1000000, 1000000)", bytes(16), "<i8", "counts"))
    with pytest.raises(ValueError, match=r"votes\.npz.*claims 8000000000000 bytes"):
        read_counts(path)


def claimed_table(rows: int) -> pa.Table:
    """Certificates of so many rows that are all the same, without labels' bits, which take room, with their provenance."""
    made = cc.Certificates.from_counts([[90, 10]], None, sigma=0.25)
    columns = []
    for field in made.table.schema:
        kept = pa.scalar(None) if field.name == "correct" else made.table.column(field.name)[0]
        columns.append(pa.repeat(kept, rows) if kept.is_valid else pa.nulls(rows, field.type))
    table = pa.Table.from_arrays(columns, schema=made.table.schema)
    return table.replace_schema_metadata({b"certcal": made.provenance.to_json().encode()})


def test_a_table_of_rows_that_are_only_claimed(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = claimed_table(1_000_000)
    pq.write_table(table, path)
    assert len(cc.Certificates.from_parquet(path)) == 1_000_000
    # Few large pages, with nothing beside the values.
    wide = {"write_statistics": False, "data_page_size": 2**30, "max_rows_per_page": 10**9}
    with pq.ParquetWriter(path, table.schema, **wide) as writer:
        for _ in range(10):
            writer.write_table(table)
    assert path.stat().st_size < 10_000_000 / 350
    with pytest.raises(ValueError, match=r"rows\.parquet.*it claims 10000000 rows"):
        cc.Certificates.from_parquet(path)


def test_certificates_of_many_classes_are_read(tmp_path: Path) -> None:
    """As far as honest tables can be packed: of each row one class of a thousand has all votes."""
    counts = np.zeros((3000, 1000), np.int64)
    counts[:, 7] = 1000
    made = cc.Certificates.from_counts(counts, None, 0.25, keep_counts=True)
    path = tmp_path / "many.parquet"
    made.to_parquet(path)
    assert path.stat().st_size < counts.size / 60
    assert cc.Certificates.from_parquet(path) == made


def test_a_column_that_is_not_needed_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "column.parquet"
    table = claimed_table(1000)
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["x" * 1_000_000])
    pq.write_table(table.append_column("long", long), path)
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match=r"column\.parquet.*got long"):
        cc.Certificates.from_parquet(path)
    assert pa.total_allocated_bytes() - before < 1_000_000


@pytest.mark.parametrize("key", [b"certcal", b"other"])
def test_deep_json_is_an_error_and_no_crash(key: bytes, tmp_path: Path) -> None:
    made = cc.Certificates.from_counts([[90, 10]], None, sigma=0.25)
    path = tmp_path / "deep.parquet"
    deep = b"[" * 100_000
    pq.write_table(made.table.replace_schema_metadata({key: deep}), path)
    with pytest.raises(ValueError, match=r"deep\.parquet.*(JSON|provenance)"):
        cc.Certificates.from_parquet(path)
    with pytest.raises(ValueError, match="JSON"):
        cc.RecalibrationMap.from_json(deep)


# ---- a stream of samples in constant memory -----------------------------------------------------------------------------

STREAM = """
import resource, sys
import numpy as np
import certcal_ext as cc
random = np.random.default_rng(0)
states = [cc.EceTable(bins=15), cc.EceState(), cc.BrierState(), cc.LogLossState(0.01), cc.KsState(), cc.RiskCoverageState()]
ends = np.sort(random.random((2, 300_000)), axis=0)
right = random.random(300_000) < 0.7
def step():
    for state in states:
        state.update(right, *ends)
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(int(sys.argv[1])):
    step()
print(states[0].rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is counted in kB on Linux")
def test_memory_does_not_grow_with_the_samples() -> None:
    """Three million samples of 17 bytes are 51 MB; the most that was ever held grows by less than 4 MB."""
    done = subprocess.run(
        [sys.executable, "-c", STREAM, "10"], capture_output=True, text=True, check=True
    )
    rows, grown = map(int, done.stdout.split())
    assert rows == 12 * 300_000
    assert grown < 4_000


# ---- pages and tables ---------------------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&|`$(touch x)\n# |"


class Elements(html.parser.HTMLParser):
    """All elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def is_harmless(page: str, plain: str) -> None:
    """The hostile words are in the page as words: no kind of element, attribute or script comes with them."""
    seen, expected = Elements(page), Elements(plain)
    assert "alert(1)" in page
    assert set(seen.tags) == set(expected.tags)
    for tag in ("script", "style", "img", "a", "link", "iframe", "form", "meta"):
        assert seen.tags.count(tag) == expected.tags.count(tag), tag
    assert {name for name, _ in seen.attributes} == {name for name, _ in expected.attributes}
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert "<img src=x" not in page
    assert "<script>alert" not in page


def attack_page(words: str) -> str:
    """The page of an attack in which every text comes from elsewhere."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from certcal_ext.report.attack_page import render_attack_report

    weights = torch.arange(12.0).reshape(4, 3) / 12
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    with torch.no_grad():
        model[1].weight.copy_(weights.T)
        model[1].bias.zero_()
    images = torch.linspace(0, 1, 24).reshape(6, 1, 2, 2)
    result = cc.BrierAttack(radius=0.1, steps=2).run(model, images, np.zeros(6, np.int64))
    result = dataclasses.replace(
        result,
        attack=words,
        settings={
            **{
                name: words if isinstance(value, str) and name != "norm" else value
                for name, value in result.settings.items()
            },
            words: words,
        },
    )
    ends = cc.Certificates.from_intervals(result.correct, np.zeros(6), np.ones(6), 0.1, norm="l2")
    bound = cc.compare_with_bound(ends.with_provenance(source=words, notes=(words,)), [result])
    return render_attack_report(result, bound=bound, title=words)


def certificates_page(words: str) -> str:
    """The page of certificates in which every text comes from elsewhere."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from certcal_ext.report import render_report

    made = cc.Certificates.from_counts([[990, 10], [100, 900]], [0, 0], sigma=0.25)
    texts = (
        "model_hash",
        "precision",
        "source",
        "torch_version",
        "norm",
        "package_version",
        "created",
    )
    changed = made.with_provenance(**dict.fromkeys(texts, words), notes=(words, words))
    return render_report(changed, title=words)


@pytest.mark.parametrize("page", [attack_page, certificates_page])
def test_pages_escape_what_comes_from_data(page: Callable[[str], str]) -> None:
    is_harmless(page(HOSTILE), page("words"))
