"""Segments of some features, made of segments that hold more, so that Parquet files need not be read again."""

from pathlib import Path

import numpy as np

from mi_duck.atomic_files import file_sha256, sealed, storage_errors, write_json
from mi_duck.rows.segments import SegmentReader, read_manifest, record_type
from mi_duck.run.plan import Plan

BATCH_BYTES = 16 << 20


def write_narrow(plan: Plan, folder: Path, source_plan: Plan, source_folder: Path) -> None:
    """Write the segments of a plan from those of another with the same genes and segments, and all of its features.

    Rows that agree in gene and position stay in the order that all features of the other gave them. What predictions keep of a
    row (`mi_duck.rows.kept`) is not copied: nothing of such a run is predicted.

    Raises
    ------
    CheckpointError
        A segment of the other is missing or damaged.
    StorageError
        The disk is full.
    """
    small = [source_plan.data.small_features.index(name) for name in plan.data.small_features]
    wide = [source_plan.data.wide_features.index(name) for name in plan.data.wide_features]
    record = record_type(plan)
    batch_rows = max(256, BATCH_BYTES // record_type(source_plan).itemsize)
    for segment in plan.cut.segments:
        source, target = source_folder / segment.name, folder / segment.name
        reader = SegmentReader(source_plan, [segment], source_folder)
        with storage_errors(folder):
            target.mkdir(parents=True, exist_ok=True)
            with (target / "features.bin").open("wb") as file:
                for small_columns, wide_columns in reader.records(batch_rows):
                    rows = np.empty(len(small_columns), dtype=record)
                    rows["small"], rows["wide"] = small_columns[:, small], wide_columns[:, wide]
                    file.write(rows.data)
            (target / "keys.bin").write_bytes((source / "keys.bin").read_bytes())
            manifest = read_manifest(source)
            manifest["n_zero"] = [manifest["n_zero"][number] for number in small]
            manifest["n_missing"] = [manifest["n_missing"][number] for number in wide]
            manifest["sha256"] = {name: file_sha256(target / name) for name in ("features.bin", "keys.bin")}
            write_json(target / "segment.json", sealed(manifest))
