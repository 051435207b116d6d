"""The compiled module. Private: the public functions that call it check their arguments first.

Arrays are NumPy arrays or anything with ``__dlpack__`` (CPU or CUDA tensors); outputs are written in place.
``threads`` is the number of CPU threads; ``stream`` is a CUDA stream handle (0: the legacy default stream).
"""

from typing import Any

__version__: str

def build_info() -> dict[str, Any]: ...
def cuda_status() -> dict[str, Any]: ...
def simd_paths() -> list[str]: ...
def philox4x32_10(counter: tuple[int, int, int, int], key: tuple[int, int]) -> list[int]: ...
def add_noise(
    images: Any,
    out: Any,
    sigma: float,
    seed: int,
    sample_ids: Any,
    first_draw: int,
    threads: int = 1,
    stream: int = 0,
    simd: str = "auto",
    channels: int = 1,
    draw_offset: Any = None,
) -> None:
    """images (B, E) f32, out (B, D, E) f32/f16/bf16, sample_ids (B,) i64: out = images + sigma * normal(seed, id, draw, element).

    channels, a divisor of E: element c * (E / channels) + p lies at p * channels + c of both arrays (1: in order).
    draw_offset (1,) i64 where images are, or None, is added to first_draw. On CUDA the kernel reads it when it runs, so that a
    captured graph can be replayed for other draws. [first_draw, first_draw + D) is checked to lie within [0, 2^32) without it;
    with it, too, on the CPU (ValueError), while on CUDA, where checking would mean waiting, out is NaN if the draws do not.
    """

def count_votes(
    logits: Any,
    counts: Any,
    near_ties: Any,
    margins: Any,
    faults: Any,
    threads: int = 1,
    stream: int = 0,
) -> None:
    """logits (B, D, K) f32/f64; counts (B, K) i64 is added to; near_ties (B, D) u8 or None: rows whose two largest logits differ by less than margins (B,) f64 says are marked there and not counted; faults (2,) i64 is added to: rows with NaN, rows with infinity.

    A captured CUDA graph reads the margins that are there when it is replayed.
    """

def score_histogram(
    logits: Any,
    classes: Any,
    histogram: Any,
    score_sums: Any,
    faults: Any,
    threads: int = 1,
    stream: int = 0,
) -> None:
    """softmax scores of class classes[b] (or of the top class where classes is None) -> histogram (B, J) i64 and score_sums (B, 2) i64, both added to."""

def count_votes_and_scores(
    logits: Any,
    classes: Any,
    counts: Any,
    near_ties: Any,
    margins: Any,
    histogram: Any,
    score_sums: Any,
    faults: Any,
    threads: int = 1,
    stream: int = 0,
) -> None:
    """count_votes and score_histogram in one pass over the logits: the same integers, a faulty row counted once. Near ties have no vote, but a score."""

def certify(
    group: Any,
    correct: Any,
    confidence: Any,
    probit_lower: Any,
    probit_upper: Any,
    shifts: Any,
    edges: Any,
    closed_left: bool,
    tables: Any,
    clean: Any,
    brier: Any,
    threads: int = 1,
) -> None:
    """The fused bound.

    group (N,) i64 in [0, G): which interval a sample has; correct (N,) u8; confidence, probit_lower, probit_upper (G,) f64;
    shifts (R,) f64 = radius / sigma, each >= 0; edges (M + 1,) f64. A sample is certified at shift r when probit_lower > r.
    Adds to: tables (R, 2, M, M, 5) i64 (an ECE table a radius), clean (R, M, 4) i64 (a bin's samples, right ones, sum of
    confidence in two words), brier (R, 4) i64 (certified and clean Brier sums, two words each).
    On the CPU only: the ends of the intervals are taken there, so counts on a GPU have come to the host before.
    """

def summarize(
    tables: Any, clean: Any, brier: Any, edges: Any, summary: Any, threads: int = 1
) -> None:
    """From the sums of certify to summary (R, 6) f64: certified samples, right ones, clean and certified ECE, clean and
    certified Brier score; errors are rounded up to the next double, and all is 0 where nothing is certified."""

def shift_interval(
    probit_lower: Any,
    probit_upper: Any,
    shift: float,
    lower: Any,
    upper: Any,
    threads: int = 1,
) -> None:
    """lower = Phi(probit_lower - shift) rounded down, upper = Phi(probit_upper + shift) rounded up; all (N,) f64."""

def ece_update(
    correct: Any,
    lower: Any,
    upper: Any,
    edges: Any,
    closed_left: bool,
    state: Any,
    threads: int = 1,
) -> int:
    """Adds N rows to state (2, M, M, 5) i64. Returns -1, or the first row whose bounds are not 0 <= lower <= upper <= 1 (nothing is added then)."""

def ece_solve(state: Any, edges: Any, signs: Any) -> float:
    """The recursion: the certified ECE of a table, rounded up; signs (M,) i8 is written."""

def ece_worst_confidence(
    correct: Any,
    lower: Any,
    upper: Any,
    edges: Any,
    closed_left: bool,
    signs: Any,
    out: Any,
    threads: int = 1,
) -> None:
    """out (N,) f64: the worst confidence of each row for the signs of the bins."""

def brier_update(correct: Any, lower: Any, upper: Any, sums: Any, threads: int = 1) -> int:
    """Adds the worst squared errors, rounded up, to sums (2,) i64 (high and low word). Returns as ece_update."""
