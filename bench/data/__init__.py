"""Images and labels: the named datasets, and anybody's own as ``npz:PATH`` or ``folder:PATH``."""

from bench.data.dataset import Dataset, Split
from bench.data.load import DATASETS, Source, load_dataset
from bench.data.resize import resized

__all__ = ["DATASETS", "Dataset", "Source", "Split", "load_dataset", "resized"]
