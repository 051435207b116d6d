# SPDX-License-Identifier: MIT
"""Confidence intervals from draws, every rounding outward."""
