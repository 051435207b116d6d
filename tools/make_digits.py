# SPDX-License-Identifier: MIT
"""Writes certcal_ext/demo/digits.npz from scikit-learn's digits.

Needs scikit-learn, which certcal itself does not: ``pip install scikit-learn && python
tools/make_digits.py``. The file is committed, so this script only documents where it came from and
how to make it again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).resolve().parents[1] / "certcal_ext" / "demo" / "digits.npz"


def main() -> None:
    """Reads the 1,797 images (8 x 8, whole numbers 0 to 16) and writes them as uint8."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    if not (images == digits.images).all() or images.shape != (1797, 8, 8) or images.max() != 16:
        raise SystemExit(
            "scikit-learn's digits are not the 1,797 images of 8 x 8 that were expected"
        )
    np.savez_compressed(TARGET, images=images, labels=labels)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
