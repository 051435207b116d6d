# SPDX-License-Identifier: MIT
"""Training of classifiers whose calibration holds under attack."""

from __future__ import annotations

from certcal_ext._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
