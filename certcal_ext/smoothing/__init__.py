# SPDX-License-Identifier: MIT
"""From images to votes and scores: noise, sampling, the smoothed classifier."""
