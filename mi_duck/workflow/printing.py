"""What commands print of plans, scores and learning curves; what they need is loaded when it is needed."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_duck.console import Table, logger, output, print_json, print_table

if TYPE_CHECKING:
    from mi_duck.run.plan import Plan


def print_plan(made: "Plan", as_json: bool = False) -> None:
    """Print the instances of a plan, and what other ways to train its genes would take; as JSON all of it."""
    from mi_duck.workflow import views

    if as_json:
        sys.stdout.write(f"{made.to_json()}\n")
        return
    print_table(views.instances_table(made))
    output.print(views.plan_line(made))
    output.print("Ways to train these genes, the time if no fit stops early:", markup=False)
    print_table(views.alternatives_table(made))
    output.print(views.SCORES_OF_STRATEGIES, markup=False)
    for line in views.infeasible_lines(made):
        logger.info("%s", line)


def print_scores(folder: Path, as_json: bool = False) -> None:
    """Print the scores of the ensemble beside the base scores, the answer in a sentence, and where the report is.

    With ``--verbose`` the table has every instance, and all intervals; as JSON always.
    """
    from mi_duck.evaluate.catalogue import score_table
    from mi_duck.report.records import read_run
    from mi_duck.report.summary import verdict
    from mi_duck.run.folder import RunFolder
    from mi_duck.workflow.views import headline_table

    found = score_table(folder)
    if as_json:
        print_json([dict(zip(found.columns, line, strict=True)) for line in found.lines])
        return
    intervals = "95 % intervals over fold groups, for these trained models" if found.has_intervals else "no intervals"
    output.print(
        f"Scores on {found.n_rows:,} rows, each by boosters that never saw the row's fold group; {intervals}:",
        markup=False,
    )
    print_table(Table(found.columns, found.lines) if logger.isEnabledFor(logging.DEBUG) else headline_table(found))
    if found.too_narrow:
        output.print(f"These intervals are too narrow: {found.too_narrow}.")
    output.print(verdict(read_run(folder)), markup=False)
    page = RunFolder(folder).page
    if page.is_file():
        output.print(f"The report: {page}", markup=False)


def print_learning_curve(facts: dict[str, Any]) -> None:
    """Print a line for each size, average precision and log loss with their intervals, and the answer."""
    from mi_duck.evaluate.learning_curve import ANSWERED, points_of, size_lines

    print_table(Table(*size_lines(points_of(facts), ANSWERED)))
    for sentence in facts["sentences"]:
        output.print(sentence, markup=False)
