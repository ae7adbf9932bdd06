"""Common corruptions of a test split: from published files, or made here."""

from bench.data.corruptions.corruption import corrupt
from bench.data.corruptions.files import CorruptedImages, open_files
from bench.data.corruptions.generated import generated_images, ungenerated

__all__ = ["CorruptedImages", "corrupt", "generated_images", "open_files", "ungenerated"]
