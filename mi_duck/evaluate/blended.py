"""Scores the runs of a blend on the rows of the blend, and what the blend gains over each, by the same draws of fold groups."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mi_duck.atomic_files import write_csv
from mi_duck.ensemble.member_scores import open_member_scores
from mi_duck.evaluate.holdout import add_lines
from mi_duck.evaluate.scored_rows import metric_lines, scored_rows
from mi_duck.metrics.metrics import DRAWS, Drawn, differences, headline_scores, summary
from mi_duck.processes import Report
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds


def evaluate_blend(
    *, run: str, members: Mapping[str, str], weights: Mapping[str, float], is_minimal: bool, report: Report
) -> None:
    """Add the scores of each run, and the blend minus each, to ``metrics.csv``; write ``blend.csv``, a line per run.

    The blend is evaluated, and its member scores are still in its scratch.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    scores = open_member_scores(folder, plan)
    scored = scored_rows(plan, read_gene_folds(folder, plan), scores, 0 if is_minimal else DRAWS)
    names = [f"p_{name}" for name in plan.data.classes]

    def drawn(root: Path) -> Drawn:
        table = pq.read_table(RunFolder(root).out_of_fold, columns=names)
        values = np.column_stack([table[name].to_numpy() for name in names])[scored.first_scored :]
        return headline_scores(values, scored.label, scored.group, scored.classes, group_draws=scored.group_draws)

    blend = drawn(folder.root)
    lines: list[dict[str, Any]] = []
    table: list[dict[str, Any]] = []
    facts: dict[str, Any] = {"n_genes": int(np.count_nonzero(np.bincount(scored.gene))), "groups": scored.group}
    for done, (name, root) in enumerate(members.items()):
        report("scoring the runs", done, len(members))
        own = drawn(Path(root))
        gaps = summary(differences(blend, own))
        lines += metric_lines(summary(own), scope="ensemble", variant=f"run {name}", **facts)
        lines += metric_lines(gaps, scope="difference", variant=f"ensemble - {name}", **facts)
        table += [
            {"run": name, "weight": weights[name], "metric": one.metric, "class": one.class_name, "value": one.value}
            | {"blend": two.value, "blend_minus_run": gap.value, "low": gap.low, "high": gap.high}
            for one, two, gap in zip(summary(own), summary(blend), gaps, strict=True)
        ]
    add_lines(folder.metrics, lines, instead_of="")
    write_csv(folder.blend, table)
    report("scoring the runs", len(members), len(members))
