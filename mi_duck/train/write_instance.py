"""The folder of a trained instance: what is in it, how it is written whole or not at all, when it counts as done."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.archive import pack
from mi_duck.atomic_files import file_sha256, sealed, storage_errors, sync_files, sync_folder, write_csv, write_json
from mi_duck.metrics.calibrate import Calibration, cross_fitted
from mi_duck.metrics.metrics import point_scores
from mi_duck.run.encoding import encoding_of
from mi_duck.run.feature_names import feature_kind as kind_of_name
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import Genes
from mi_duck.run.instance_folder import checkpoint_key, made_of
from mi_duck.run.plan import Instance, Plan


@dataclass(frozen=True, slots=True)
class Fit:
    """One booster and how it came to be; as bytes, because a booster in memory keeps its training matrix there.

    Parameters
    ----------
    raw
        Its first ``rounds`` rounds, UBJSON.
    rounds
        Rounds kept.
    curve
        For each round trained: log loss on the training rows and on the stopping rows, shape (n_rounds, 2).
    """

    raw: bytes
    rounds: int
    curve: NDArray[np.float64]


def write_instance(
    folder: RunFolder,
    plan: Plan,
    instance: Instance,
    genes: Genes,
    keys: NDArray[np.void],
    fold: NDArray[np.int8],
    margins: NDArray[np.float32],
    fold_fits: list[list[Fit]],
    final: list[Fit],
    calibration: Calibration,
) -> None:
    """Write the instance's folder beside its place and rename it there."""
    where = folder.instance(instance)
    temporary = where.with_name(f".{where.name}.tmp")
    probabilities = cross_fitted(margins, calibration, fold)
    encoding = encoding_of(plan.settings.layout_used, plan.settings.zero_is_missing)
    facts = {"features": plan.data.features, "classes": plan.data.classes, "encoding": encoding.to_dict()}
    with storage_errors(temporary):
        _remove(temporary)
        temporary.mkdir(parents=True)
        (temporary / "model_multiclass.miduck").write_bytes(
            pack(
                {
                    "model.json": _json(
                        facts
                        | {
                            "kind": "instance",
                            "instance_id": instance.instance_id,
                            "n_genes": instance.n_genes,
                            "n_rows": instance.n_rows,
                            "n_training_rows": instance.n_training_rows,
                            "rounds": [fit.rounds for fit in final],
                            "calibrators": [one.to_dict() for one in calibration.final],
                        }
                    )
                }
                | {f"booster_{index}.ubj": fit.raw for index, fit in enumerate(final)}
            )
        )
        (temporary / "fold_models.miduck").write_bytes(
            pack(
                {
                    "model.json": _json(
                        facts
                        | {
                            "kind": "folds",
                            "rounds": [[fit.rounds for fit in fits] for fits in fold_fits],
                            "calibrators": [[one.to_dict() for one in row] for row in calibration.by_fold],
                        }
                    )
                }
                | {
                    f"booster_{number}_{index}.ubj": fit.raw
                    for number, fits in enumerate(fold_fits)
                    for index, fit in enumerate(fits)
                }
            )
        )
        (temporary / "genes.txt").write_text(
            "".join(
                f"{gene}\n"
                for rank, gene in enumerate(genes.gene_id, genes.first_rank)
                if instance.first_rank <= rank < instance.stop_rank
            ),
            encoding="utf-8",
        )
        write_csv(
            temporary / "gene_cv_metrics.csv",
            [
                {
                    "fold": number,
                    "test_rows": int(rows.sum()),
                    "test_genes": len(np.unique(keys["gene_rank"][rows])),
                }
                | point_scores(probabilities[rows], keys["label"][rows], plan.data.classes)
                for number in range(plan.settings.n_folds)
                for rows in [fold == number]
                if rows.any()
            ],
        )
        write_csv(
            temporary / "feature_manifest.csv",
            [
                {
                    "feature": name,
                    "kind": feature_kind(name, plan.data.base_scores),
                    "dtype": "uint8" if name in set(plan.data.small_features) else "float32",
                    "missing_as": encoding.missing_as(name),
                }
                for name in plan.data.features
            ],
        )
        write_csv(
            temporary / "learning_curves.csv",
            [
                {
                    "fold": number,
                    "class": name,
                    "round": step + 1,
                    "training_log_loss": float(training),
                    "stopping_log_loss": float(stopping),
                    "is_kept": int(step < fits[index].rounds),
                }
                for number, fits in enumerate(fold_fits)
                for index, name in enumerate(plan.data.classes)
                for step, (training, stopping) in enumerate(fits[index].curve)
            ],
        )
        write_json(
            temporary / "calibration.json",
            {
                name: {
                    "method": calibration.final[index].method,
                    "cross_fitted_log_loss": calibration.log_loss[index],
                }
                for index, name in enumerate(plan.data.classes)
            },
        )
        pq.write_table(
            out_of_fold_table(plan, genes, keys, fold, probabilities, margins),
            temporary / "oof_predictions.parquet",
            compression="zstd",
            write_page_checksum=True,
        )
        names = sorted(file.name for file in temporary.iterdir())
        hashes = {name: file_sha256(temporary / name) for name in names}
        sync_files(temporary)
        write_json(
            temporary / "manifest.json",
            sealed(
                {
                    "key": checkpoint_key(plan, instance),
                    "made_of": made_of(plan, instance),
                    "instance_id": instance.instance_id,
                    "n_genes": instance.n_genes,
                    "n_rows": instance.n_rows,
                    "sha256": hashes,
                }
            ),
        )
        _remove(where)
        temporary.replace(where)
        sync_folder(where.parent)


