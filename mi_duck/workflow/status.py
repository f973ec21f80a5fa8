"""How far a run is: which instances are done, running, lost or still to do, and the time left."""

from pathlib import Path
from typing import Any

from mi_duck.numbers import duration
from mi_duck.resources import GIB
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import instance_state, measurement, status_of
from mi_duck.run.locks import is_locked
from mi_duck.run.plan import Instance, Plan
from mi_duck.workflow.pipeline import is_finished


def run_status(root: Path) -> dict[str, Any]:
    """Return what is done in a run, without touching it.

    Raises
    ------
    CheckpointError
        There is no plan.
    """
    folder = RunFolder(root)
    plan = folder.read_plan()
    instances: list[dict[str, Any]] = []
    causes: dict[str, str] = {}
    for instance in plan.cut.instances:
        status, cause = instance_status(folder, plan, instance)
        measured = measurement(folder, instance) if status == "done" else {}
        instances.append(
            {
                "instance": instance.name,
                "status": status,
                "genes": instance.n_genes,
                "rows": instance.n_rows,
                "predicted_gib": round(instance.predicted_bytes / GIB, 2),
                "peak_gib": round(measured["peak_bytes"] / GIB, 2) if "peak_bytes" in measured else None,
                "predicted_seconds": round(instance.predicted_seconds),
                "wall_seconds": measured.get("wall_seconds"),
            }
        )
        if cause:
            causes[instance.name] = cause
    finished = [one for one in instances if one["wall_seconds"]]
    pace = sum(one["wall_seconds"] for one in finished) / max(sum(one["predicted_seconds"] for one in finished), 1)
    left = sum(one["predicted_seconds"] for one in instances if one["status"] != "done")
    return {
        "seconds_left": round(left * (pace if finished else 1)),
        "n_done": sum(one["status"] == "done" for one in instances),
        "n_running": sum(one["status"] == "running" for one in instances),
        "n_lost": len(causes),
        "causes_of_loss": causes,
        "is_consolidated": folder.model.is_file(),
        "is_finished": is_finished(folder, plan),
        "instances": instances,
    }


def instance_status(folder: RunFolder, plan: Plan, instance: Instance) -> tuple[str, str]:
    """Return how an instance stands, ``done``, ``running``, ``lost`` or ``to do``, and why it was lost."""
    state = instance_state(folder, plan, instance)
    status = status_of(state)
    if status != "done" and is_locked(folder.root, f".lock_{instance.name}"):
        return "running", ""
    return status, state.detail if status == "lost" else ""


def status_lines(facts: dict[str, Any]) -> list[str]:
    """Return in lines what `run_status` found: counts, time left, and why instances were lost."""
    return [
        f"{facts['n_done']} of {len(facts['instances'])} instances done, {facts['n_running']} running, {facts['n_lost']} lost; "
        f"at most {duration(facts['seconds_left'])} of training left; consolidated: {facts['is_consolidated']}; "
        f"finished: {facts['is_finished']}",
        *(f"{name} was lost: {cause}" for name, cause in facts["causes_of_loss"].items()),
    ]
