# SPDX-License-Identifier: MIT
"""The options of a report, each with what it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certcal_ext.certificates.certificates import Certificates


@dataclass(frozen=True, kw_only=True, eq=False)
class PageOptions:
    """What a page shows.

    Attributes:
        radii: radii of the table; None chooses round ones up to the largest certified radius.
        radius: radius of the headline and of the diagrams, added to the table where it is not listed; None takes the largest
            listed one at which at least half of all samples are certified.
        bins: number of equal-width bins of the calibration error, where ``edges`` is None.
        edges: bin edges from 0 to 1.
        closed: "right": bins (lo, hi]; "left": [lo, hi).
        title: heading of the page.
        command: command line that made the certificates, shown under "How to reproduce".
        file: name of the file that holds the certificates, counts or log, for the command there.
        delta: failure probability of each bound that holds for the whole data set at once; None leaves them out.
        recalibrate: kind of the monotone map whose gain is shown ("isotonic", "beta", "platt", "temperature", "constant"),
            or None.
        images: (N, C, H, W) or (N, H, W) pixels in [0, 1] or uint8, array or tensor: the image of each row of the table, in
            its order. The worst samples are shown with them, at most 72 pixels a side; None shows them without.
        class_names: a name a class; None shows numbers.
        compare: further models by name, of the same samples, shown beside the certificates.
        name: of the certificates, beside ``compare``.
    """

    radii: Sequence[float] | None = None
    radius: float | None = None
    bins: int = 15
    edges: Sequence[float] | None = None
    closed: str = "right"
    title: str = "Certified calibration"
    command: str | None = None
    file: str = "certificates.parquet"
    delta: float | None = 1e-3
    recalibrate: str | None = "isotonic"
    images: Any = None
    class_names: Sequence[str] | None = None
    compare: Mapping[str, Certificates] | None = None
    name: str = "this model"

    @classmethod
    def of(cls, options: PageOptions | None = None, **changes: Any) -> PageOptions:
        """The options with some of them changed.

        Raises:
            TypeError: there is no such option, or ``options`` are none.

        Example:
            >>> PageOptions.of(bins=10).bins
            10
        """
        start = cls() if options is None else options
        if not isinstance(start, PageOptions):
            raise TypeError(f"options: expected PageOptions, got {type(start).__name__}")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in changes:
            if name not in known:
                raise TypeError(f"{name}: expected one of the options {', '.join(known)}")
        return dataclasses.replace(start, **changes)

    @property
    def binning(self) -> dict[str, Any]:
        """The options of the calibration errors."""
        return {"bins": self.bins, "edges": self.edges, "closed": self.closed}

    def models(self, certificates: Certificates) -> dict[str, Certificates] | None:
        """All models by name, where there are some to compare with.

        Raises:
            ValueError: two of the same name.
        """
        if not self.compare:
            return None
        if self.name in self.compare:
            raise ValueError(
                f"name: expected another name than those in compare, got {self.name!r}"
            )
        return {self.name: certificates, **self.compare}
