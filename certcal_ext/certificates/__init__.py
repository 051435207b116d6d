# SPDX-License-Identifier: MIT
"""The table that passes between all parts, and what is asked of it."""
