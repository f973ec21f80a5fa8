"""Arrays as bytes in a model's file: NumPy's own format, which runs no code when it is read, and a check of their shapes."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def array_bytes(array: NDArray[Any]) -> bytes:
    """Return an array in NumPy's format."""
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(array))
    return sink.getvalue()


def read_array(data: bytes, kind: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Return an array from its bytes; a `ValueError` where it is of another type or shape, or is not finite.

    Parameters
    ----------
    shape
        None where any length will do.
    """
    found: NDArray[Any] = np.load(io.BytesIO(data))
    if found.dtype != kind or found.ndim != len(shape):
        raise ValueError(f"an array of {found.dtype} with {found.ndim} dimensions is not one of this model")
    if any(wanted is not None and wanted != there for wanted, there in zip(shape, found.shape, strict=True)):
        raise ValueError(f"an array of shape {found.shape} instead of {shape}")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError("an array holds numbers that are not finite")
    return found
