"""What commands show of plans, of how far a run is, of measurements and scores: tables and lines; prints nothing."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_duck.console import Table, table_of
from mi_duck.numbers import MIB, decimal, duration, gibibytes, interval
from mi_duck.processes import WHOLE_RUN
from mi_duck.resources import GIB
from mi_duck.run.folder import RunFolder, is_locked
from mi_duck.run.instance_folder import instance_state, measurement, status_of
from mi_duck.run.plan import Instance, Plan
from mi_duck.run.progress import stages_now
from mi_duck.run.stage_times import stage_times, step_times
from mi_duck.workflow.pipeline import is_finished

if TYPE_CHECKING:  # some bring XGBoost, which printing a table has no use for
    from mi_duck.data.dataset import Dataset
    from mi_duck.data.inspection import Inspection
    from mi_duck.evaluate.catalogue import ScoreTable
    from mi_duck.evaluate.compare import Versus
    from mi_duck.plan.memory_report import MemoryReport


def dataset_facts(dataset: "Dataset", found: "Inspection") -> dict[str, Any]:
    """Return what `mi-duck inspect` shows of a dataset."""
    return {
        "files": len(dataset.files),
        "rows": dataset.n_rows,
        "genes": found.genes.n_genes,
        "fold groups": {"column": dataset.fold_column, "number": found.genes.n_groups},
        "rows per gene": found.quantiles,
        "class mix": dict(zip(dataset.classes, found.genes.label_counts, strict=True)),
        "features": {"all": len(dataset.features)} | found.kinds,
        "base scores": list(dataset.base_scores),
        "excluded": dict(dataset.excluded),
        "warnings": list(found.warnings),
    }


def instances_table(plan: Plan) -> Table:
    """Return a row for each instance of a plan."""
    rows = [
        (
            one.name,
            *(f"{count:,}" for count in (one.first_rank, one.stop_rank, one.n_genes, one.n_training_rows)),
            gibibytes(one.predicted_bytes),
            duration(one.predicted_seconds),
        )
        for one in plan.cut.instances
    ]
    return Table(
        ("instance", "first rank", "stop", plan.data.noun.many, "training rows", "predicted GiB", "about"), rows
    )


def alternatives_table(plan: Plan) -> Table:
    """Return a row for each way to train the genes of a plan."""
    rows = [
        (
            one["strategy"],
            one["layout"],
            f"{one['n_instances']:,}" if one["is_feasible"] else "-",
            gibibytes(one["peak_bytes"] or None),
            duration(one["seconds"]) if one["is_feasible"] else "-",
            decimal(one["disk_bytes"] / 1e9, 1),
            "yes" if one["is_feasible"] else "no",
        )
        for one in plan.cut.alternatives
    ]
    return Table(("strategy", "layout", "instances", "peak GiB", "about", "disk GB", "fits"), rows)


SCORES_OF_STRATEGIES = (
    "Their scores: external grows the same trees as single. Several instances, their leaves fitted together, had the average "
    "precision of one model of all rows, but for .001 either way, on the data that were tried, in 1.3 to 1.8 times the time; "
    "their vote alone (--consolidation voting) has less."
)
"""What is known of the scores of the ways to train: ``benchmarks/README.md``, "How should instances become one model?"."""


def plan_line(plan: Plan) -> str:
    """Return what a plan's instances are together."""
    cut, n_genes = plan.cut, plan.data.n_genes
    if len(cut.instances) == 1:
        return f"{cut.strategy_used}: 1 instance of all {plan.data.noun.count(n_genes)}"
    redundancy = sum(one.n_genes for one in cut.instances) / n_genes
    return (
        f"{cut.strategy_used}: {len(cut.instances)} instances, neighbours share {plan.data.noun.count(cut.overlap_genes)}, "
        f"redundancy {redundancy:.3f}, coverage {n_genes:,}/{n_genes:,}"
    )


def infeasible_lines(plan: Plan) -> list[str]:
    """Return a line for each way to train the genes of a plan that does not fit, with why."""
    return [
        f"    {one['strategy']}, {one['layout']}: {one['reason']}"
        for one in plan.cut.alternatives
        if not one["is_feasible"]
    ]


