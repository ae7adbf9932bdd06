"""``npz:PATH``: the user's own images in one file of NumPy arrays."""

import math
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO

from numpy.lib import format as npy

from bench.data.arrays import OPTIONAL, REQUIRED, Array, dataset_from_arrays
from bench.data.dataset import Dataset
from bench.data.limits import check_expansion, check_size
from bench.errors import BenchError

_DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    NotImplementedError,  # a compression that does not exist
    RuntimeError,  # an encrypted member
    MemoryError,  # a header whose shape is larger than any memory
    TokenError,  # a header that is not a Python literal
    zipfile.BadZipFile,
    zlib.error,
)


def load(path: Path, *, name: str, source: str) -> Dataset:
    """Return the dataset in the file ``path``; ``dataset_from_arrays`` describes its arrays.

    Nothing in the file is ever unpickled. Arrays under other names are ignored.

    Raises:
        BenchError: the file is missing or damaged, or its arrays do not have that form; all faults together.
    """
    arrays, unreadable = read_arrays(path)
    return dataset_from_arrays(arrays, what=str(path), name=name, source=source, unreadable=unreadable)


def read_arrays(path: Path, also: tuple[str, ...] = ()) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the known arrays and those named in ``also``, and the reason for each that cannot be read.

    Raises:
        BenchError: the file is missing, not an archive, or larger than plausible.
    """
    if not path.is_file():
        raise BenchError(f"{path}: no such file. Type npz: and the path of an .npz file.")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path, also)
    except PermissionError as error:
        raise BenchError(f"{path}: {error.strerror}. Make the file readable.") from error
    except _DAMAGE as error:
        raise BenchError(
            f"{path}: not an .npz file, or cut short ({error}). Copy it again, or write it with "
            "np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)."
        ) from error


def _read(archive: zipfile.ZipFile, path: Path, also: tuple[str, ...]) -> tuple[dict[str, Array], dict[str, str]]:
    arrays: dict[str, Array] = {}
    unreadable: dict[str, str] = {}
    members = {info.filename: info for info in archive.infolist()}
    keys = [key for key in (*REQUIRED, *OPTIONAL, *also) if f"{key}.npy" in members]
    on_disk = path.stat().st_size
    for key in keys:
        info = members[f"{key}.npy"]
        check_expansion(f"{path}: {key}", info.file_size, min(info.compress_size, on_disk))
    check_size(str(path), sum(members[f"{key}.npy"].file_size for key in keys))
    for key in keys:
        try:
            arrays[key] = _read_array(archive, f"{key}.npy")
        except _DAMAGE as error:
            unreadable[key] = _reason(error)
    return arrays, unreadable


def _read_array(archive: zipfile.ZipFile, member: str) -> Array:
    """Return one array, read to its end: only there the member's CRC is compared.

    ``np.load`` stops where the array's header says, so it misses a flipped bit in the header's shape.
    """
    with archive.open(member) as file:
        _check_header(file, archive.getinfo(member).file_size)
    with archive.open(member) as file:
        array: Array = npy.read_array(file, allow_pickle=False)
        if file.read(1):
            raise ValueError("it is longer than its header says")
    return array


def _check_header(file: IO[bytes], size: int) -> None:
    """Raise ValueError if the header of an array implies another number of bytes than the ``size`` of its file."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the .npy format")
    shape, _, dtype = npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    announced = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject or announced == size:  # an object array is refused where it would be unpickled
        return
    raise ValueError(f"it is {'longer' if announced < size else 'shorter'} than its header says")


def _reason(error: Exception) -> str:
    if "allow_pickle" in str(error):
        return "it holds Python objects; save plain arrays, strings as np.array([...], dtype=str)"
    return f"the file is corrupt ({error}); copy it again"
