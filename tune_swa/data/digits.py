"""scikit-learn's handwritten digits: 1,797 real images that come with the package."""

from __future__ import annotations

import importlib.metadata

import numpy as np
from PIL import Image

from tune_swa.data.sources import Listing, Opened, Part


class Digits:
    """The UCI optical recognition test set, 8x8 pixels with values 0..16 (Alpaydin & Kaynak 1998)."""

    name = "digits"
    folder_notes: tuple[str, ...] = ()

    def identify_images(self) -> str:
        # its import takes half a second, and its images are decoded once
        return f"scikit-learn digits {importlib.metadata.version('scikit-learn')}"

    def list_images(self) -> Listing:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
        return Listing(
            class_names=tuple(str(name) for name in bunch.target_names),
            labels=bunch.target.astype(np.int64),
            parts=np.full(len(pixels), Part.TRAIN, dtype=np.int8),
            open_image=lambda index: Opened(Image.fromarray(pixels[index]).convert("RGB")),
            names=lambda index: f"digit {index}",
        )

    def preview_images(self) -> Listing:
        return self.list_images()
