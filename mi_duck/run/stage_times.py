"""What the steps of a run used: time, memory and bytes read, by stage.

``stage_times.json`` keeps it for all steps but training, which notes it in the folder of each instance. A step that is done
again replaces what it noted before; an instance whose training was interrupted has the stages of the process that ended it.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mi_duck.atomic_files import write_json
from mi_duck.processes import Context
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import measurement
from mi_duck.run.plan import Plan
from mi_duck.usage import Meter, StageUsage, records

PLANNING, READING, TRAINING = "planning", "reading rows", "training"
REFITTING, JOINING = "refitting leaves", "joining instances"
SCORING, HOLDOUT, WHOLE_GENES = "scoring", "scoring held-out genes", "scoring whole genes"
EXPLAINING, REPORT, CATALOGUE = "instance folders, explanation", "report", "catalogue"
STEPS = (
    *(PLANNING, READING, TRAINING, REFITTING, JOINING),
    *(SCORING, HOLDOUT, WHOLE_GENES, EXPLAINING, REPORT, CATALOGUE),
)
"""Steps of a run, in their order."""


def keep_stages(folder: RunFolder, step: str, stages: Sequence[StageUsage]) -> None:
    """Note what the stages of a step used."""
    write_json(folder.stage_times, _read(folder) | {step: records(stages)})


def metered(context: Context) -> tuple[Meter, Context]:
    """Return a meter of what this process does from now on, and a context whose stages it sees."""
    meter = Meter()
    return meter, replace(context, report=meter.watching(context.report))


def stage_times(folder: RunFolder, plan: Plan) -> list[dict[str, Any]]:
    """Return one line for each stage of each step and instance, in their order.

    Its fields are those of `StageUsage`, ``step``, ``instance_id`` (None but for training) and ``n_rows``, the rows that the step
    works on.
    """
    found = _read(folder)
    of_run = {"instance_id": None, "n_rows": plan.data.n_rows}
    lines = []
    for step in STEPS:
        if step == TRAINING:
            for one in plan.cut.instances:
                facts = {"step": step, "instance_id": one.instance_id, "n_rows": one.n_training_rows}
                lines += [facts | stage for stage in measurement(folder, one).get("stages", [])]
        else:
            lines += [{"step": step} | of_run | stage for stage in found.get(step, [])]
    return lines


def step_times(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of `stage_times` joined into one for each step: seconds and bytes added up, the highest peak."""
    steps: dict[str, dict[str, Any]] = {}
    for line in lines:
        step = steps.setdefault(
            line["step"],
            {"step": line["step"], "wall_seconds": 0.0, "cpu_seconds": 0.0, "peak_bytes": 0, "bytes_read": 0},
        )
        for name in ("wall_seconds", "cpu_seconds", "bytes_read"):
            step[name] += line[name]
        step["peak_bytes"] = max(step["peak_bytes"], line["peak_bytes"])
    return list(steps.values())


def _read(folder: RunFolder) -> dict[str, Any]:
    """Return what was noted, empty where nothing readable was."""
    try:
        found = json.loads(folder.stage_times.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
