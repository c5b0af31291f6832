"""netCDF-4 files: written whole and sealed, and read without trust in their author.

A seal has no key, so that a forged file may have a right one. An HDF5 file may point to other files
(external storage, external links, virtual datasets), which the HDF5 library would open and read,
and a few bytes of it may stand for a huge array. What our files consist of is little: datasets of
numbers and texts in the root group. The structure of a file is compared with that before any of
its data is read.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from implicit_accel.errors import DataError
from implicit_accel.files import atomic_path, open_plain, printable, seal, seal_of

if TYPE_CHECKING:
    import h5py

# More than deflate can reach: a file that claims to hold more than this is not read.
_MAX_RATIO = 1100

# Many texts may point to the same bytes of a file, so that they are read one by one, in 30 µs each.
_MAX_TEXT_BYTES = 2**28
_MAX_TEXTS = 200_000

_MAX_ATTRIBUTE_BYTES, _MAX_ATTRIBUTES, _MAX_NUMBERS = 2**20, 100, 1000

# What is done to an array's bytes: nothing, deflate, or shuffle and deflate. Other filters may be
# plug-ins, which are loaded as code.
_DEFLATE, _SHUFFLE = 1, 2  # HDF5's numbers
_FILTERS = ([], [_DEFLATE], [_SHUFFLE, _DEFLATE])

# A chunk with fewer bytes than this unpacks to at most 64 MiB, whatever it holds.
_SMALL_CHUNK = 2**16


def save_netcdf(dataset: xr.Dataset, path: Path) -> str:
    """Writes netCDF-4, compressed, atomically, with a checksum at its end, which is returned."""
    encoding = {
        name: {"zlib": True, "complevel": 1, "shuffle": True}
        for name, variable in dataset.data_vars.items()
        if variable.ndim > 2
    }
    with atomic_path(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)
        return seal(temporary)


def load_netcdf(path: Path) -> tuple[xr.Dataset, str]:
    """Reads into memory what `save_netcdf` wrote, and nothing else.

    The checksum is verified first, since the HDF5 library may crash on damaged bytes.

    Args:
        path: The file.

    Returns:
        The contents, and the checksum.

    Raises:
        OSError: If the file cannot be read, or is no regular file.
        DataError: If it is damaged, or not one of these.
    """
    import h5py  # here: most calls read no results, and it takes a tenth of a second

    with open_plain(path) as file:
        found = seal_of(file)
        if not found:
            raise DataError("its checksum does not fit its contents")
        try:
            with h5py.File(file, "r") as contents:
                if reason := _unexpected(contents, file.seek(0, 2)):
                    raise DataError(reason)
                return _read(contents), found
        except DataError:
            raise
        except Exception as error:  # whatever h5py and xarray raise
            raise DataError(printable(f"not a readable netCDF-4 file ({error})", 200)) from None


# Attributes that say what the dimensions are. References among them may lead the HDF5 library in
# circles, so that only the numbers are read: a dimension's own, and those of an array's dimensions.
_OWN_DIMENSION, _DIMENSIONS = "_Netcdf4Dimid", "_Netcdf4Coordinates"
_STRUCTURE = (
    "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_NCProperties", _OWN_DIMENSION,
    _DIMENSIONS,
)  # fmt: skip


def _read(contents: h5py.File) -> xr.Dataset:
    """The contents of a file, as `xarray.open_dataset` reads it.

    Raises:
        ValueError: If an array's dimensions are not those of the file.
    """
    import h5py

    attributes = {name: _attributes(contents[name]) for name in contents}
    numbers = {
        int(attributes[name][_OWN_DIMENSION]): name
        for name in contents
        if attributes[name].get("CLASS") == b"DIMENSION_SCALE"
    }
    variables = {}
    for name, dataset in contents.items():
        own = attributes[name]
        if bytes(own.get("NAME", b"")).startswith(_NOT_A_VARIABLE):
            continue
        dims = [numbers[int(k)] for k in np.atleast_1d(own.get(_DIMENSIONS, ()))]
        if len(dims) != dataset.ndim:
            raise ValueError(
                f"{name} has {dataset.ndim} dimensions, of which {len(dims)} are named"
            )
        is_text = h5py.check_string_dtype(dataset.dtype) is not None
        values = _texts(dataset.asstr()[()]) if is_text else dataset[()]
        kept = {key: value for key, value in own.items() if key not in _STRUCTURE}
        variables[name] = xr.Variable(dims, values, kept)
    whole = {k: v for k, v in _attributes(contents).items() if k not in _STRUCTURE}
    return xr.decode_cf(xr.Dataset(variables, attrs=whole))


def _texts(values: Any) -> np.ndarray:
    """Texts as an array of texts of one length, unless that would be far longer than they are."""
    values = np.asarray(values, object)
    longest = max(map(len, values.flat), default=0)
    fits = 4 * longest * values.size <= _MAX_TEXT_BYTES
    return values.astype(str) if fits and values.size else values


# What netCDF writes as the name of a dimension without values.
_NOT_A_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"


def _attributes(item: h5py.HLObject) -> dict[str, Any]:
    """Attributes: numbers, a few numbers, or a text; one number is a scalar.

    Raises:
        ValueError: If one is something else, or there are too many.
    """
    import h5py

    found = {}
    if len(item.attrs) > _MAX_ATTRIBUTES:
        raise ValueError(f"there are {len(item.attrs)} attributes")
    for name in item.attrs:
        if name in ("DIMENSION_LIST", "REFERENCE_LIST"):
            continue
        # Their types first: many texts may point to the same bytes of a file.
        stored = item.attrs.get_id(name)
        is_text = h5py.check_string_dtype(stored.dtype) is not None
        count = math.prod(stored.shape)
        if count > (1 if is_text else _MAX_NUMBERS) or not (is_text or stored.dtype.kind in "biuf"):
            raise ValueError(f"the attribute {printable(name)} is unusual")
        value: Any = item.attrs[name]
        if len(value if isinstance(value, str | bytes) else ()) > _MAX_ATTRIBUTE_BYTES:
            raise ValueError(f"the attribute {printable(name)} is too long")
        found[name] = value.item() if is_text and isinstance(value, np.ndarray) else value
        if not is_text and isinstance(value, np.ndarray) and value.shape == (1,):
            found[name] = value[0]
    return found


def _unexpected(contents: h5py.File, size: int) -> str:
    """What is in a file that `save_netcdf` does not write; empty if there is nothing.

    Args:
        contents: The open file.
        size: Its bytes.
    """
    import h5py

    left, text = _MAX_RATIO * size, _MAX_TEXT_BYTES
    for name in contents:
        shown = printable(str(name))
        # The link comes first: to follow one to another file would open that file.
        if not isinstance(contents.get(name, getlink=True), h5py.HardLink):
            return f"{shown} is a link"
        dataset = contents[name]
        if not isinstance(dataset, h5py.Dataset):
            return f"{shown} is no array"
        # Before the shape, which in a virtual dataset depends on other files.
        plan = dataset.id.get_create_plist()
        if plan.get_layout() not in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
            return f"{shown} is made of arrays elsewhere"
        if plan.get_external_count():
            return f"{shown} lies in another file"
        if [plan.get_filter(i)[0] for i in range(plan.get_nfilters())] not in _FILTERS:
            return f"{shown} is packed in an unexpected way"
        is_text = h5py.check_string_dtype(dataset.dtype) is not None
        if dataset.dtype.kind not in "biufS" and not is_text:
            return f"{shown} holds neither numbers nor text"
        left -= dataset.dtype.itemsize * math.prod(dataset.shape)
        if left >= 0 and dataset.dtype.kind == "O":
            text = _left_after_texts(dataset, text, size)
        if left < 0 or text < 0 or not _unpacks_to_its_size(dataset):
            return f"{shown} would take far more memory than its file"
    return ""


def _left_after_texts(dataset: h5py.Dataset, left: int, size: int) -> int:
    """How many bytes are left after all texts of a dataset; below 0 if they have more.

    Args:
        dataset: Of texts.
        left: Before that.
        size: Bytes of the file, which no text exceeds.
    """
    count = math.prod(dataset.shape)
    if count * size <= left:
        return left - count * size
    if count > _MAX_TEXTS:
        return -1
    for index in np.ndindex(dataset.shape):
        left -= len(dataset[index])
        if left < 0:
            break
    return left


def _unpacks_to_its_size(dataset: h5py.Dataset) -> bool:
    """Whether no chunk unpacks to more bytes than it should have.

    The HDF5 library unpacks to the end of what is packed, however long that is.
    """
    if dataset.chunks is None:
        return True
    size = dataset.dtype.itemsize * math.prod(dataset.chunks)
    if not dataset.id.get_num_chunks():
        return True
    if math.prod(dataset.chunks) > math.prod(dataset.shape):
        return False
    large: list[tuple[int, ...]] = []

    def note(chunk: Any) -> None:
        if chunk.size > _SMALL_CHUNK:
            large.append(chunk.chunk_offset)

    dataset.id.chunk_iter(note)
    return all(
        len(zlib.decompressobj().decompress(dataset.id.read_direct_chunk(offset)[1], size + 1))
        <= size
        for offset in large
    )
