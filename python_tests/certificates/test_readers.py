# SPDX-License-Identifier: MIT
from __future__ import annotations

import math
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaincinv, ndtri

import certcal_ext as cc
from certcal_ext.certificates.logs import printed_half_widths
from certcal_ext.certificates.readers import read_cohen_log, read_counts, votes_of_radius
from certcal_ext.intervals.clopper_pearson import clopper_pearson

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
GOOD = (
    "0\t3\t3\t0.377\t1\t0:00:14.172309\n"
    "1\t8\t6\t0.0465\t0\t0:00:14\n"
    "2\t1\t-1\t0.0\t0\t1 day, 2:00:14\n"
)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "log.tsv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def printed_radius(k: int, n: int, sigma: float, alpha: float) -> tuple[int, str]:
    """What Cohen et al.'s certify.py prints for k of n votes: predict (0 or -1) and radius."""
    p = float(betaincinv(k, n - k + 1, alpha)) if k else 0.0
    if p < 0.5:
        return -1, "0.0"
    return 0, f"{sigma * ndtri(p):.3}"


def test_a_log_is_read(tmp_path: Path) -> None:
    log = read_cohen_log(write(tmp_path, HEADER + GOOD))
    assert log.index.tolist() == [0, 1, 2]
    assert log.label.tolist() == [3, 8, 1]
    assert log.predicted.tolist() == [3, 6, -1]
    assert log.radius.tolist() == [0.377, 0.0465, 0.0]
    assert log.half_width == pytest.approx([5e-4, 5e-5, 0.0], rel=1e-5)


def test_columns_are_found_by_name_and_line_ends_do_not_matter(tmp_path: Path) -> None:
    text = "radius\tidx\tcorrect\tpredict\tlabel\r\n0.377\t7\t1\t3\t3\r\n\r\n1.23\t9\t0\t2\t3"
    log = read_cohen_log(write(tmp_path, text))
    assert log.index.tolist() == [7, 9]
    # Three significant digits of 1.23: two decimals.
    assert log.half_width == pytest.approx([5e-4, 5e-3], rel=1e-5)