def out_of_fold_table(
    plan: Plan,
    genes: Genes,
    keys: NDArray[np.void],
    fold: NDArray[np.int8],
    probabilities: NDArray[np.floating[Any]],
    margins: NDArray[np.float32] | None = None,
    first_row: int | None = None,
) -> pa.Table:
    """Return the rows of an ``oof_predictions.parquet``: row_id, gene_id, position, label, fold, p_<class>, margins.

    A row_id is the place of the row in the total order of the run, so it names the same row in every file of it.
    """
    n = len(keys)
    begin = _first_row(plan, int(keys["gene_rank"][0])) if first_row is None else first_row
    ranks, codes = np.unique(keys["gene_rank"], return_inverse=True)
    columns: dict[str, Any] = {
        "row_id": pa.array(np.arange(begin, begin + n)),
        "gene_id": pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int32)), pa.array(genes.gene_id[ranks - genes.first_rank], pa.string())
        ),
        "position": pa.array(keys["position"]) if plan.data.position_column else pa.nulls(n, pa.int64()),
        "label": pa.DictionaryArray.from_arrays(pa.array(keys["label"].astype(np.int32)), pa.array(plan.data.classes)),
        "fold": pa.array(fold),
    }
    for index, name in enumerate(plan.data.classes):
        columns[f"p_{name}"] = pa.array(probabilities[:, index].astype(np.float32))
    if margins is not None:
        for index, name in enumerate(plan.data.classes):
            columns[f"margin_{name}"] = pa.array(margins[:, index])
    return pa.table(columns)


def feature_kind(name: str, base_scores: Sequence[str]) -> str:
    """Return ``base score``, ``k-mer`` (such as ``5mer_GTAAG``) or ``other``."""
    if name in base_scores:
        return "base score"
    return "k-mer" if kind_of_name(name) == "k-mer" else "other"


def _first_row(plan: Plan, rank: int) -> int:
    """Return the place in the total order of the first row of a segment's first gene."""
    return next(segment.first_row for segment in plan.cut.segments if segment.first_rank == rank)


def _remove(folder: Path) -> None:
    """Delete a folder of ours, manifest first, so that a half-deleted one never counts as finished.

    Of a link the link goes, and what it points to stays as it is.
    """
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        (folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(folder)


def _json(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True).encode()
