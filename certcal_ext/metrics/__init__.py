# SPDX-License-Identifier: MIT
"""Calibration metrics, plain and in the worst case over certified intervals."""
