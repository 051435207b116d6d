# SPDX-License-Identifier: MIT
"""The processes of a training run: those of ``certcal_ext.distributed``."""

from __future__ import annotations

from certcal_ext.distributed import Group, local_device, process_group

__all__ = ["Group", "local_device", "process_group"]
