"""What a message says of the expected layout of a folder of images."""

from __future__ import annotations

from tune_swa.text import escape_name as escape_name

LAYOUT = (
    "Expected below it: train/CLASS/*.jpg, test/CLASS/*.jpg and, if you have them, val/CLASS/*.jpg; or "
    "Kaggle's seg_train/seg_train/CLASS/*.jpg and seg_test/seg_test/CLASS/*.jpg; or CLASS/*.jpg alone, "
    "from which validation and test images are held out"
)
