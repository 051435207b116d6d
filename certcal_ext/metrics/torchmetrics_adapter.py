# SPDX-License-Identifier: MIT
"""Certified metrics as ``torchmetrics.Metric``: for training loops and evaluations that collect metrics that way.

Each keeps the integers of the state class that it names in one state that is summed across
processes, so ``compute`` gives the result for all samples of all of them, bit for bit whatever the split. Import this
module by name; nothing else in the package does.

Example:
    >>> from certcal_ext.metrics.torchmetrics_adapter import CertifiedCalibrationError
    >>> metric = CertifiedCalibrationError(bins=2)
    >>> metric.update(torch.tensor([1, 0]), torch.tensor([0.5, 0.25]), torch.tensor([1.0, 0.5]))
    >>> metric.compute()
    tensor(0.5000, dtype=torch.float64)
"""

from __future__ import annotations

from typing import Any

try:
    import torch
    from torchmetrics import Metric  # type: ignore[import-not-found, unused-ignore]
except ImportError as missing:
    raise ImportError(
        "certcal_ext.metrics.torchmetrics_adapter needs torch and torchmetrics: pip install torchmetrics"
    ) from missing

from certcal_ext.metrics.brier import BrierState
from certcal_ext.metrics.ece import EceState
from certcal_ext.metrics.ks import KsState
from certcal_ext.metrics.log_loss import LogLossState
from certcal_ext.metrics.risk_coverage import RiskCoverageState
from certcal_ext.metrics.state import CertifiedState

__all__ = [
    "CertifiedAurc",
    "CertifiedBrierScore",
    "CertifiedCalibrationError",
    "CertifiedKsError",
    "CertifiedLogLossScore",
    "CertifiedMetric",
]


class CertifiedMetric(Metric):  # type: ignore[misc, unused-ignore]
    """What all metrics here share; use one of its subclasses.

    ``compute`` gives a scalar float64 tensor, an upper bound; ``result`` the whole result of the state class, with
    whatever stands beside the value (accuracy, score of a constant confidence, signs of the bins, curve).

    Args:
        kind: a state class.
        settings: its arguments.
        **kwargs: those of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    sums: torch.Tensor

    def __init__(
        self, kind: type[CertifiedState[Any]], settings: dict[str, Any], **kwargs: Any
    ) -> None:
        """A metric of no samples; the arguments are described with the class."""
        super().__init__(**kwargs)
        self._kind = kind
        self._arguments = settings
        empty = torch.from_numpy(kind(**settings).state())
        self.add_state("sums", default=empty, dist_reduce_fx="sum")

    def update(self, correct: Any, lower: Any, upper: Any) -> None:
        """Adds samples.

        Args:
            correct: (N,) booleans or 0/1, whether the prediction is right; tensors on any device, or arrays.
            lower: (N,) lower ends of the certified confidence intervals, in [0, 1].
            upper: (N,) upper ends, each at least its lower end.

        Raises:
            TypeError: an argument is no array of numbers.
            ValueError: shapes that differ, or bounds that are NaN, unordered or outside [0, 1].
        """
        part = self._kind(**self._arguments)
        part.update(correct, lower, upper)
        self.sums += torch.from_numpy(part.state()).to(self.sums.device)

    def compute(self) -> torch.Tensor:
        """The certified metric of all samples so far, of all processes.

        Raises:
            ValueError: there are none.
        """
        value = self.result().value
        return torch.tensor(value, dtype=torch.float64, device=self.sums.device)

    def result(self) -> Any:
        """The whole result for the samples in ``sums``: those of this process, except inside ``sync_context``.

        Raises:
            ValueError: there are none.
        """
        return self._kind.from_state(self.sums, **self._arguments).compute()

    def set_dtype(self, dst_type: Any) -> CertifiedMetric:
        """Changes nothing: the state consists of integers."""
        return self


class CertifiedCalibrationError(CertifiedMetric):
    """The certified ECE (``EceState``).

    Args:
        bins: number of bins of equal width; not used where ``edges`` is given.
        edges: (M + 1,) strictly increasing from 0 to 1.
        closed: which end of a bin belongs to it, as in ``certified_ece``; "left" is torchmetrics' own rule.
        **kwargs: those of ``torchmetrics.Metric``.

    Raises:
        TypeError: ``bins`` or ``edges`` of the wrong kind.
        ValueError: bad bins.
    """

    def __init__(
        self, bins: int = 15, edges: Any = None, closed: str = "right", **kwargs: Any
    ) -> None:
        """A metric of no samples; the arguments are described with the class."""
        super().__init__(EceState, {"bins": bins, "edges": edges, "closed": closed}, **kwargs)


class CertifiedBrierScore(CertifiedMetric):
    """The certified top-label Brier score (``BrierState``).

    Args:
        **kwargs: those of ``torchmetrics.Metric``.
    """

    def __init__(self, **kwargs: Any) -> None:
        """A metric of no samples."""
        super().__init__(BrierState, {}, **kwargs)


class CertifiedLogLossScore(CertifiedMetric):
    """The certified top-label log loss, in nats (``LogLossState``).

    Args:
        clip: confidences are reported inside [clip, 1 - clip]; None: as they are.
        dtype: the format that the deployed model clips in, as in ``certified_log_loss``.
        **kwargs: those of ``torchmetrics.Metric``.

    Raises:
        TypeError: ``clip`` is no number.
        ValueError: it is out of range or vanishes in ``dtype``, or ``dtype`` is unknown.
    """

    def __init__(self, clip: float | None = None, dtype: str = "float64", **kwargs: Any) -> None:
        """A metric of no samples; the arguments are described with the class."""
        super().__init__(LogLossState, {"clip": clip, "dtype": dtype}, **kwargs)


class CertifiedKsError(CertifiedMetric):
    """The certified KS calibration error on a grid, from above (``KsState``).

    Args:
        bits: the grid is the multiples of 2^-bits.
        **kwargs: those of ``torchmetrics.Metric``.

    Raises:
        TypeError: ``bits`` is no whole number.
        ValueError: it is out of range.
    """

    def __init__(self, bits: int = 12, **kwargs: Any) -> None:
        """A metric of no samples; the arguments are described with the class."""
        super().__init__(KsState, {"bits": bits}, **kwargs)


class CertifiedAurc(CertifiedMetric):
    """The certified area under the risk-coverage curve, from above; ``result`` has the curve (``RiskCoverageState``).

    Args:
        thresholds: (T,) strictly increasing, in [0, 1]; None: 0, 1/1000, ..., 1.
        **kwargs: those of ``torchmetrics.Metric``.

    Raises:
        TypeError: ``thresholds`` is no array of numbers.
        ValueError: they do not increase inside [0, 1].
    """

    def __init__(self, thresholds: Any = None, **kwargs: Any) -> None:
        """A metric of no samples; the arguments are described with the class."""
        super().__init__(RiskCoverageState, {"thresholds": thresholds}, **kwargs)
