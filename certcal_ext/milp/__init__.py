# SPDX-License-Identifier: MIT
"""The mixed-integer program behind the referee, and the approximate solvers it is compared with."""
