"""Records of a run to ``report.html``: one file that needs no network, no script and no other file.

The template escapes everything that comes from data; the figures are SVG inside the page. Where a run did not make something,
the page names the command that makes it.
"""

import json
import re
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from mi_duck.atomic_files import write_file
from mi_duck.drawing import NAMES, inline_svg, save_as
from mi_duck.explain.figures import read_swarms, swarm_figure
from mi_duck.explain.tables import class_stems
from mi_duck.leakage.suspicion import LIMITS, LIMITS_ALONE
from mi_duck.metrics.metrics import title_of
from mi_duck.numbers import gibibytes
from mi_duck.processes import Report
from mi_duck.report import plots, tables
from mi_duck.report.overfitting import FitRecord, counts, distinct_curves, read_overfitting, write_overfitting
from mi_duck.report.records import (
    RunRecords,
    curve_panels,
    gene_delta_lines,
    memory_dots,
    read_rows,
    read_run,
    reliability_panels,
    scan_facts,
    suspects_of,
    value_of,
)
from mi_duck.report.summary import NAMES as FILES
from mi_duck.report.summary import answer, cautions, file_text, genes_improved
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import instance_name
from mi_duck.run.stage_times import REPORT, stage_times, step_times

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure


HERE = Path(__file__).resolve().parent
MOST_FEATURES = 25
MOST_FEATURES_OF_CLASS = 12
MOST_LEAKS = 15
MOST_INSTANCES = 12
"""Most instances whose learning curves are on the page; those of all are in ``overfitting/``."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the page: its SVG element, and its description for screen readers."""

    svg: str
    caption: str


@dataclass(frozen=True, slots=True)
class Link:
    """A file of the run: its path from the page as an address and as text, and what it holds."""

    address: str
    name: str
    text: str = ""


LINKS = {
    "scores": ("metrics.csv", "instance_performance_comparison.csv", "thresholds.json", "base_vs_meta.json"),
    "scan": ("true_rate.json", "scan_errors.csv", "metrics.csv"),
    "curves": ("curves.csv", "pr_base_vs_meta*.*", "roc_base_vs_meta*.*"),
    "calibration": ("calibration_analysis/*",),
    "data": ("genes.parquet", "gene_coverage_report.csv", "oof_predictions.parquet", "holdout_predictions.parquet"),
    "plan": ("plan.json", "memory.json", "stage_times.json", "memory_per_gene.*"),
    "overfitting": ("overfitting/*",),
    "importance": ("comprehensive_shap_analysis/*",),
    "leakage": ("leakage_analysis/*",),
    "genes": ("gene_deltas.csv",),
}
"""Files of which each section of the page speaks, as patterns."""
WRITTEN_LATER = ("unified_training_summary.txt", "provenance.json")
"""Files that are written after the page, with a finished run."""


