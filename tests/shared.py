"""What tests share: things made once for all workers of a session, and the layout that predictions begin with."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mi_duck.plan.memory import Layout

DENSE = Layout(
    n_features=1_167,
    n_wide=76,
    bins=40_000,
    missing_share=0.0,
    stored_share=1.0,
    has_sparse_column=False,
    n_classes=3,
    max_bin=256,
    max_depth=6,
    threads=2,
    cv="matrices",
)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder of the session that ``make`` fills when it is first asked for; other workers wait; only to be read."""
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    done = root / f"{name} is made"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(root / name)
            done.touch()
    return root / name
