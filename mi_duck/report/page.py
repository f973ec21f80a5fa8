"""Records of a run to ``report.html``: one file that needs no network, no script and no other file.

The template escapes everything that comes from data; the figures are SVG inside the page. Where a run did not make something,
the page names the command that makes it.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from mi_duck.atomic_files import write_file
from mi_duck.drawing import NAMES, inline_svg, save
from mi_duck.numbers import decimal, gibibytes, typeset
from mi_duck.processes import Report
from mi_duck.report.cautions import answer, cautions
from mi_duck.report.overfitting import FitRecord, read_curves, read_overfitting, summary, write_overfitting
from mi_duck.report.plots import (
    Bar,
    Window,
    bar_figure,
    curve_figure,
    interval_figure,
    learning_figure,
    memory_figure,
    reliability_figure,
    window_figure,
)
from mi_duck.report.records import (
    RunRecords,
    curve_panels,
    memory_dots,
    read_rows,
    read_run,
    reliability_panels,
    suspects_of,
    value_of,
)
from mi_duck.report.tables import (
    Table,
    calibration_error_table,
    calibration_table,
    class_table,
    elsewhere_table,
    fit_table,
    fold_table,
    headline_metrics,
    headline_table,
    instance_table,
    left_out_table,
    lines_table,
    models,
    run_command,
    score_table,
    threshold_table,
    title_of,
)
from mi_duck.run.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


HERE = Path(__file__).resolve().parent
MOST_FEATURES = 25
MOST_LEAKS = 15
MOST_INSTANCES = 12
"""Most instances whose learning curves are on the page; those of all are in ``overfitting/``."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the page: its SVG element, and its description for screen readers."""

    svg: str
    caption: str


def write_report(*, run: str, with_plots: bool, with_overfitting: bool, report: Report) -> dict[str, Any]:
    """Write the figures, ``overfitting/`` and ``report.html`` of a finished run.

    Parameters
    ----------
    run
        Folder of the run.
    with_plots
        Whether to draw figures; the tables of the page are always made.
    with_overfitting
        Whether to write the overfitting monitor.
    report
        Progress callback, called with (stage, done, total).

    Returns
    -------
    dict
        ``report``: the file's name; ``warnings``: see `cautions`.

    Raises
    ------
    CheckpointError
        The run is not finished, or a file is damaged.
    """
    records = read_run(Path(run))
    report("report", 0, 3)
    if with_overfitting:
        write_overfitting(records, with_plots=with_plots)
    report("report", 1, 3)
    if with_plots:
        write_figures(records)
    report("report", 2, 3)
    fits = read_overfitting(records)
    write_file(RunFolder(records.root).page, render(records, fits, with_plots=with_plots).encode())
    report("report", 3, 3)
    return {"report": "report.html", "warnings": cautions(records, fits)}


def render(run: RunRecords, fits: Sequence[FitRecord] | None, *, with_plots: bool = True) -> str:
    """Return the page; the same records give the same text.

    Parameters
    ----------
    fits
        Records of the overfitting monitor, None where it was off.
    with_plots
        Whether the page has figures.
    """
    import jinja2

    pictures = Pictures(with_plots)
    asked = asdict(run.plan.asked) | {"full_hash": run.plan.data.full_hash}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"from_json": json.loads, "gibibytes": gibibytes}
    return environment.get_template("report.html.j2").render(
        run=run,
        dataset=PurePath(run.plan.data.location).name,
        answer=answer(run),
        warnings=cautions(run, fits),
        headline=headline_table(run),
        comparison=pictures.draw(
            "models", lambda: _model_figure(run), "Every model on the same rows, with 95 % intervals"
        ),
        scores=score_table(run),
        by_class=class_table(run),
        elsewhere=elsewhere_table(run),
        left_out=left_out_table(run),
        thresholds=threshold_table(run),
        curves=_curves(run, pictures),
        reliability=_reliability(run, pictures),
        calibration=calibration_table(run),
        calibration_errors=calibration_error_table(run),
        classes=_classes(run),
        folds=fold_table(run),
        windows=pictures.draw("windows", lambda: _window_figure(run), "Which genes each instance is trained on"),
        instances=instance_table(run),
        memory=pictures.draw(
            "memory",
            lambda: memory_figure(
                memory_dots(run), gene_bytes=run.gene_bytes, budget_bytes=run.plan.cut.budget.budget_bytes
            ),
            "Peak memory of every training process, and the memory per gene",
        ),
        fits=fit_table(fits) if fits else None,
        verdicts=summary(fits or ())["verdicts"],
        learning=_learning(run, fits, pictures),
        importance=_importance(run, pictures),
        leakage=_leakage(run),
        suspects=suspects_of(run),
        gene_deltas=_gene_deltas(run),
        command=run_command(run),
        asked=asked,
        decided={name: value for name, value in json.loads(run.facts["settings"]).items() if name not in asked},
        colors={name: color for color, name in NAMES.items()},
        with_plots=with_plots,
    )


