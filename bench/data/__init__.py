"""Images and labels: the named datasets, and the user's own as ``npz:PATH`` or ``folder:PATH``."""

from bench.data.dataset import Dataset, Split
from bench.data.images import ImagesOnDevice, ImageSource, on_device, unit_pixels
from bench.data.load import DATASETS, OWN_FORMS, Source, load_dataset
from bench.data.resize import resized

__all__ = [
    "DATASETS",
    "OWN_FORMS",
    "Dataset",
    "ImageSource",
    "ImagesOnDevice",
    "Source",
    "Split",
    "load_dataset",
    "on_device",
    "resized",
    "unit_pixels",
]
