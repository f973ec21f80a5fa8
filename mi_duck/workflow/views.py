"""Turns plans, measurements and scores into the tables that commands show; prints nothing."""

from typing import TYPE_CHECKING, Any

from mi_duck.console import Table
from mi_duck.metrics.metrics import Metric
from mi_duck.numbers import MIB, duration
from mi_duck.resources import GIB
from mi_duck.run.plan import Plan

if TYPE_CHECKING:  # it brings XGBoost, which printing a table has no use for
    from mi_duck.evaluate.compare import Versus
    from mi_duck.plan.memory_report import MemoryReport


def instances_table(plan: Plan) -> Table:
    """Return a row for each instance of a plan."""
    columns = ("instance", "first gene", "stop", "genes", "rows", "predicted GiB", "at most")
    return Table(
        columns,
        tuple(
            (
                one.name,
                f"{one.first_rank:,}",
                f"{one.stop_rank:,}",
                f"{one.n_genes:,}",
                f"{one.n_training_rows:,}",
                f"{one.predicted_bytes / GIB:.2f}",
                duration(one.predicted_seconds),
            )
            for one in plan.cut.instances
        ),
    )


def alternatives_table(plan: Plan) -> Table:
    """Return a row for each way to train the genes of a plan."""
    columns = ("strategy", "layout", "instances", "peak GiB", "at most", "disk GB", "fits")
    return Table(
        columns,
        tuple(
            (
                one["strategy"],
                one["layout"],
                f"{one['n_instances']:,}" if one["is_feasible"] else "-",
                f"{one['peak_bytes'] / GIB:.2f}" if one["peak_bytes"] else "-",
                duration(one["seconds"]) if one["is_feasible"] else "-",
                f"{one['disk_bytes'] / 1e9:.1f}",
                "yes" if one["is_feasible"] else "no",
            )
            for one in plan.cut.alternatives
        ),
    )


def plan_line(plan: Plan) -> str:
    """Return in one line what a plan's instances are together."""
    cut, n_genes = plan.cut, plan.data.n_genes
    redundancy = sum(one.n_genes for one in cut.instances) / n_genes
    return (
        f"{cut.strategy_used}: {len(cut.instances)} instances, neighbours share {cut.overlap_genes:,} genes, "
        f"redundancy {redundancy:.3f}, coverage {n_genes:,}/{n_genes:,}"
    )


def infeasible_lines(plan: Plan) -> list[str]:
    """Return a line for each way to train the genes of a plan that does not fit, with why."""
    return [
        f"    {one['strategy']}, {one['layout']}: {one['reason']}"
        for one in plan.cut.alternatives
        if not one["is_feasible"]
    ]


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
    """Return what a row and a gene cost, beside the 8 MiB a gene that the design documents took."""
    ordered = sorted(found.gene_bytes)
    return {
        "bytes_per_row": round(found.bytes_per_row, 1),
        "fixed_mib": {phase: round(size / MIB, 1) for phase, size in found.fixed_bytes.items()},
        "slope_measured_over_computed": {
            phase: None if slope is None else round(slope, 3) for phase, slope in found.slopes.items()
        },
        "mib_per_gene": {
            "smallest": round(ordered[0] / MIB, 3),
            "median": round(ordered[len(ordered) // 2] / MIB, 3),
            "mean": round(sum(ordered) / len(ordered) / MIB, 3),
            "largest": round(ordered[-1] / MIB, 3),
        },
        "instance_at_8_mib_a_gene": 8.0 * min(genes_per_instance, len(ordered)),
    }


def comparison_table(found: "Versus") -> Table:
    """Return the scores of two runs and their difference, each with its interval."""
    return Table(
        ("metric", "class", "run", "other", "run - other"),
        tuple(
            (one.metric, one.class_name, *map(interval, (one, two, gap)))
            for one, two, gap in zip(found.one, found.other, found.difference, strict=True)
        ),
    )


def interval(metric: Metric) -> str:
    """Return a score with its interval."""
    return f"{metric.value:.4f} ({metric.low:.4f} to {metric.high:.4f})"
