"""The tables that an evaluation writes beside ``metrics.csv``: coverage, comparison, curves, calibration, neighbourhoods."""

import json
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.checkpoint import storage_errors, write_csv, write_json
from mi_duck.ensemble.calibration_report import INTERVALS, calibration_facts, reliability, values_of
from mi_duck.ensemble.comparison import compare
from mi_duck.ensemble.curve_points import curve_points
from mi_duck.ensemble.member_scores import MemberScores
from mi_duck.ensemble.neighbours import by_distance, neighbours
from mi_duck.ensemble.scored_rows import BaseModel, Scored
from mi_duck.ensemble.variants import Variant, Voted
from mi_duck.ensemble.weights import MemberWeights
from mi_duck.folders import RunFolder
from mi_duck.plan.plan import Plan
from mi_duck.train.calibrate import logistic
from mi_duck.train.evaluate import Drawn, differences, summary

NO_BASE = "the dataset has no base score for every class, so there is no base model to compare with"
NO_POSITION = "the dataset has no column with positions"


def write_coverage(folder: RunFolder, plan: Plan, instance_ids: Sequence[int]) -> None:
    """Write which genes are in which trained instances."""
    names = pq.read_schema(folder.genes).names
    wanted = ["gene_id", "n_rows", "fold", "gene_rank", *(["is_holdout"] if "is_holdout" in names else [])]
    members = [plan.instance(number) for number in instance_ids]
    lines = []
    for row in pq.read_table(folder.genes, columns=wanted).to_pylist():
        inside = [one.instance_id for one in members if one.first_rank <= row["gene_rank"] < one.stop_rank]
        lines.append(
            {
                "gene_id": row["gene_id"],
                "n_rows": row["n_rows"],
                "fold": row["fold"],
                "instances": ";".join(str(number) for number in inside),
                "trained": int(bool(inside)),
                "held_out": int(row.get("is_holdout", False)),
            }
        )
    write_csv(folder.gene_coverage, lines)


def write_comparison(
    folder: RunFolder,
    base: NDArray[np.float32] | None,
    meta: NDArray[np.float32],
    scored: Scored,
    positions: NDArray[np.int64] | None,
    drawn: Drawn,
    base_drawn: Drawn,
) -> None:
    """Write ``base_vs_meta.json``."""
    if base is None:
        write_json(folder.base_vs_meta, {"status": "left out", "reason": NO_BASE})
        return
    classes = compare(
        base,
        meta,
        scored.label,
        scored.group,
        scored.gene,
        scored.classes,
        positions=positions,
        weights=scored.weights,
    )
    tables = {
        "base": summary(base_drawn),
        "meta": summary(drawn),
        "difference": summary(differences(drawn, base_drawn)),
    }
    top_k = {
        name: {
            who: values_of(one)
            for who, table in tables.items()
            for one in table
            if (one.metric, one.class_name) == ("top_k_accuracy", name)
        }
        for name in (*scored.classes[1:], "macro")
    }
    facts: dict[str, Any] = {
        "status": "compared",
        "n_rows": len(scored.label),
        "intervals": "95 %, bootstrap over fold groups; differences are ensemble - base",
        "classes": classes,
        "top_k_accuracy": top_k,
    }
    if positions is None:
        facts["by_kind"] = f"left out: {NO_POSITION}"
    write_json(folder.base_vs_meta, facts)


def forget_diagnostics(folder: RunFolder) -> None:
    """Delete what an earlier evaluation wrote and this one may leave out."""
    with storage_errors(folder.root):
        folder.curves.unlink(missing_ok=True)
        for name in ("calibration.json", "reliability.csv"):
            (folder.calibration_analysis / name).unlink(missing_ok=True)
        if folder.neighbours.is_dir():
            shutil.rmtree(folder.neighbours)


