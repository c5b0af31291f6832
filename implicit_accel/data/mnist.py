"""Images and their labels: MNIST from the official files, and a stand-in that needs no file."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from implicit_accel.data import fetch
from implicit_accel.errors import DataError, NotHereError, UserError

NUM_CLASSES = 10

MNIST_URLS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_PAGE = "https://github.com/cvdfoundation/mnist"

SIDE = 28
"""Pixels along an image's side."""

MAX_DIMENSIONS = 4
"""The most dimensions of an idx file: images × rows × columns × colours."""


@dataclass(frozen=True)
class IdxFile:
    """What is known of an official file.

    Attributes:
        shape: Sizes that its header gives.
        sha256: Digest of its unpacked bytes: another packing of the same contents will do.
    """

    shape: tuple[int, ...]
    sha256: str

    @property
    def num_bytes(self) -> int:
        """Length of the unpacked file."""
        return 4 + 4 * len(self.shape) + int(np.prod(self.shape))


MNIST_FILES = {
    "train-images-idx3-ubyte": IdxFile(
        (60_000, SIDE, SIDE), "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "train-labels-idx1-ubyte": IdxFile(
        (60_000,), "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    "t10k-images-idx3-ubyte": IdxFile(
        (10_000, SIDE, SIDE), "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "t10k-labels-idx1-ubyte": IdxFile(
        (10_000,), "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}
"""The four official files, named without the ``.gz`` under which they are published."""

# Official names first: a folder with both kinds holds the same data twice.
_ENDINGS = (".gz", "")


@dataclass(frozen=True, eq=False)
class ImageData:
    """Grey images of ten classes, in two parts.

    Attributes:
        name: Short name: "mnist" or "mnist_like".
        train_images: Uint8 array (n, 28, 28), 0 for the background, read-only.
        train_labels: Uint8 array (n,) of classes 0 … 9, read-only.
        test_images: Uint8 array (m, 28, 28), read-only.
        test_labels: Uint8 array (m,), read-only.
        source: One line: where the data are from, and what to cite.
        title: A short label for figures and tables.
        is_stand_in: Whether the data are generated in place of measured ones.

    Raises:
        DataError: Another type or shape, no image, as many labels as there are not images, or a
            label that is no class.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str
    title: str
    is_stand_in: bool = False

    def __post_init__(self) -> None:
        """Checks the arrays and makes them read-only."""
        for part in ("train", "test"):
            images = np.array(getattr(self, f"{part}_images"), order="C")
            labels = np.array(getattr(self, f"{part}_labels"), order="C")
            if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE) or not len(images):
                raise DataError(
                    f"{self.name}: {part} images are {images.dtype} of shape {images.shape}; "
                    f"needed are uint8 of shape (n, {SIDE}, {SIDE}), n at least 1."
                )
            if labels.dtype != np.uint8 or labels.shape != (len(images),):
                raise DataError(
                    f"{self.name}: {part} labels are {labels.dtype} of shape {labels.shape}; "
                    f"needed are uint8 of shape ({len(images)},), one per image."
                )
            bad = np.flatnonzero(labels >= NUM_CLASSES)
            if bad.size:
                raise DataError(
                    f"{self.name}: {part} label {bad[0] + 1} is {labels[bad[0]]}; classes are 0 to "
                    f"{NUM_CLASSES - 1}."
                )
            for what, array in (("images", images), ("labels", labels)):
                array.setflags(write=False)
                object.__setattr__(self, f"{part}_{what}", array)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the arrays' shapes and bytes."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr(array.shape).encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def load_mnist(
    *,
    data_dir: Path | str | None = None,
    urls: tuple[str, ...] | None = MNIST_URLS,
    cache_dir: Path | str | None = None,
    progress: fetch.Progress | None = None,
) -> ImageData:
    """Loads MNIST, 70 000 handwritten digits.

    Cite Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Proceedings of the IEEE 86 (1998). The
    contents are held against the SHA-256 of the official files.

    Args:
        data_dir: Folder with ``mnist/train-images-idx3-ubyte.gz`` and so on, looked in first. The
            files may also lie in it directly, and be unpacked, without the ``.gz``.
        urls: Addresses below which the four files are, used in turn where no folder has them;
            None for no download.
        cache_dir: Folder that keeps a download; by default the user's cache.
        progress: Called with the bytes received and all of them.

    Returns:
        60 000 images to train with and 10 000 to test with, both in the files' order.

    Raises:
        UserError: A folder that does not exist.
        DataError: Missing, damaged or other files, or a failed download.
        NotHereError: The files are not here and there is to be no download.
    """
    addresses = MNIST_URLS if urls is None else urls
    published = fetch.FileSet(
        "mnist", tuple(f"{name}.gz" for name in MNIST_FILES), addresses, MNIST_PAGE
    )
    folder = fetch.locate(
        published, list(MNIST_FILES), endings=_ENDINGS, data_dir=data_dir, cache_dir=cache_dir
    )
    if folder is None and urls is None:
        raise NotHereError(fetch.not_here(published))
    if folder is None:
        # Imported where needed: a fifth of a second that most runs can do without.
        from implicit_accel.data.download import download_files

        folder = download_files(published, _check_files, cache_dir=cache_dir, progress=progress)
    arrays = {}
    for name in MNIST_FILES:
        path = fetch.with_ending(folder / name, _ENDINGS) or folder / name
        arrays[name] = _read_official(fetch.read_file(path), name, str(path))
    train_images, train_labels, test_images, test_labels = arrays.values()
    return ImageData(
        name="mnist",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        source="MNIST; cite LeCun, Bottou, Bengio and Haffner (1998)",
        title="MNIST",
    )


def read_idx(data: bytes, label: str = "idx data") -> np.ndarray:
    """Reads the idx format, as far as MNIST uses it: unsigned bytes.

    A file is two zero bytes, the type (0x08), the number of dimensions, each dimension's size as a
    big-endian 32-bit number, and the values, the last dimension fastest.

    Args:
        data: The unpacked file.
        label: What errors call it.

    Returns:
        Uint8 array of the shape that the header gives, read-only.

    Raises:
        DataError: The bytes are anything else, down to one too few or too many.
    """
    if len(data) < 4:
        raise DataError(f"{label} ends within the header of an idx file, after {len(data)} bytes.")
    if data[:2] != b"\0\0":
        raise DataError(f"{label} is no idx file: it starts with {data[:2].hex()}, not 0000.")
    if data[2] != 8:
        raise DataError(
            f"{label}: idx type {data[2]:#04x}; only 0x08, unsigned bytes, can be read."
        )
    num_dimensions = data[3]
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise DataError(
            f"{label} has {num_dimensions} dimensions; 1 to {MAX_DIMENSIONS} can be read."
        )
    start = 4 + 4 * num_dimensions
    if len(data) < start:
        raise DataError(f"{label} ends within the header of an idx file, after {len(data)} bytes.")
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
    num_values = 1
    for size in shape:
        num_values *= size  # Python's whole numbers do not overflow
    if num_values == 0:
        raise DataError(f"{label} is empty: its header gives the shape {shape}.")
    if len(data) - start != num_values:
        raise DataError(
            f"{label} has {len(data) - start} values, but its header gives the shape {shape}, "
            f"which has {num_values}; get the original file again."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def unpack_gzip(data: bytes, max_bytes: int, label: str = "gzip data") -> bytes:
    """Unpacks a gzip file of bounded length.

    Args:
        data: The packed file.
        max_bytes: Largest length of the contents; no more is unpacked.
        label: Name of the file in errors.

    Returns:
        The contents.

    Raises:
        DataError: The file is damaged, ends early, is followed by other bytes, or is too long.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            contents = file.read(max_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{label} is a damaged gzip file ({error}); get it again.") from error
    if len(contents) > max_bytes:
        raise DataError(f"{label} unpacks to more than the {max_bytes} bytes that it should have.")
    return contents


def _read_official(data: bytes, name: str, label: str) -> np.ndarray:
    """Reads one of ``MNIST_FILES``, packed or not: a server may unpack it on the way."""
    known = MNIST_FILES[name]
    if data[:2] == b"\x1f\x8b":
        data = unpack_gzip(data, known.num_bytes, label)
    array = read_idx(data, label)
    if array.shape != known.shape:
        raise DataError(
            f"{label} has the shape {array.shape}, the official file {known.shape}: get the "
            f"original from {MNIST_PAGE}."
        )
    if hashlib.sha256(data).hexdigest() != known.sha256:
        raise DataError(
            f"{label} differs from the official file in its values: get the original from "
            f"{MNIST_PAGE}."
        )
    return array


def _check_files(files: Mapping[str, bytes]) -> None:
    for name in MNIST_FILES:
        _read_official(files[f"{name}.gz"], name, f"{name}.gz")


def mnist_like(*, num_train: int = 12_000, num_test: int = 2_000, seed: int = 0) -> ImageData:
    """Generates a stand-in for MNIST: pen strokes of ten made-up classes, no measured image in it.

    Each class has a few shapes, smooth random curves. An image is one of its class's shapes,
    wobbled, turned, scaled, sheared and shifted at random, drawn with a soft round pen, with noise
    on the pen's strokes:

        image(x) = min(1, Σ_k exp(−|x − p_k|² / 2σ²)),  p = A c + shift + wobble.

    Args:
        num_train: Images to train with, from 10 up.
        num_test: Images to test with, from 10 up.
        seed: Same seed, same data, and the same shapes whatever the numbers of images.

    Returns:
        Images with an equal share of each class, as far as that goes, in random order.

    Raises:
        UserError: An argument is not a whole number in its range.
    """
    for what, value, least in (
        ("num_train", num_train, NUM_CLASSES),
        ("num_test", num_test, NUM_CLASSES),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise UserError(
                f"mnist_like: {what} is {value!r}; it must be a whole number from {least} up."
            )
    shapes = _stroke_shapes(np.random.Generator(np.random.PCG64([seed, 0])))
    parts = []
    for part, count in ((1, num_train), (2, num_test)):
        rng = np.random.Generator(np.random.PCG64([seed, part]))
        labels = rng.permutation(np.arange(count) % NUM_CLASSES).astype(np.uint8)
        parts += [_draw_strokes(rng, shapes, labels), labels]
    train_images, train_labels, test_images, test_labels = parts
    return ImageData(
        name="mnist_like",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        source="generated stand-in for MNIST, not measured data",
        title="mnist_like (embedded stand-in for MNIST, not real data)",
        is_stand_in=True,
    )


_SHAPES_PER_CLASS = 2
_POINTS = 40  # of the pen along a stroke: less than its width apart
_PEN = 0.9  # σ in pixels


def _stroke_shapes(rng: np.random.Generator) -> np.ndarray:
    """Returns (classes, shapes per class, points, 2): random curves, centred, of unit spread."""
    waves = 3
    angles = np.linspace(0, 1.6 * np.pi, _POINTS)[:, None] * np.arange(1, waves + 1)
    basis = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    # Slower waves are taller, so that strokes look drawn and not scribbled.
    scale = np.tile(1 / np.arange(1, waves + 1), 2)[:, None]
    curves = basis @ (scale * rng.standard_normal((NUM_CLASSES, _SHAPES_PER_CLASS, 2 * waves, 2)))
    curves -= curves.mean(axis=2, keepdims=True)
    return curves / curves.std(axis=2, keepdims=True)


def _draw_strokes(rng: np.random.Generator, shapes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    n = len(labels)
    points = shapes[labels, rng.integers(_SHAPES_PER_CLASS, size=n)]
    # A smooth wobble along the stroke: random weights of its slowest waves.
    along = np.linspace(0, np.pi, _POINTS)[:, None] * np.arange(1, 5)
    points = points + 0.15 * np.cos(along) @ rng.standard_normal((n, 4, 2))
    matrix = np.eye(2) + 0.12 * rng.standard_normal((n, 2, 2))
    angle = rng.normal(0, 0.15, n)
    turn = np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], 1), np.stack([np.sin(angle), np.cos(angle)], 1)],
        axis=1,
    )
    centre = (SIDE - 1) / 2 + rng.normal(0, 1.0, (n, 1, 2))
    points = centre + 5.0 * points @ (turn @ matrix)
    pen = _PEN * rng.uniform(0.7, 1.3, (n, 1, 1))
    # A Gaussian is a product over the axes, so that drawing is a product of matrices.
    rows, columns = (
        np.exp(-(((points[:, :, a, None] - np.arange(SIDE)) / pen) ** 2) / 2) for a in (0, 1)
    )
    ink = np.minimum(1, rows.transpose(0, 2, 1) @ columns)
    ink *= rng.uniform(0.7, 1, ink.shape)
    return np.rint(255 * ink).astype(np.uint8)
