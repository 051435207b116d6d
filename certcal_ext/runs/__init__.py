# SPDX-License-Identifier: MIT
"""Runs that are split over processes, survive faults, and go on where they stopped."""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError('runs need torch: pip install "certcal_ext[torch]"') from error

from certcal_ext.runs.certify import certify_in_shards
from certcal_ext.runs.folder import remove_work

__all__ = ["certify_in_shards", "remove_work"]
