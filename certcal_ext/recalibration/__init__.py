# SPDX-License-Identifier: MIT
"""Monotone maps of confidences that carry certificates along."""
