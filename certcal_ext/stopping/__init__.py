# SPDX-License-Identifier: MIT
"""As many draws as the certified metrics need, and no more."""
