"""A learning curve as a page and as a figure."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from mi_duck.atomic_files import write_file
from mi_duck.drawing import ENSEMBLE, SERIES, inline_svg, legend_above, new_panels, save, style
from mi_duck.evaluate.learning_curve import (
    AHEAD,
    ANSWERED,
    MEASURED,
    Point,
    points_of,
    read_learning_curve,
    shown,
    size_lines,
)
from mi_duck.metrics.metrics import title_of
from mi_duck.numbers import typeset
from mi_duck.report.page import Picture, environment
from mi_duck.report.tables import Table
from mi_duck.wording import Noun, noun_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 6


def write_learning_page(out: str) -> None:
    """Write ``report.html`` and ``learning_curve.pdf`` beside the tables of a learning curve."""
    folder = Path(out)
    facts = read_learning_curve(folder)
    figure = size_figure(points_of(facts), noun_of(facts["group_column"]))
    save(figure, folder / "learning_curve.pdf")
    write_file(folder / "report.html", render(facts, figure).encode())


def render(facts: dict[str, Any], figure: "Figure") -> str:
    """Return the page."""
    noun = noun_of(facts["group_column"])
    return (
        environment()
        .get_template("learning_curve.html.j2")
        .render(
            title=f"Would more {noun.many} help? {PurePath(facts['dataset']).name}",
            facts=facts,
            picture=Picture(inline_svg(figure, "sizes"), f"Scores by the number of {noun.many}, with 95 % intervals"),
            table=size_table(points_of(facts), noun),
            noun=noun,
        )
    )


def size_table(points: Sequence[Point], noun: Noun) -> Table:
    """Return a row for each size, with the scores of the answer, and their gains over half the genes."""
    columns, rows = size_lines(points, ANSWERED, noun)
    caption = (
        f"Scores by the number of {noun.many}; a gain is over half of them, that of the prediction over the fitted curve there; "
        "better is positive"
    )
    return Table(caption, columns, [(row[0], *map(typeset, row[1:])) for row in rows])


def size_figure(points: Sequence[Point], noun: Noun) -> "Figure":
    """Draw scores by the number of genes, one panel a score: measured with intervals, and what the curve says beyond."""
    keys = shown(points)[:MOST_PANELS]
    with style():
        figure, panes = new_panels(len(keys), legend_lines=1)
        for axes, key in zip(panes, keys, strict=True):
            own = [one for one in points if (one.metric, one.class_name) == key and one.value is not None]
            for kind, color, marker in ((MEASURED, ENSEMBLE, "o"), (AHEAD, SERIES[1], "D")):
                some = [one for one in own if one.kind == kind]
                x = [one.n_genes for one in some]
                y, low, high = np.array([(one.value, one.low, one.high) for one in some], dtype=float).reshape(-1, 3).T
                look: dict[str, Any] = {
                    "color": color,
                    "marker": marker,
                    "linestyle": "-" if kind == MEASURED else "none",
                }
                axes.errorbar(x, y, [y - low, high - y], markersize=4, linewidth=1, label=kind, **look)
            axes.set_xscale("log", base=2)
            ticks = sorted({one.n_genes for one in own})
            axes.set_xticks(ticks, [f"{one:,}" for one in ticks], rotation=45, ha="right", fontsize=6.5)
            axes.minorticks_off()
            axes.set(xlabel=noun.many, ylabel=title_of(*key))
            handles, labels = axes.get_legend_handles_labels()
            legend_above(axes, title_of(*key), handles, labels, columns=2)
            axes.margins(x=0.08, y=0.08)
    return figure
