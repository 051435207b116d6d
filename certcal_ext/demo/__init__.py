# SPDX-License-Identifier: MIT
"""The demonstration: digits, a small network trained with noise, and its certificates."""

from __future__ import annotations

from certcal_ext.demo.digits import load_digits
from certcal_ext.demo.run import DemoResult, DemoSettings, run_demo

__all__ = ["DemoResult", "DemoSettings", "load_digits", "run_demo"]
