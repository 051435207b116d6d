# SPDX-License-Identifier: MIT
"""One self-contained HTML page about a set of certificates: no network, light and dark."""

from __future__ import annotations

from certcal_ext.report.options import PageOptions
from certcal_ext.report.page import render_report, write_report

__all__ = ["PageOptions", "render_report", "write_report"]