@given(
    n=st.integers(10, 200_000),
    sigma=st.sampled_from([0.12, 0.25, 0.5, 1.0]),
    alpha=st.sampled_from([1e-3, 0.01]),
    data=st.data(),
)
def test_printed_radius_gives_back_a_range_that_holds_the_count(
    n: int, sigma: float, alpha: float, data: st.DataObject
) -> None:
    k = data.draw(st.integers(n // 2, n))
    predicted, text = printed_radius(k, n, sigma, alpha)
    if predicted == -1:
        return
    true = sigma * ndtri(betaincinv(k, n - k + 1, alpha))
    for shown in (text, f"{true:.3f}", f"{true:.1f}"):
        radius = np.array([float(shown)])
        unit = 10.0 ** int(Decimal(shown).as_tuple().exponent)
        half = printed_half_widths([shown], radius, np.array([unit]))
        least, largest = votes_of_radius(radius, half, sigma, n, alpha)
        assert least[0] <= k <= largest[0]
        # And not much wider: the ends of the range print no more than a rounding away.
        for end in (least[0], largest[0]):
            at = sigma * ndtri(betaincinv(int(end), n - int(end) + 1, alpha))
            assert abs(at - radius[0]) <= 1.01 * half[0] + 1e-9


def test_range_of_counts_is_that_of_a_search_over_all_counts() -> None:
    n, sigma, alpha = 1000, 0.25, 1e-3
    k = np.arange(1, n + 1)
    radius = sigma * ndtri(betaincinv(k, n - k + 1, alpha))
    asked = np.array([0.0, 0.0611, 0.3, 0.55, 0.61])
    half = np.full(5, 5e-4)
    least, largest = votes_of_radius(asked, half, sigma, n, alpha)
    for r, low, high in zip(asked, least, largest, strict=True):
        fits = k[(radius >= max(r - 5e-4, 0)) & (radius <= r + 5e-4)]
        if fits.size:
            assert (low, high) == (fits[0], fits[-1])
        else:
            assert low > high


def make_log(folder: Path, votes: list[int], n: int, sigma: float, alpha: float) -> Path:
    rows = []
    for i, k in enumerate(votes):
        predicted, radius = printed_radius(k, n, sigma, alpha)
        label = i % 2
        rows.append(f"{i}\t{label}\t{predicted}\t{radius}\t{int(label == predicted)}\t0:00:01.5\n")
    return write(folder, HEADER + "".join(rows))


def test_certificates_of_a_log_hold_those_of_the_counts_behind_it(tmp_path: Path) -> None:
    n, sigma, alpha = 10_000, 0.25, 1e-3
    votes = np.random.default_rng(0).integers(n // 2, n + 1, 300)
    votes[:3] = n, n - 1, n // 2
    log = cc.Certificates.from_cohen_log(
        make_log(tmp_path, votes.tolist(), n, sigma, alpha), sigma=sigma, n=n, alpha=alpha
    )
    true = clopper_pearson(votes, n, alpha)
    lower, upper = (log.table.column(name).to_numpy() for name in ("p_lower", "p_upper"))
    assert (lower <= true.lower).all()
    assert (upper >= true.upper).all()
    decided = log.table.column("predicted").to_numpy() != -1
    # The width of a count's share in a radius: half a unit of the third digit, over sigma, in
    # probit space.
    assert (true.lower - lower)[decided].max() <= 2 * 5.01e-4 / sigma * 0.4 + 2 / n
    assert (lower[~decided] == 0).all()
    assert (upper[~decided] == 1).all()
    assert log.table.column("confidence").is_null().to_numpy().tolist() == (~decided).tolist()
    estimate = log.table.column("confidence").fill_null(0).to_numpy()[decided]
    assert np.abs(estimate - votes[decided] / n).max() <= 5.01e-4 / sigma * 0.4 + 2 / n
    assert log.abstained[~decided].all()


def test_abstained_rows_stay_in_the_table(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="2 of 3 samples abstain; the best radius .* is 0.7927"):
        cert = cc.Certificates.from_cohen_log(
            write(
                tmp_path,
                HEADER
                + "0\t0\t0\t0.5\t1\t0:00:01\n1\t0\t-1\t0.0\t0\t0:00:01\n2\t0\t-1\t0\t0\t0:00:01\n",
            ),
            sigma=0.25,
            n=10_000,
            alpha=1e-3,
        )
    assert len(cert) == 3
    assert cert.at(0).index.tolist() == [0]
    assert cert.at(0).confidence is not None
    assert cert.curve(0.1).certified_accuracy.tolist() == [1 / 3]
    assert cert.provenance.kind == "log"


BROKEN = [
    ("", "expected a certification log, a table with a header such as idx, .* an empty file"),
    ("hello\nworld\n", "it seems to be a text that starts with 'hello'"),
    (HEADER, "at least one row"),
    (b"\x89PNG\xff\xfe\x00", "cannot be read"),
    (HEADER.replace("radius", "size") + GOOD, "it seems to be a text that starts with 'idx"),
    (
        HEADER + GOOD + "3\t1\t1\t0.4",
        r"row 3 \(line 5\): expected 6 columns, got 4; is the file cut off",
    ),
    (
        HEADER + GOOD + "3\t1\t1\t0.4\t",
        r"row 3 \(line 5\): expected 6 columns, got 5; is the file cut",
    ),
    (
        HEADER + "0\t3\tcat\t0.3\t1\t0:00:01\n",
        r"row 0 \(line 2\): predict: expected a whole number",
    ),
    (HEADER + "0\t3\t3\tbig\t1\t0:00:01\n", "row 0 .*radius: expected a number, got 'big'"),
    (HEADER + "0\t3\t3\tnan\t1\t0:00:01\n", "row 0 .*radius: expected a number"),
    (HEADER + "0\t3\t3\tinf\t1\t0:00:01\n", "row 0 .*radius: expected a finite number"),
    (
        HEADER + "0\t3\t3\t-0.1\t1\t0:00:01\n",
        "row 0 .*radius: expected a finite number of at least 0",
    ),
    (
        HEADER + "0\t3\t4\t0.3\t1\t0:00:01\n",
        "row 0 .*correct: expected 0, as label and predict say, got 1",
    ),
    (HEADER + "0\t3\t-1\t0.3\t0\t0:00:01\n", "row 0 .*radius: expected 0 where predict is -1"),
    (
        HEADER + "0\t-3\t3\t0.3\t0\t0:00:01\n",
        "row 0 .*label: expected a whole number of at least 0",
    ),
    (
        HEADER + "0\t3\t-2\t0.3\t0\t0:00:01\n",
        "row 0 .*predict: expected a whole number of at least -1",
    ),
    (HEADER + GOOD + "1\t3\t3\t0.3\t1\t0:00:01\n", r"row 3 \(line 5\): idx 1 came before"),
    (
        HEADER + GOOD + "3\t3\t3\t0.99\t1\t0:00:01\n",
        r"row 3 .*no count of n = 100000 votes gives the radius 0.99",
    ),
]


@pytest.mark.parametrize(("text", "words"), BROKEN)
def test_broken_logs(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=words) as caught:
        cc.Certificates.from_cohen_log(path, sigma=0.25, n=100_000, alpha=1e-3)
    assert str(path) in str(caught.value)


def test_a_log_cut_anywhere_is_read_as_whole_rows_or_refused(tmp_path: Path) -> None:
    text = HEADER + GOOD
    whole = read_cohen_log(write(tmp_path, text))
    for cut in range(len(text)):
        try:
            log = read_cohen_log(write(tmp_path, text[:cut]))
        except ValueError:
            continue
        rows = log.index.size
        for name in ("index", "label", "predicted", "radius"):
            assert getattr(log, name).tolist() == getattr(whole, name)[:rows].tolist()


def test_a_log_of_other_settings_is_refused(tmp_path: Path) -> None:
    # With few draws the radii that can be printed are far apart.
    path = make_log(tmp_path, [90, 95, 99, 100], 100, 0.25, 1e-3)
    cc.Certificates.from_cohen_log(path, sigma=0.25, n=100, alpha=1e-3)
    for other in (dict(sigma=0.12), dict(n=50), dict(alpha=0.05)):
        settings = {"sigma": 0.25, "n": 100, "alpha": 1e-3, **other}
        with pytest.raises(ValueError, match="are these the log's"):
            cc.Certificates.from_cohen_log(path, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(sigma=0), ValueError, "sigma: expected a number above 0"),
        (dict(sigma=math.nan), ValueError, "sigma: expected a finite number"),
        (dict(n=0), ValueError, "n: expected a whole number from 1"),
        (dict(n=100_000.0), TypeError, "n: expected a whole number"),
        (dict(alpha=0), ValueError, "alpha: expected a probability"),
        (dict(alpha=1), ValueError, "alpha: expected a probability"),
    ],
)
def test_bad_settings(
    tmp_path: Path, change: dict[str, object], error: type[Exception], words: str
) -> None:
    settings = {"sigma": 0.25, "n": 100_000, "alpha": 1e-3, **change}
    with pytest.raises(error, match=words):
        cc.Certificates.from_cohen_log(write(tmp_path, HEADER + GOOD), **settings)  # type: ignore[arg-type]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none"
    with pytest.raises(
        ValueError, match="none: expected a certification log, but it cannot be read"
    ):
        read_cohen_log(path)
    with pytest.raises(ValueError, match=r"none: expected an \.npz file"):
        read_counts(path)


COUNTS = np.array([[90, 10], [20, 80], [95, 5]], np.int32)


def test_counts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "votes.npz"
    np.savez(path, counts=COUNTS, label=[0, 1, 1], sigma=0.25, n=100)
    stored = read_counts(path)
    assert stored.counts.tolist() == COUNTS.tolist()
    assert stored.labels is not None
    assert stored.labels.tolist() == [0, 1, 1]
    assert stored.sigma == 0.25
    cert = cc.Certificates.from_npz(path)
    assert cert.provenance.source == str(path)
    assert cert == cc.Certificates.from_counts(COUNTS, [0, 1, 1], sigma=0.25).with_provenance(
        source=str(path)
    )


def test_counts_alone_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "votes.npz"
    np.savez_compressed(path, counts=COUNTS)
    stored = read_counts(path)
    assert stored.labels is None
    assert stored.sigma is None
    with pytest.raises(ValueError, match="sigma: expected a number"):
        cc.Certificates.from_npz(path)
    assert len(cc.Certificates.from_npz(path, sigma=0.5)) == 3


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (dict(votes=COUNTS), r"expected an array counts \(N, K\), got none"),
        (dict(label=[0]), "got label"),
        (
            dict(counts=COUNTS / 100),
            "counts: expected whole numbers, got 0.9 in row 0; shares have",
        ),
        (dict(counts=COUNTS * 1e300), "counts: expected whole numbers"),
        (
            dict(counts=(COUNTS * 100).astype(np.float16)),
            "float16 of 2048 or more, which are rounded",
        ),
        (dict(counts=COUNTS * np.nan), "counts: expected whole numbers, got nan"),
        (dict(counts=COUNTS, label=[0.5, 1, 1]), "label: expected whole numbers, got 0.5"),
        (
            dict(counts=COUNTS, label=np.ones((3, 2), int)),
            "label: expected a class a row, or one 1",
        ),
        (
            dict(counts=COUNTS, n=[100, 99, 100]),
            "n: expected the sum of a row of counts, 100 in row 1",
        ),
        (dict(counts=COUNTS, n=[100, 99]), "n: expected one number, or one a row, got 2"),
        (dict(counts=COUNTS, label=[0, 1]), "label: expected 3 entries"),
        (
            dict(counts=COUNTS, lables=[0, 1, 1]),
            "the arrays counts, lables has a usual name.*--labels-key lables",
        ),
        (dict(counts=COUNTS, n=99), "n: expected the sum of a row of counts, 100 in row 0, got 99"),
        (dict(counts=COUNTS, sigma=[0.1, 0.2]), "sigma: expected one number"),
        (dict(counts=np.array([[{}]], object)), "cannot be read"),
    ],
)
def test_broken_counts(tmp_path: Path, arrays: dict[str, object], words: str) -> None:
    path = tmp_path / "votes.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=words) as caught:
        read_counts(path)
    assert str(path) in str(caught.value)


def test_another_sigma_than_the_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "votes.npz"
    np.savez(path, counts=COUNTS, sigma=0.25)
    with pytest.raises(ValueError, match=r"sigma: expected 0\.25"):
        cc.Certificates.from_npz(path, sigma=0.5)


def test_truncated_and_foreign_counts(tmp_path: Path) -> None:
    path = tmp_path / "votes.npz"
    np.savez(path, counts=COUNTS, label=[0, 1, 1])
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:10], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"expected an \.npz file"):
            read_counts(path)
    damaged = bytearray(whole)
    damaged[160] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match=r"votes\.npz"):
        read_counts(path)
    with open(path, "wb") as file:
        np.save(file, COUNTS)
    with pytest.raises(ValueError, match=r"expected an \.npz file"):
        read_counts(path)


def test_reading_warns_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_cohen_log(write(tmp_path, HEADER + GOOD))
