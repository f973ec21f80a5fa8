"""Data for tests: a database in memory, rows small enough to read, and planted signals of any size."""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shared import made_once

from mi_duck.data.database import Database
from mi_duck.genome.synthetic import synthesise

# Before XGBoost is loaded: several tests at once share the cores, and threads that spin while they wait made tests of two
# threads take six times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Tests and the modules that children import are compiled once, wherever this is switched off: 8 CPU s for each worker, and
# 0.15 s for each child.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
gc.disable()  # what collecting tests makes is no garbage, and looking for some took a fifth of it

THREE_GENES: list[dict[str, Any]] = [
    {"gene_id": "A", "position": 1, "splice_type": "neither", "donor_score": 0.1, "5mer_GTAAG": 0},
    {"gene_id": "A", "position": 2, "splice_type": "donor", "donor_score": 0.9, "5mer_GTAAG": 2},
    {"gene_id": "A", "position": 3, "splice_type": "neither", "donor_score": 0.2, "5mer_GTAAG": 1},
    {"gene_id": "B", "position": 1, "splice_type": "acceptor", "donor_score": 0.3, "5mer_GTAAG": 0},
    {"gene_id": "B", "position": 2, "splice_type": "neither", "donor_score": None, "5mer_GTAAG": 0},
    {"gene_id": "C", "position": 7, "splice_type": "donor", "donor_score": 0.8, "5mer_GTAAG": 3},
]
"""Six rows of genes A (3 rows), B (2) and C (1): three neither, two donor, one acceptor."""

LONGEST = (
    "test_chaos.py",
    "test_benchmarks.py",
    "test_splitting.py",
    "test_pipeline.py",
    "test_replace.py",
    "test_guard.py",
)
"""Files that take longest, in this order."""

WriteRows = Callable[..., Path]


def pytest_collection_finish() -> None:
    """Look for garbage again, but not among what was collected."""
    gc.enable()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker is left with one of them when the others are done."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture
def db() -> Iterator[Database]:
    """Database in memory with one thread."""
    with Database(threads=1) as database:
        yield database


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Return ``write(*files, name="data", row_group_rows=None, schema=None)``, which returns a folder.

    Each of ``files`` is a list of rows (dictionaries by column) and becomes ``part-0.parquet`` and so on.
    """

    def write(
        *files: Sequence[dict[str, Any]],
        name: str = "data",
        row_group_rows: int | None = None,
        schema: pa.Schema | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, rows in enumerate(files):
            table = pa.Table.from_pylist(list(rows), schema=schema)
            pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=row_group_rows)
        return folder

    return write


@pytest.fixture
def tiny(write_rows: WriteRows) -> Path:
    """Folder with ``THREE_GENES`` in one file."""
    return write_rows(THREE_GENES, name="tiny")


@pytest.fixture
def synthetic(tmp_path: Path) -> Callable[..., Path]:
    """Return ``make(name="synthetic", **options)``: a folder with a planted-signal dataset, small by default."""

    def make(
        *,
        name: str = "synthetic",
        n_genes: int = 30,
        rows_per_gene: float = 40,
        n_features: int = 30,
        missing_fraction: float = 0.0,
        seed: int = 42,
        n_files: int | None = None,
        shuffle_rows: bool = False,
    ) -> Path:
        folder = tmp_path / name
        synthesise(
            folder,
            n_genes=n_genes,
            rows_per_gene=rows_per_gene,
            n_features=n_features,
            missing_fraction=missing_fraction,
            seed=seed,
            n_files=n_files,
            shuffle_rows=shuffle_rows,
        )
        return folder

    return make


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a planted-signal dataset of 60 genes, about 3,500 rows and 40 features; only to be read."""
    return made_once(
        tmp_path_factory, "dataset", lambda folder: synthesise(folder, n_genes=60, rows_per_gene=60, n_features=40)
    )


@pytest.fixture(scope="session")
def lean_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the same of some 2,600 rows and 24 features, for a sixth to a third less time; only to be read."""
    return made_once(
        tmp_path_factory, "lean dataset", lambda folder: synthesise(folder, n_genes=60, rows_per_gene=45, n_features=24)
    )
