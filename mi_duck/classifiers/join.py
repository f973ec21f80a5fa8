"""From a trained classifier, or a blend, to what every run has: scores of all rows, one model, thresholds and a summary."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.atomic_files import storage_errors, write_file, write_json
from mi_duck.classifiers.blocks import READ_BYTES
from mi_duck.classifiers.model import with_thresholds
from mi_duck.ensemble.consolidate import summary_of, vote_on_scores, write_tables
from mi_duck.ensemble.member_scores import member_table
from mi_duck.ensemble.voting import variants
from mi_duck.metrics.ranking import Floats32, values_of
from mi_duck.processes import Report
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneFolds, read_gene_folds
from mi_duck.run.plan import Plan


def join_classifier(*, run: str, report: Report) -> None:
    """Write ``oof_predictions.parquet``, model, thresholds and summary of a run whose one classifier is trained."""
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    (instance,) = plan.cut.instances
    genes = read_gene_folds(folder, plan)
    where = folder.instance(instance)
    names = [f"{kind}_{name}" for kind in ("margin", "p") for name in plan.data.classes]
    table = pq.read_table(where / "oof_predictions.parquet", columns=names)
    scores = np.column_stack([table[name].to_numpy() for name in names]).astype(np.float32)
    n_classes = len(plan.data.classes)
    with storage_errors(folder.root):
        folder.scratch.mkdir(parents=True, exist_ok=True)
        tables = _member_tables(folder, plan, genes, scores[:, :n_classes], scores[:, n_classes:], report)
        write_tables(folder.members, tables, use_dictionary=False)
    joined = vote_on_scores(folder, plan, genes, variants("voting", "probability", "uniform"), report=report)
    path = where / "model_multiclass.miduck"
    write_file(folder.model, with_thresholds(path.read_bytes(), str(path), values_of(joined.thresholds)))
    write_json(folder.thresholds, joined.thresholds)
    write_json(
        folder.summary, {**summary_of(folder, plan, joined, {instance: {}}), "estimator": plan.settings.estimator}
    )


def _member_tables(
    folder: RunFolder, plan: Plan, genes: GeneFolds, margins: Floats32, probabilities: Floats32, report: Report
) -> Iterator[pa.Table]:
    """Yield the rows of the file of member scores, with the base scores from the segments."""
    base = [plan.data.features.index(name) for name in plan.data.base_scores]
    reader = SegmentReader(plan, plan.cut.segments, folder.segments)
    keys, begin = reader.keys(), 0
    for matrix in reader.matrices(max(256, READ_BYTES // (4 * len(plan.data.features)))):
        rows = slice(begin, begin + len(matrix))
        fold = genes.fold[keys["gene_rank"][rows]].astype(np.int8)
        yield member_table(
            plan,
            keys[rows],
            fold,
            [0],
            margins[None, rows],
            probabilities[None, rows].astype(np.float64),
            None,
            matrix[:, base],
        )
        begin += len(matrix)
        report("joining scores", begin, len(keys))
