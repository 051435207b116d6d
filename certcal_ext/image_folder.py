# SPDX-License-Identifier: MIT
"""A folder of image files, one folder a class, as torchvision's ``ImageFolder`` has it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Those that torchvision takes for images.
_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFolder:
    """The files of a folder in the order of torchvision: by class name, then by path.

    Attributes:
        path: the folder.
        classes: names of the classes, in alphabetical order.
        files: one a sample.
        labels: (N,) int64, positions in ``classes``.
    """

    path: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, path: Path) -> ImageFolder:
        """Lists a folder; no image is opened.

        Raises:
            ValueError: no folders of image files in it.
        """
        classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            here = [
                Path(root, file)
                for root, _, names in sorted(os.walk(path / name, followlinks=True))
                for file in sorted(names)
                if file.lower().endswith(_ENDINGS)
            ]
            if not here:
                raise ValueError(
                    f"{path}: expected images in the folder of each class, {name} has none"
                )
            files += here
            labels += [label] * len(here)
        if not files:
            raise ValueError(
                f"{path}: expected a folder for each class with images in it ({', '.join(_ENDINGS)}), got no such folder"
            )
        return cls(path, tuple(classes), tuple(files), np.array(labels, np.int64))

    def __len__(self) -> int:
        """N."""
        return len(self.files)

    def __getitem__(self, kept: slice) -> NDArray[np.uint8]:
        """(n, 3, H, W) pixels of some files, converted to RGB.

        Raises:
            ImportError: Pillow is missing.
            ValueError: a file that is no image, or images of several sizes.
        """
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError(
                f"{self.path}: folders of images need Pillow: pip install pillow"
            ) from error
        images: list[NDArray[Any]] = []
        for file in self.files[kept]:
            try:
                with Image.open(file) as image:
                    images.append(np.asarray(image.convert("RGB"), np.uint8))
            except Exception as error:  # whatever its decoders make of bytes from anywhere
                raise ValueError(f"{file}: cannot be read as an image ({error})") from error
            if images[-1].shape != images[0].shape:
                first, size = (f"{a.shape[1]} x {a.shape[0]}" for a in (images[0], images[-1]))
                raise ValueError(
                    f"{file}: expected images of one size, {first} as the first one, got {size}: resize or crop them before"
                )
        return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
