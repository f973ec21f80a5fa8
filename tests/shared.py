"""What tests share: things made once for all workers of a session, and the layout, settings and demand that plans begin with."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mi_duck.plan.strategies import CutRequest
from mi_duck.resources import Budget
from mi_duck.run.costs import Layout
from mi_duck.run.plan import Settings

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
SETTINGS = Settings(
    seed=42,
    n_folds=3,
    n_estimators=100,
    early_stopping_patience=0,
    max_depth=6,
    learning_rate=0.1,
    max_bin=256,
    calibrate=True,
)
# 3,000 genes of 400 rows: some 1 GiB in one matrix
REQUEST = CutRequest(
    budget=Budget(1 << 40, "", True),
    training_rows=np.full(3000, 400),
    genes_per_instance=1500,
    overlap=0.1,
    max_instances=10,
    auto_adjust=True,
    n_fitted=3,
    record_bytes=130,
    n_rows_written=1_200_000,
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
