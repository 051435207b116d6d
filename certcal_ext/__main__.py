# SPDX-License-Identifier: MIT
"""``python -m certcal_ext`` is ``certcal``."""

from __future__ import annotations

from certcal_ext.cli import main

if __name__ == "__main__":
    main()
