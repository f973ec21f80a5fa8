"""Graphics memory: which devices this process sees, and what training takes of one, by formula.

The formula follows XGBoost 3.2's ELLPACK page and has not been compared with a device.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

from mi_duck.errors import MemoryBudgetError, PlanError
from mi_duck.plan.memory import Layout
from mi_duck.plan.plan import Instance
from mi_duck.resources import GIB

CONTEXT_BYTES = 512 << 20  # of CUDA and XGBoost's kernels
SHARE = 0.9  # of a device's memory that a plan may take


@dataclass(frozen=True, slots=True)
class Device:
    """A CUDA device and its memory in bytes."""

    name: str
    total_bytes: int


def cuda_devices() -> tuple[Device, ...]:
    """Return the CUDA devices that this process may use, by the driver; none where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found = []
    for number in range(count.value):
        device, name, size = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
        answers = (
            driver.cuDeviceGet(ctypes.byref(device), number),
            driver.cuDeviceGetName(name, len(name), device),
            driver.cuDeviceTotalMem_v2(ctypes.byref(size), device),
        )
        if not any(answers):
            found.append(Device(name.value.decode(errors="replace"), size.value))
    return tuple(found)


def check_device(device: str, strategy: str) -> None:
    """Refuse a device that is not there: XGBoost itself would train on the processor and only warn.

    Raises
    ------
    PlanError
        There is no CUDA device, or the matrix is to lie on disk, which is offered on the processor alone.
    """
    if device == "cpu":
        return
    if strategy == "external":
        raise PlanError("--strategy external and --device cuda exclude each other; give one")
    if not cuda_devices():
        raise PlanError("--device cuda: this process sees no CUDA device; leave it out, or ask the scheduler for one")


def gpu_bytes(n_rows: int, layout: Layout) -> int:
    """Return the memory that training takes on a device, in bytes.

    Parameters
    ----------
    n_rows
        Rows that are trained on.
    layout
        Of data and training.

    Notes
    -----
    A bin of a dense matrix takes the bits of the largest column, one of a matrix with missing values the bits of all columns
    together, for every cell. A row has gradients (two copies of 8 bytes), row ids and positions (20), margin, label and
    weight (4 each). A node has 16 bytes a bin.
    """
    bits = ceil(log2((layout.bins if layout.missing_share else layout.max_bin) + 1))
    cells = n_rows * layout.n_features * bits / 8
    return int(CONTEXT_BYTES + cells + 48 * n_rows + 16 * layout.bins * 2**layout.max_depth)


def check_graphics_memory(instances: Sequence[Instance], layout: Layout) -> str:
    """Return what the largest instance takes of the smallest device, in words.

    Raises
    ------
    MemoryBudgetError
        It takes more than there is.
    """
    largest = max(instances, key=lambda one: one.n_training_rows)
    needed = gpu_bytes(largest.n_training_rows, layout)
    device = min(cuda_devices(), key=lambda one: one.total_bytes)
    words = f"{needed / GIB:.2f} GiB by formula, of {device.total_bytes / GIB:.1f} GiB of {device.name}"
    if needed > SHARE * device.total_bytes:
        fewer = max(1, int(largest.n_genes * SHARE * device.total_bytes / needed))
        raise MemoryBudgetError(
            f"{largest.name} needs {words}; set --genes-per-instance {fewer:,} or less, or leave --device cuda out"
        )
    return f"graphics memory of the largest instance: {words}"
