"""Joins the trained instances of a run into one model file; runs in a child process.

Out-of-fold scores of all rows decide voting, weights and thresholds; the model is of the instances' final boosters.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mi_duck.atomic_files import file_sha256, write_json
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel, consolidate
from mi_duck.ensemble.model_file import load_unified_model, save_model
from mi_duck.ensemble.out_of_fold import predict_out_of_fold
from mi_duck.metrics.calibrate import Calibrator
from mi_duck.metrics.ranking import values_of
from mi_duck.processes import Report
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import is_trained
from mi_duck.run.plan import Instance, Plan


def join_run(*, run: str, threads: int, voting: str, weights: str, report: Report) -> dict[str, list[str]]:
    """Score all rows out of fold and write model, thresholds and summary.

    Parameters
    ----------
    run, threads, voting, weights, report
        See `mi_duck.ensemble.out_of_fold.predict_out_of_fold`.

    Returns
    -------
    dict
        ``messages``: for the user.

    Raises
    ------
    CheckpointError
        No instance is trained.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    messages: list[str] = []
    scored = predict_out_of_fold(run=run, threads=threads, voting=voting, weights=weights, report=report)
    name = f"{scored['voting']}/{scored['method']}"
    losses: dict[str, float] = scored["log_loss"]
    if len(losses) > 1:
        others = ", ".join(f"{other} {loss:.6f}" for other, loss in losses.items() if other != name)
        messages.append(
            f"Voting and weights: {name} has the lowest cross-fitted log loss, {losses[name]:.6f} ({others})"
        )
    trained = [instance for instance in plan.cut.instances if is_trained(folder, plan, instance)]
    covered = {rank for instance in trained for rank in range(instance.first_rank, instance.stop_rank)}
    members = [load_unified_model(folder.instance(instance)) for instance in trained]
    model = consolidate(
        [member for member in members if isinstance(member, InstanceModel)],
        n_genes=len(covered),
        thresholds=values_of(scored["thresholds"]),
        voting=scored["voting"],
        weights=scored["weights"],
        calibrators=[Calibrator.from_dict(values) for values in scored["calibrators"]],
    )
    save_model(folder.model, model)
    write_json(folder.thresholds, scored["thresholds"])
    write_json(folder.summary, _summary(folder, plan, trained, model, scored, n_genes=len(covered)))
    messages.append(f"Gene coverage: {len(covered):,}/{plan.data.n_genes:,} ({len(covered) / plan.data.n_genes:.1%})")
    return {"messages": messages}


def _summary(
    folder: RunFolder,
    plan: Plan,
    trained: Sequence[Instance],
    model: ConsolidatedMetaModel,
    scored: dict[str, Any],
    *,
    n_genes: int,
) -> dict[str, Any]:
    """Return ``consolidation_summary.json``: the model, how its members are joined, and the hashes of their files."""
    return {
        "model_sha256": file_sha256(folder.model),
        "out_of_fold_sha256": file_sha256(folder.out_of_fold),
        "dataset_fingerprint": plan.data.fingerprint,
        "classes": model.classes,
        "n_features": len(model.features),
        "n_instances": len(plan.cut.instances),
        "instances_lost": [one.instance_id for one in plan.cut.instances if one not in trained],
        "voting": model.voting,
        "weights": scored["method"],
        "variant": f"{scored['voting']}/{scored['method']}",
        "cross_fitted_log_loss": scored["log_loss"],
        "all_weights": scored["all_weights"],
        "n_genes": plan.data.n_genes,
        "n_genes_trained": n_genes,
        "coverage_fraction": n_genes / plan.data.n_genes,
        "thresholds": model.thresholds,
        "members": [
            {
                "instance_id": instance.instance_id,
                "n_genes": instance.n_genes,
                "n_rows": instance.n_rows,
                "weight": weight,
                "rounds": member.metadata["rounds"],
                "model_sha256": file_sha256(folder.instance(instance) / "model_multiclass.miduck"),
                "fold_models_sha256": file_sha256(folder.instance(instance) / "fold_models.miduck"),
                "genes_sha256": file_sha256(folder.instance(instance) / "genes.txt"),
            }
            for instance, member, weight in zip(trained, model.members, model.weights, strict=True)
        ],
    }