def _models(base: NDArray[np.float32] | None, meta: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {"ensemble": meta} if base is None else {"base": base, "ensemble": meta}


def write_curves(
    folder: RunFolder, base: NDArray[np.float32] | None, meta: NDArray[np.float32], scored: Scored
) -> None:
    """Write ``curves.csv``."""
    write_csv(
        folder.curves,
        [
            {"scope": scope, "class": name} | point
            for scope, chances in _models(base, meta).items()
            for index, name in enumerate(scored.classes)
            for point in curve_points(chances[:, index], scored.label == index)
        ],
    )


def write_calibration(
    folder: RunFolder,
    plan: Plan,
    scores: MemberScores,
    scored: Scored,
    base: BaseModel | None,
    voted: Voted,
    chosen: Variant,
    weights: MemberWeights,
) -> None:
    """Write ``calibration.json`` and ``reliability.csv``."""
    meta = voted.chances[scored.first_row :]
    facts: dict[str, Any] = {"n_rows": len(scored.label), "intervals": INTERVALS}
    if voted.margins is not None and voted.calibration is not None:
        before = logistic(voted.margins[scored.first_row :].astype(np.float64))
        methods: list[Any] = [one.method for one in voted.calibration.final]
    else:
        before = np.zeros(meta.shape)
        by_fold = np.array(weights.by_fold)
        for place, instance_id in enumerate(scores.instance_ids):
            margins = scores.margins(instance_id)[scored.first_row :].astype(np.float64)
            before += by_fold[scored.fold, place][:, None] * logistic(margins)
        methods = _member_methods(folder, plan, scores.instance_ids)
    facts["variant"] = chosen.name
    facts["ensemble"] = calibration_facts(
        before, meta, scored.label, scored.group, scored.classes, methods=methods, weights=scored.weights
    )
    if base is None:
        facts["base"] = {"status": "left out", "reason": NO_BASE}
    else:
        facts["base"] = calibration_facts(
            base.before,
            base.chances,
            scored.label,
            scored.group,
            scored.classes,
            methods=[one.method for one in base.calibration.final],
            weights=scored.weights,
        )
    write_json(folder.calibration_analysis / "calibration.json", facts)
    lines = [
        {"scope": scope} | line
        for scope, chances in _models(None if base is None else base.chances, meta).items()
        for line in reliability(chances, scored.label, scored.group, scored.classes, weights=scored.weights)
    ]
    write_csv(folder.calibration_analysis / "reliability.csv", lines)


def _member_methods(folder: RunFolder, plan: Plan, instance_ids: Sequence[int]) -> list[dict[str, str]]:
    """Return for each class the calibration that each member chose."""
    chosen = {
        number: json.loads((folder.instance(plan.instance(number)) / "calibration.json").read_bytes())
        for number in instance_ids
    }
    return [
        {plan.instance(number).name: facts[name]["method"] for number, facts in chosen.items()} for name in plan.classes
    ]


def write_neighbours(
    folder: RunFolder,
    base: NDArray[np.float32] | None,
    meta: NDArray[np.float32],
    scored: Scored,
    positions: NDArray[np.int64] | None,
    gene_ids: Sequence[str],
    n_sites: int,
) -> None:
    """Write ``neighbour_diagnostics/``."""
    facts: dict[str, Any] = {"n_sites_asked": n_sites}
    if positions is None:
        write_json(folder.neighbours / "neighbours.json", facts | {"status": "left out", "reason": NO_POSITION})
        return
    lines = neighbours(
        base,
        meta,
        scored.label,
        scored.gene,
        positions,
        scored.classes,
        gene_ids=gene_ids,
        n_sites=n_sites,
        seed=scored.seed,
    )
    write_csv(folder.neighbours / "neighbours.csv", lines)
    write_csv(folder.neighbours / "by_distance.csv", by_distance(lines))
    n_written = len({line["site"] for line in lines})
    write_json(folder.neighbours / "neighbours.json", facts | {"status": "written", "n_sites": n_written})