class Pictures:
    """Draws the figures of one page, or none; ``name`` makes the ids in every figure unique."""

    def __init__(self, is_on: bool) -> None:
        self._is_on = is_on

    def draw(self, name: str, figure: "Callable[[], Figure]", caption: str) -> Picture | None:
        """Return a figure for the page, or None where the page has none."""
        return Picture(inline_svg(figure(), name), caption) if self._is_on else None


def _model_figure(run: RunRecords) -> "Figure":
    shown: dict[tuple[str, int | None], str] = {}
    for name, scope, instance_id, _, is_chosen in models(run):
        if scope != "ensemble" or is_chosen:
            shown.setdefault((scope, instance_id), name)
    panels = []
    for metric, class_name in headline_metrics(run):
        bars = []
        for (scope, instance_id), name in shown.items():
            score = run.find(scope, metric, class_name, instance_id=instance_id)
            if score is not None and score.value is not None:
                bars.append(Bar(name, score.value, score.low, score.high, scope))
        panels.append((title_of(metric, class_name), bars))
    return interval_figure(panels)


def _window_figure(run: RunRecords) -> "Figure":
    return window_figure(
        [
            Window(f"instance_{one['instance_id']:02d}", one["first_rank"], one["stop_rank"], one["n_rows"])
            for one in run.instances
        ],
        n_genes=run.plan.data.n_genes,
    )


def _curves(run: RunRecords, pictures: Pictures) -> list[tuple[str, list[Picture | None]]]:
    """Return title and curves of each kind; the curve of the background adds nothing to those of the other classes."""
    found = []
    for kind, title in (("pr", "Precision and recall"), ("roc", "ROC")):
        panels = [panel for panel in curve_panels(run, kind) or [] if panel[0] != run.classes[0]]
        drawn = [
            pictures.draw(f"{kind}-{index}", partial(curve_figure, [panel], kind=kind), f"{title}: {panel[0]}")
            for index, panel in enumerate(panels)
        ]
        if drawn:
            found.append((title, drawn))
    return found


def _reliability(run: RunRecords, pictures: Pictures) -> list[Picture | None] | None:
    return [
        pictures.draw(
            f"reliability-{index}",
            partial(reliability_figure, [(name, lines)]),
            f"Reliability: {name}",
        )
        for index, (name, lines) in enumerate(reliability_panels(run) or [])
    ] or None


def _learning(
    run: RunRecords, fits: Sequence[FitRecord] | None, pictures: Pictures
) -> list[tuple[str, list[Picture | None]]]:
    """Return the learning curves of the instances with the widest gaps."""
    gaps: dict[int, float] = {}
    for fit in fits or ():
        gaps[fit.instance_id] = max(gaps.get(fit.instance_id, 0.0), fit.gap or 0.0)
    found = []
    for instance_id in sorted(sorted(gaps, key=lambda one: (-gaps[one], one))[:MOST_INSTANCES]):
        drawn = [
            pictures.draw(
                f"learning-{instance_id}-{index}",
                partial(learning_figure, [(name, curves)]),
                f"instance_{instance_id:02d}, {name}",
            )
            for index, (name, curves) in enumerate((read_curves(run.root, instance_id) or {}).items())
        ]
        found.append((f"instance_{instance_id:02d}", drawn))
    return found


def _importance(run: RunRecords, pictures: Pictures) -> tuple[Picture | None, Table] | None:
    lines = read_rows(RunFolder(run.root).shap / "ensemble_shap_importance.csv")
    if lines is None:
        return None
    bars = []
    for line in lines[:MOST_FEATURES]:
        value, error = value_of(line["importance"]) or 0.0, value_of(line.get("se"))
        low, high = (None, None) if error is None else (value - 1.96 * error, value + 1.96 * error)
        bars.append(Bar(line["feature"], value, low, high))
    picture = pictures.draw(
        "importance",
        lambda: bar_figure(bars, title="most important features", axis="mean |SHAP value| (log-odds)"),
        "Mean absolute SHAP value over classes and members, with 95 % intervals",
    )
    columns = {"rank": "rank", "feature": "feature", "importance": "mean |SHAP value|", "se": "standard error"}
    columns |= {"instance_min": "lowest of an instance", "instance_max": "highest"}
    return picture, lines_table(lines, columns, caption="Most important features", most=MOST_FEATURES, texts=2)


