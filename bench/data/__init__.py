"""Images and labels: the named datasets, and the user's own as ``npz:``, ``folder:`` or ``webdataset:PATH``."""

from bench.data.dataset import Dataset, PixelFacts, Split
from bench.data.images import ImagesOnDevice, ImageSource, StreamedImages, on_device, unit_pixels
from bench.data.limits import DataIn
from bench.data.load import (
    DATASETS,
    OWN_FORMS,
    Source,
    check_dataset,
    load_dataset,
    recorded_name,
    same_source,
    typed_source,
)
from bench.data.resize import resized
from bench.data.stored import StoredImages

__all__ = [
    "DATASETS",
    "OWN_FORMS",
    "DataIn",
    "Dataset",
    "ImageSource",
    "ImagesOnDevice",
    "PixelFacts",
    "Source",
    "Split",
    "StoredImages",
    "StreamedImages",
    "check_dataset",
    "load_dataset",
    "on_device",
    "recorded_name",
    "resized",
    "same_source",
    "typed_source",
    "unit_pixels",
]
