"""What ``predict`` does with a dataset or a genome, and ``evaluate`` with a genome."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mi_duck.processes import Context, in_child
from mi_duck.settings import Scanning
from mi_duck.workflow import steps


def predict_any(
    model: Path, dataset: str | None, scanning: Scanning, out: Path, context: Context
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Predict a dataset, or without one the genome that ``scanning`` names; return facts and warnings."""
    from mi_duck.ensemble.model_file import load_unified_model

    loaded = load_unified_model(model)
    begun = time.monotonic()
    if dataset is not None:
        from mi_duck.ensemble.predict import predict_file

        of_rows = predict_file(loaded, dataset, out, threads=context.threads, report=context.report)
        facts, warnings = asdict(of_rows) | {"out": str(out)}, of_rows.warnings
        unit, n_now = "rows", of_rows.n_rows - of_rows.n_rows_before
    else:
        from mi_duck.genome.predict_sequence import predict_sequence

        found = predict_sequence(
            loaded, scanning, out, source=str(model), threads=context.threads, report=context.report
        )
        facts, warnings = asdict(found), found.warnings
        del facts["warnings"]
        unit, n_now = "positions", found.n_positions - found.n_positions_before
    seconds = time.monotonic() - begun
    return facts | {"seconds": round(seconds, 2), f"{unit}_per_second": round(n_now / seconds)}, warnings


def evaluate_sequence(run: Path, scanning: Scanning, n_genes: int, context: Context) -> dict[str, Any]:
    """Score every position of some genes, in a child process; see `mi_duck.genome.evaluate_sequence.score_run`."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(scanning).items()}
    done = in_child(steps.evaluate_sequence, context)(
        run=str(run), scanning=given, n_genes=n_genes, threads=context.threads
    )
    return done.value