def write_report(
    *, run: str, with_plots: bool, with_overfitting: bool, report: Report, figure_format: str | None = None
) -> dict[str, Any]:
    """Write the figures, ``overfitting/`` and ``report.html`` of a finished run.

    Parameters
    ----------
    with_plots
        Whether to draw figures; the tables of the page are always made.
    with_overfitting
        Whether to write the overfitting monitor.
    figure_format
        ``pdf``, ``svg`` or ``png``; by default PDF, and that of leaks SVG too.

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
    formats = (figure_format or "pdf",)
    report("report", 0, 3)
    if with_overfitting:
        write_overfitting(records, with_plots=with_plots, formats=formats)
    report("report", 1, 3)
    if with_plots:
        write_figures(records, formats, leak_formats=formats if figure_format else ("pdf", "svg"))
    report("report", 2, 3)
    fits = read_overfitting(records)
    write_file(RunFolder(records.root).page, render(records, fits, with_plots=with_plots).encode())
    report("report", 3, 3)
    return {"report": "report.html", "warnings": cautions(records, fits)}


def render(run: RunRecords, fits: Sequence[FitRecord] | None, *, with_plots: bool = True) -> str:
    """Return the page; the same records give the same text; ``fits`` is None where the overfitting monitor was off."""
    pictures = Pictures(with_plots)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            dataset=PurePath(run.plan.data.location).name,
            answer=answer(run),
            improved=genes_improved(run),
            warnings=cautions(run, fits),
            headline=tables.headline_table(run),
            comparison=pictures.draw(
                "models", partial(_model_figure, run), "Every model on the same rows, with 95 % intervals"
            )
            if run.n_instances > 1
            else None,
            scores=tables.score_table(run),
            by_class=tables.class_tables(run),
            elsewhere=tables.elsewhere_table(run),
            left_out=tables.left_out_table(run),
            scanned=tables.scan_tables(run),
            scan_facts=scan_facts(run),
            of_runs=tables.gain_over_runs_table(run),
            thresholds=tables.threshold_table(run),
            curves=_curves(run, pictures),
            reliability=_reliability(run, pictures),
            calibration=tables.calibration_table(run),
            calibration_errors=tables.calibration_error_table(run),
            calibration_gaps=tables.calibration_gap_table(run),
            classes=_classes(run),
            folds=tables.fold_table(run),
            windows=pictures.draw(
                "windows", partial(_window_figure, run), f"Which {run.noun.many} each instance is trained on"
            )
            if run.n_instances > 1
            else None,
            instances=tables.instance_table(run),
            memory=pictures.draw(
                "memory",
                partial(_memory_figure, run),
                f"Peak memory of every training process, and the memory per {run.noun.one}",
            ),
            times=_times(run, pictures),
            fits=tables.fit_table(fits, run.noun) if fits else fits,
            verdicts=counts(fits or ()),
            patience=run.plan.settings.early_stopping_patience,
            learning=_learning(run, fits, pictures),
            importance=_importance(run, pictures),
            of_classes=_importance_by_class(run, pictures),
            leakage=_leakage(run),
            leak_limits=LIMITS if run.plan.data.base_scores else LIMITS_ALONE,
            suspects=suspects_of(run),
            genes=tables.gene_tables(run, lines) if (lines := gene_delta_lines(run)) else None,
            command=tables.run_command(run),
            settings=tables.settings_table(run),
            noun=run.noun,
            links={section: links(run.root, patterns) for section, patterns in LINKS.items()},
            files=_files(run),
            with_plots=with_plots,
        )
    )


@cache
def environment() -> "jinja2.Environment":
    """Return what renders the pages, and keeps its templates: names that are missing are errors, texts are escaped."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"from_json": json.loads, "gibibytes": gibibytes}
    made.globals["colors"] = {name: color for color, name in NAMES.items()}
    return made


class Pictures:
    """Draws the figures of one page, or none; ``name`` makes the ids in every figure unique."""

    def __init__(self, is_on: bool) -> None:
        self._is_on = is_on

    def draw(self, name: str, figure: "Callable[[], Figure]", caption: str) -> Picture | None:
        """Return a figure for the page, or None where the page has none."""
        return Picture(inline_svg(figure(), name), caption) if self._is_on else None


def _model_figure(run: RunRecords) -> "Figure":
    shown: dict[tuple[str, int | None], str] = {}
    for name, scope, instance_id, _, is_chosen in tables.models(run):
        if scope != "ensemble" or is_chosen:
            shown.setdefault((scope, instance_id), name)
    panels = []
    for metric, class_name in tables.headline_metrics(run):
        bars = []
        for (scope, instance_id), name in shown.items():
            score = run.find(scope, metric, class_name, instance_id=instance_id)
            if score is not None and score.value is not None:
                bars.append(plots.Bar(name, score.value, score.low, score.high, scope))
        panels.append((title_of(metric, class_name), bars))
    return plots.interval_figure(panels)


def _window_figure(run: RunRecords) -> "Figure":
    windows = {instance_name(one["instance_id"]): (one["first_rank"], one["stop_rank"]) for one in run.instances}
    return plots.window_figure(windows, n_genes=run.plan.data.n_genes, noun=run.noun)


