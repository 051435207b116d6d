# SPDX-License-Identifier: MIT
"""Other libraries' conventions, without a need for any of these libraries: each module is imported by name."""
