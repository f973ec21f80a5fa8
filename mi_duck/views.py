"""Turns plans, measurements and values into the tables and words that commands show; prints nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mi_duck.plan.plan import Plan
from mi_duck.resources import GIB
from mi_duck.train.evaluate import Metric

if TYPE_CHECKING:  # they bring XGBoost, which printing a table has no use for
    from mi_duck.ensemble.versus import Versus
    from mi_duck.plan.measuring import MemoryReport

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Table:
    """Names of columns, and the rows below them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def table_of(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of one or more records that have the same keys."""
    return Table(tuple(records[0]), tuple(tuple(record.values()) for record in records))


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
            for one in plan.instances
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
            for one in plan.alternatives
        ),
    )


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


def fact_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return facts as lines of a name and a value."""
    return [f"{name.replace('_', ' '):<28} {_words(value)}" for name, value in facts.items()]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_number(number)}" for key, number in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "; ".join(str(item) for item in value) or "none"
    return _number(value)


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Return a time as people say it.

    Examples
    --------
    >>> duration(59), duration(600), duration(9000)
    ('59 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def plain(value: Any) -> Any:
    """Return a value without NaN and infinities, which JSON lacks: they become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def unique(names: Sequence[str]) -> list[str]:
    """Return names of which none is lost as a key: the second ``a`` becomes ``a_2``."""
    return [name if name not in names[:at] else f"{name}_{names[:at].count(name) + 1}" for at, name in enumerate(names)]