def _memory_figure(run: RunRecords) -> "Figure":
    return plots.memory_figure(
        memory_dots(run), gene_bytes=run.gene_bytes, noun=run.noun, budget_bytes=run.plan.cut.budget.budget_bytes
    )


def _times(run: RunRecords, pictures: Pictures) -> tuple[Picture | None, tables.Table] | None:
    """Return time and memory of each step before the report, drawn and as a table; None of a run that did not note them."""
    steps = [one for one in step_times(stage_times(RunFolder(run.root), run.plan)) if one["step"] != REPORT]
    if not steps:
        return None
    return pictures.draw("times", partial(plots.time_figure, steps), "Time of each step"), tables.step_time_table(steps)


def _curves(run: RunRecords, pictures: Pictures) -> list[tuple[str, list[Picture | None]]]:
    """Return title and curves of each kind; the curve of the background adds nothing to those of the other classes."""
    found = []
    for kind, title in (("pr", "Precision and recall"), ("roc", "ROC")):
        panels = [panel for panel in curve_panels(run, kind) or [] if panel[0] != run.classes[0]]
        drawn = [
            pictures.draw(f"{kind}-{index}", partial(plots.curve_figure, [panel], kind=kind), f"{title}: {panel[0]}")
            for index, panel in enumerate(panels)
        ]
        if drawn:
            found.append((title, drawn))
    return found


