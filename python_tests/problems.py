# SPDX-License-Identifier: MIT
"""Hypothesis strategies for small calibration problems, with all that makes them hard."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

SIZES = (1, 31, 32, 33, 255, 256, 257, 4097)


class Problem(NamedTuple):
    """Arguments of ``certified_ece``."""

    correct: NDArray[np.bool_]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    edges: NDArray[np.float64]
    closed: str


@st.composite
def bin_edges(draw: st.DrawFn, most: int = 4) -> NDArray[np.float64]:
    """Equal-width or uneven edges, from 1 to ``most`` bins."""
    bins = draw(st.integers(1, most))
    if draw(st.booleans()):
        return np.linspace(0, 1, bins + 1)
    inner = st.floats(0.001, 0.999)
    chosen = draw(st.lists(inner, min_size=bins - 1, max_size=bins - 1, unique=True))
    return np.array([0.0, *sorted(chosen), 1.0])


@st.composite
def problems(draw: st.DrawFn, most_samples: int = 6, most_bins: int = 4) -> Problem:
    """Samples whose ends lie on edges, next to them, or anywhere; some points, some vacuous."""
    edges = draw(bin_edges(most_bins))
    beside = [*edges, *np.nextafter(edges[:-1], 1.0), *np.nextafter(edges[1:], 0.0)]
    end = st.one_of(st.sampled_from([float(e) for e in beside]), st.floats(0.0, 1.0))
    interval = st.one_of(
        st.tuples(end, end),
        end.map(lambda z: (z, z)),
        st.just((0.0, 1.0)),
    )
    rows = draw(st.lists(st.tuples(st.booleans(), interval), min_size=1, max_size=most_samples))
    return Problem(
        correct=np.array([c for c, _ in rows]),
        lower=np.array([min(ends) for _, ends in rows]),
        upper=np.array([max(ends) for _, ends in rows]),
        edges=edges,
        closed=draw(st.sampled_from(["left", "right"])),
    )


def random_problem(size: int, seed: int, bins: int = 15) -> Problem:
    """A larger problem with the shapes of real certificates."""
    random = np.random.default_rng(seed)
    lower = random.random(size) * 0.9
    upper = np.minimum(1.0, lower + random.random(size) * 0.3)
    correct = random.random(size) < (lower + upper) / 2
    return Problem(correct, lower, upper, np.linspace(0, 1, bins + 1), "right")