def _leakage(run: RunRecords) -> Table | None:
    """Return the comparisons that separate the label best, suspects first."""
    lines = read_rows(RunFolder(run.root).leakage / "leakage.csv")
    if lines is None:
        return None
    lines.sort(key=lambda line: (line["verdict"] != "suspect", -(value_of(line["auc"]) or 0.0)))
    columns = {"feature": "feature", "comparison": "comparison", "verdict": "verdict", "auc": "AUC", "low": "low"}
    columns |= {"high": "high", "missing_auc": "AUC of missing", "equality_auc": "AUC of equality", "reason": "reason"}
    return lines_table(lines, columns, caption="How well a single feature predicts the label", most=MOST_LEAKS, texts=3)


def _gene_deltas(run: RunRecords) -> list[Table] | None:
    """Return the genes for which the ensemble is better, and worse, than the base model, by their mean log loss."""
    lines = read_rows(RunFolder(run.root).gene_deltas)
    if not lines or "log_loss_delta" not in lines[0]:
        return None
    lines.sort(key=lambda line: value_of(line["log_loss_delta"]) or 0.0)
    found = []
    captions = "Genes with the largest decrease in log loss", "Genes with the largest increase in log loss"
    for caption, some in zip(captions, (lines[:8], lines[:-9:-1]), strict=True):
        rows = [
            (line["gene_id"], line["n_rows"])
            + tuple(typeset(decimal(value_of(line[f"log_loss_{name}"]))) for name in ("base", "meta", "delta"))
            for line in some
        ]
        found.append(Table(caption, ("gene", "rows", "log loss, base", "log loss, ensemble", "difference"), rows))
    return found


def _classes(run: RunRecords) -> list[tuple[str, str, str]]:
    """Return name, rows and share in per cent of each class, as text."""
    counts = [sum(gene[f"n_{name}"] for gene in run.genes if not gene["is_holdout"]) for name in run.classes]
    shares = [100 * count / sum(counts) for count in counts]
    return [
        (name, f"{count:,}", f"{share:.1f}" if share >= 10 else f"{share:.2g}")
        for name, count, share in zip(run.classes, counts, shares, strict=True)
    ]


def file_names(classes: Sequence[str]) -> dict[str, str]:
    """Return for each class a text that is safe in a file name and unique among the classes.

    Examples
    --------
    >>> file_names(["donor", "5'/ss", "5' ss"])
    {'donor': 'donor', "5'/ss": '5_ss', "5' ss": '5_ss_2'}
    """
    names: dict[str, str] = {}
    for one in classes:
        plain = re.sub(r"[^A-Za-z0-9.-]+", "_", one).strip("_.")[:60] or "class"
        name, count = plain, 1
        while name.lower() in {used.lower() for used in names.values()}:
            count += 1
            name = f"{plain}_{count}"
        names[one] = name
    return names


def write_figures(run: RunRecords) -> list[Path]:
    """Write every figure whose table was made, and return the files.

    ``pr_base_vs_meta.pdf`` and ``roc_base_vs_meta.pdf`` with all classes and one file per class each, in
    ``calibration_analysis/`` one ``reliability_<class>.pdf`` per class, and ``memory_per_gene.pdf``.
    """
    names = file_names(run.classes)
    written = []
    for kind in ("pr", "roc"):
        panels = curve_panels(run, kind)
        if panels:
            written.append(run.root / f"{kind}_base_vs_meta.pdf")
            save(curve_figure(panels, kind=kind), written[-1])
            for name, curves in panels:
                written.append(run.root / f"{kind}_base_vs_meta_{names[name]}.pdf")
                save(curve_figure([(name, curves)], kind=kind), written[-1])
    for name, lines in reliability_panels(run) or []:
        written.append(RunFolder(run.root).calibration_analysis / f"reliability_{names[name]}.pdf")
        save(reliability_figure([(name, lines)]), written[-1])
    figure = memory_figure(memory_dots(run), gene_bytes=run.gene_bytes, budget_bytes=run.plan.cut.budget.budget_bytes)
    written.append(RunFolder(run.root).memory_plot)
    save(figure, written[-1])
    return written