def _reliability(run: RunRecords, pictures: Pictures) -> list[Picture | None] | None:
    return [
        pictures.draw(f"reliability-{index}", partial(plots.reliability_figure, [panel]), f"Reliability: {panel[0]}")
        for index, panel in enumerate(reliability_panels(run) or [])
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
        title, panels = instance_name(instance_id), distinct_curves(run, instance_id).items()
        drawn = [
            pictures.draw(
                f"learning-{instance_id}-{index}",
                partial(plots.learning_figure, [panel], run.noun),
                f"{title}, {panel[0]}",
            )
            for index, panel in enumerate(panels)
        ]
        found.append((title, drawn))
    return found


def _importance(run: RunRecords, pictures: Pictures) -> tuple[Picture | None, tables.Table] | None:
    """Return the importance over all classes, drawn where there are more than two, and as a table."""
    lines = read_rows(RunFolder(run.root).shap / "ensemble_shap_importance.csv")
    if lines is None:
        return None
    picture = None
    if len(run.distinct_classes) > 1:
        figure = partial(_importance_figure, lines[:MOST_FEATURES], "all classes")
        picture = pictures.draw(
            "importance", figure, "Mean absolute SHAP value over classes and members, with 95 % intervals"
        )
    columns = {"rank": "rank", "feature": "feature", "importance": "mean |SHAP value|", "se": "standard error"}
    if run.n_instances > 1:
        columns |= {"instance_min": "lowest of an instance", "instance_max": "highest"}
    return picture, tables.lines_table(lines, columns, caption="Most important features", most=MOST_FEATURES, texts=2)


def _importance_figure(lines: Sequence[dict[str, str]], title: str) -> "Figure":
    bars = []
    for line in lines:
        value, error = value_of(line["importance"]) or 0.0, value_of(line.get("se"))
        low, high = (None, None) if error is None else (value - 1.96 * error, value + 1.96 * error)
        bars.append(plots.Bar(line["feature"], value, low, high))
    return plots.bar_figure(bars, title=f"most important features, {title}", axis="mean |SHAP value| (log-odds)")


def _importance_by_class(run: RunRecords, pictures: Pictures) -> list[tuple[str, list[Picture | None]]]:
    """Return for each class its most important features as bars, and the SHAP values of single rows."""
    folder, found = RunFolder(run.root).shap, []
    swarms = read_swarms(folder, run.distinct_classes)
    for index, (name, stem) in enumerate(zip(run.classes, class_stems(run.classes), strict=True)):
        lines = read_rows(folder / f"{stem}_shap_importance.csv")
        if lines is None or name not in run.distinct_classes:
            continue
        figure: Callable[[], Figure] = partial(_importance_figure, lines[:MOST_FEATURES_OF_CLASS], name)
        drawn = [pictures.draw(f"importance-{index}", figure, f"Importance for {name}, with 95 % intervals")]
        if name in swarms:
            some = swarms[name][:MOST_FEATURES_OF_CLASS]
            figure = partial(swarm_figure, some, title=f"SHAP values of rows, {name}", width=5.2)
            drawn.append(pictures.draw(f"swarm-{index}", figure, f"SHAP values of single rows for {name}"))
        found.append((name, drawn))
    return found


def _leakage(run: RunRecords) -> tables.Table | None:
    """Return the comparisons that separate the label best, suspects first."""
    lines = read_rows(RunFolder(run.root).leakage / "leakage.csv")
    if lines is None:
        return None
    lines.sort(key=lambda line: (line["verdict"] != "suspect", -(value_of(line["auc"]) or 0.0)))
    columns = {"feature": "feature", "comparison": "comparison", "verdict": "verdict", "auc": "AUC", "low": "low"}
    columns |= {"high": "high", "missing_auc": "AUC of missing", "equality_auc": "AUC of equality", "reason": "reason"}
    return tables.lines_table(
        lines, columns, caption="How well a single feature predicts the label", most=MOST_LEAKS, texts=3
    )


def links(root: Path, patterns: Sequence[str]) -> list[Link]:
    """Return links from the page to the files of a run that are there."""
    found = [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()]
    return [_link(path.relative_to(root).as_posix()) for path in found if not path.name.startswith(".")]


def _link(name: str, text: str = "") -> Link:
    return Link(urllib.parse.quote(name), name, text)


def _files(run: RunRecords) -> list[Link]:
    """Return links to all files and folders in the folder of the run, with what they hold."""
    is_finished = run.facts["status"] is not None
    found = []
    for known in FILES:
        paths = sorted({*run.root.glob(known), *run.root.glob(f"{known}.*")})
        names = [f"{path.name}/" if path.is_dir() else path.name for path in paths if path.name not in WRITTEN_LATER]
        if known in WRITTEN_LATER and is_finished:
            names.append(known)
        found += [_link(name, file_text(name.rstrip("/"), run.noun)) for name in names if name != "report.html"]
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


def write_figures(run: RunRecords, formats: Sequence[str], *, leak_formats: Sequence[str]) -> None:
    """Write every figure whose table was made.

    ``pr_base_vs_meta.pdf`` and ``roc_base_vs_meta.pdf`` with all classes and of several one file per class each, in
    ``calibration_analysis/`` one ``reliability_<class>.pdf`` per class, ``memory_per_gene.pdf``, and in ``leakage_analysis/``
    ``leakage.pdf`` and ``leakage.svg``; or all in another format. Of two classes the second alone is drawn.
    """
    folder, names = RunFolder(run.root), file_names(run.classes)
    for kind in ("pr", "roc"):
        panels = curve_panels(run, kind) or []
        if panels:
            save_as(plots.curve_figure(panels, kind=kind), run.root / f"{kind}_base_vs_meta", formats)
        for panel in panels if len(run.classes) > 2 else ():
            stem = run.root / f"{kind}_base_vs_meta_{names[panel[0]]}"
            save_as(plots.curve_figure([panel], kind=kind), stem, formats)
    for lines in reliability_panels(run) or []:
        stem = folder.calibration_analysis / f"reliability_{names[lines[0]]}"
        save_as(plots.reliability_figure([lines]), stem, formats)
    save_as(_memory_figure(run), folder.memory_plot, formats)
    leaks = read_rows(folder.leakage / "leakage.csv")
    if leaks:
        save_as(plots.leakage_figure(leaks, run.plan.data.base_scores), folder.leakage / "leakage", leak_formats)