def run_status(root: Path) -> dict[str, Any]:
    """Return what is done in a run, without touching it."""
    folder, now = RunFolder(root), time.time()
    stages = [stage.record(now) for stage in stages_now(root)]
    instances: list[dict[str, Any]] = []
    causes: dict[str, str] = {}
    if stages and not folder.plan.is_file():
        return {"now": stages, "instances": instances}
    plan = folder.read_plan()
    for instance in plan.cut.instances:
        status, cause = instance_status(folder, plan, instance)
        measured = measurement(folder, instance) if status == "done" else {}
        instances.append(
            {
                "instance": instance.name,
                "status": status,
                "genes": instance.n_genes,
                "rows": instance.n_rows,
                "training_rows": instance.n_training_rows,
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
        "now": stages,
        "seconds_left": round(left * (pace if finished else 1)),
        "n_done": sum(one["status"] == "done" for one in instances),
        "n_running": sum(one["status"] == "running" for one in instances),
        "n_lost": len(causes),
        "causes_of_loss": causes,
        "is_consolidated": folder.model.is_file(),
        "is_finished": is_finished(folder, plan),
        "instances": instances,
        "steps": step_times(stage_times(folder, plan)),
    }


def status_table(root: Path, facts: dict[str, Any]) -> Table:
    """Return a row for each instance that `run_status` found."""
    noun = RunFolder(root).read_plan().data.noun
    return table_of(
        [{noun.many if name == "genes" else name: value for name, value in one.items()} for one in facts["instances"]]
    )


def instance_status(folder: RunFolder, plan: Plan, instance: Instance) -> tuple[str, str]:
    """Return how an instance stands, ``done``, ``running``, ``lost`` or ``to do``, and why it was lost."""
    state = instance_state(folder, plan, instance)
    status = status_of(state)
    if status != "done" and is_locked(folder.root, f".lock_{instance.name}"):
        return "running", ""
    return status, state.detail if status == "lost" else ""


def status_lines(facts: dict[str, Any]) -> list[str]:
    """Return in lines what `run_status` found: what is being done, counts, time left, and why instances were lost."""
    doing = [_stage_line(stage) for stage in facts["now"]]
    if "n_done" not in facts:
        return doing
    return [
        *doing,
        f"{facts['n_done']} of {len(facts['instances'])} instances done, {facts['n_running']} running, {facts['n_lost']} lost; "
        f"about {duration(facts['seconds_left'])} of training left; consolidated: {facts['is_consolidated']}; "
        f"finished: {facts['is_finished']}",
        *(f"{name} was lost: {cause}" for name, cause in facts["causes_of_loss"].items()),
        *([f"seconds (of CPU): {', '.join(map(_step_words, facts['steps']))}"] if facts["steps"] else []),
    ]


def _step_words(step: dict[str, Any]) -> str:
    return f"{step['step']} {step['wall_seconds']:.0f} ({step['cpu_seconds']:.0f})"


def _stage_line(stage: dict[str, Any]) -> str:
    left = stage["seconds_left"]
    if stage["stage"] == WHOLE_RUN:
        return f"now, {stage['command']}: about {duration(stage['total'] - stage['done'])} left of {WHOLE_RUN}"
    return (
        f"now, {stage['command']}: {stage['stage']}, {stage['done']:,} of {stage['total']:,}, for "
        f"{duration(stage['seconds'])}"
        + ("" if left is None else f", about {duration(left)} of it left")
        + f"; begun {duration(stage['command_seconds'])} ago"
    )


def headline_table(found: "ScoreTable") -> Table:
    """Return a row for each score: of the ensemble, of the base model, and their difference with its interval.

    Without base scores the ensemble's own interval stands there.
    """
    from mi_duck.metrics.metrics import GAIN

    of_model = {line[0]: line[1:] for line in found.lines}
    ensemble, base, gain = (of_model.get(name) for name in ("ensemble", "base", GAIN))
    if ensemble is None or base is None or gain is None:
        own = ensemble or found.lines[-1][1:]
        return Table(("score", "ensemble"), list(zip(found.columns[1:], own, strict=True)))
    rows = [
        (name, one.split(" ")[0], other.split(" ")[0], difference)
        for name, one, other, difference in zip(found.columns[1:], ensemble, base, gain, strict=True)
    ]
    return Table(("score", "ensemble", "base", GAIN), rows)


def read_blend(run: Path) -> list[dict[str, Any]]:
    """Return the lines of ``blend.csv``: for each run of a blend its weight and, of each score, what the blend gains."""
    from mi_duck.evaluate.report_tables import read_typed

    lines: list[dict[str, Any]] = read_typed(RunFolder(run).blend).to_pylist()
    return lines


def blend_table(run: Path) -> Table:
    """Return a row for each run of a blend: its weight, and the blend minus the run in average precision and log loss."""
    from mi_duck.metrics.metrics import title_of

    cells: dict[str, list[str]] = {}
    columns = ["run", "weight"]
    for line in read_blend(run):
        if line["metric"] in ("average_precision", "log_loss"):
            title = f"blend - run, {title_of(line['metric'], line['class'])}"
            columns += [title] if title not in columns else []
            row = cells.setdefault(line["run"], [line["run"], decimal(line["weight"])])
            row.append(interval(line["blend_minus_run"], line["low"], line["high"], signed=True))
    return Table(columns, list(cells.values()))


def peak_records(found: "MemoryReport") -> list[dict[str, Any]]:
    """Return predicted and measured peaks, a record for each size tried."""
    return [
        {
            "use": "probe" if one.is_probe else "check",
            "layout": one.layout,
            "genes": one.n_genes,
            "rows": one.n_rows,
            "predicted_mib": round(one.predicted_bytes / MIB, 1),
            "measured_mib": round(one.measured_bytes / MIB, 1),
            "ratio": round(one.ratio, 3),
        }
        for one in found.peaks
    ]


def gene_facts(found: "MemoryReport", genes_per_instance: int) -> dict[str, Any]:
    """Return what a row and a gene cost, beside an instance at 8 MiB per gene."""
    ordered = sorted(found.gene_bytes)
    return {
        "bytes_per_row": round(found.bytes_per_row, 1),
        "constant_mib": {phase: round(size / MIB, 1) for phase, size in found.constant_bytes.items()},
        "slope_measured_over_computed": {
            phase: None if slope is None else round(slope, 3) for phase, slope in found.slopes.items()
        },
        "mib_per_gene": {
            "smallest": round(ordered[0] / MIB, 3),
            "median": round(ordered[len(ordered) // 2] / MIB, 3),
            "mean": round(sum(ordered) / len(ordered) / MIB, 3),
            "largest": round(ordered[-1] / MIB, 3),
        },
        # MiB by the rule of thumb that a gene takes 8, to be compared with what was measured
        "instance_at_8_mib_a_gene": 8.0 * min(genes_per_instance, len(ordered)),
    }


def comparison_lines(found: "Versus") -> list[str]:
    """Return on which rows two runs are compared, and which are left out."""
    lines = [
        f"On the {found.n_rows:,} common rows, each scored by models that never saw its fold group; 95 % intervals over "
        f"{found.n_groups:,} fold groups, for these trained models"
    ]
    if found.n_pilot_rows:
        lines.append(f"Left out: {found.n_pilot_rows:,} rows by which a run chose its features")
    return lines


def comparison_table(found: "Versus") -> Table:
    """Return the scores of two runs and their difference, each with its interval."""
    rows = [
        (
            one.metric,
            one.class_name,
            interval(one.value, one.low, one.high),
            interval(two.value, two.low, two.high),
            interval(gap.value, gap.low, gap.high, signed=True),
        )
        for one, two, gap in zip(found.one, found.other, found.difference, strict=True)
    ]
    return Table(("metric", "class", "run", "other", "run - other"), rows)


def true_rate_table(scores: list[dict[str, Any]]) -> Table:
    """Return a line for each score at the true rate: base scores, ensemble, and the difference with its interval."""
    models = list(dict.fromkeys(one["model"] for one in scores))
    value_of = {(one["model"], one["metric"], one["class"]): one for one in scores}
    rows = []
    for _, metric, name in dict.fromkeys(("", one["metric"], one["class"]) for one in scores):
        found = [value_of[model, metric, name] for model in models]
        last = found[-1]
        cells = [decimal(one["value"]) for one in found[:-1]]
        cells.append(interval(last["value"], last["low"], last["high"], signed=True))
        rows.append((f"{metric.replace('_', ' ')}, {name}", *cells))
    return Table(("score", *models), rows)


def error_lines(errors: list[dict[str, Any]]) -> list[str]:
    """Return in words what base scores and ensemble call by mistake where they find four fifths of the sites."""
    return [
        f"{one['class']}s, {one['model']}: {sum(one['n'].values()):,} called by mistake at recall .8: "
        + ", ".join(f"{n:,} {kind}" for kind, n in one["n"].items())
        + f"; {one['n_supported']:,} of those that are not annotated have a base score of .5 or more"
        for one in errors
    ]
