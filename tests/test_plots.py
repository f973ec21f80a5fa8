"""Figures: the same bytes every time, names of any kind, and what is drawn is what was given."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from mi_duck.drawing import NAMES, inline_svg, save, short_label
from mi_duck.errors import DataError
from mi_duck.report.plots import (
    Bar,
    Curve,
    LearningCurve,
    MemoryDot,
    Reliability,
    bar_figure,
    curve_figure,
    interval_figure,
    leakage_figure,
    learning_figure,
    memory_figure,
    reliability_figure,
    window_figure,
)
from mi_duck.wording import Noun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOSTILE = "<script>alert(1)</script>&\"' $x$ _\x07"
MIB = 2**20
GENES = Noun("gene", "genes")


def curves() -> "Figure":
    base = Curve("base", [0, 0.5, 1], [1, 0.6, 0.1], ".600 (.580–.620)")
    return curve_figure([(HOSTILE, [base, Curve("ensemble", [0, 0.5, 1], [1, 0.9, 0.1])])], kind="pr")


def reliabilities() -> "Figure":
    line = Reliability("ensemble", [900, 30], [0.1, 0.6], [0.12, 0.55], [0.08, 0.4], [0.2, 0.7])
    return reliability_figure([("donor", [line]), (HOSTILE, [line])])


def learning() -> "Figure":
    return learning_figure([(HOSTILE, [LearningCurve(0, [0.5, 0.3, 0.2], [0.6, 0.4, 0.45], 2)])], GENES)


def bars() -> "Figure":
    return bar_figure([Bar(HOSTILE, 0.7, 0.6, 0.8), Bar("b", 0.2, None, None, "base")], title="t", axis="nats")


def intervals() -> "Figure":
    return interval_figure([("AP", [Bar("base", 0.5, 0.4, 0.6, "base"), Bar(HOSTILE, 0.7, None, None)])])


def leaks() -> "Figure":
    line = {
        "feature": HOSTILE,
        "comparison": "donor vs rest",
        "verdict": "",
        "reason": "",
        "auc": "0.7",
        "low": "",
        "high": "",
    }
    suspect = line | {
        "feature": "a",
        "verdict": "suspect",
        "reason": "area .99 in 9 genes",
        "auc": 0.99,
        "low": 0.9,
        "high": 1.0,
    }
    return leakage_figure([line, suspect], ["base"])


def memory() -> "Figure":
    dots = [MemoryDot(1000, 200 * MIB, None, True), MemoryDot(5000, 400 * MIB, 410 * MIB, False)]
    return memory_figure(dots, gene_bytes=[0.1 * MIB, 0.2 * MIB, 3.0 * MIB], noun=GENES, budget_bytes=500 * MIB)


def windows() -> "Figure":
    return window_figure({"instance_00": (0, 60), "instance_01": (50, 100)}, n_genes=100, noun=GENES)


FIGURES = [curves, reliabilities, learning, bars, intervals, leaks, memory, windows]
every_figure = pytest.mark.parametrize("draw", FIGURES)


@every_figure
def test_figure__gives_the_same_bytes_every_time(draw: "Callable[[], Figure]", tmp_path: Path) -> None:
    first, second = draw(), draw()
    for number, figure in enumerate((first, second)):
        save(figure, tmp_path / f"{number}.pdf")
    assert (tmp_path / "0.pdf").read_bytes() == (tmp_path / "1.pdf").read_bytes()
    assert inline_svg(first, "x") == inline_svg(second, "x")


def test_figure__is_of_the_type_that_its_name_says(tmp_path: Path) -> None:
    figure = windows()
    for suffix, begin in (("pdf", b"%PDF"), ("svg", b"<?xm"), ("png", b"\x89PNG")):
        for name in ("a", "b"):
            save(figure, tmp_path / f"{name}.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes().startswith(begin)
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@every_figure
def test_svg__is_an_element_that_a_page_can_hold(draw: "Callable[[], Figure]") -> None:
    """No colour of its own, no names that another figure has too, no style that leaks, nothing from elsewhere."""
    text = inline_svg(draw(), "one")
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert "width" not in root.attrib
    colors = set(re.findall(r"#[0-9a-f]{6}\b", text))
    assert colors == set(), "every colour is a name of the style sheet"
    assert set(re.findall(r"var\(--([\w-]+)\)", text)) <= set(NAMES.values())
    assert "<style" not in text
    assert "<script" not in text
    assert not re.search(r"href=\"(?!#)", text)
    ids = re.findall(r"\bid=\"([^\"]+)\"", text)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", text))
    assert used <= set(ids)


def test_svg__of_another_figure_has_other_ids() -> None:
    one, two = (set(re.findall(r"\bid=\"([^\"]+)\"", inline_svg(curves(), name))) for name in ("one", "two"))
    assert one
    assert not one & two


def test_curves__are_drawn_where_they_were_given() -> None:
    (axes,) = curves().axes
    base, ensemble = axes.lines
    assert (list(base.get_xdata()), list(base.get_ydata())) == ([0, 0.5, 1], [1, 0.6, 0.1])
    assert list(ensemble.get_ydata()) == [1, 0.9, 0.1]
    assert base.get_linestyle() != ensemble.get_linestyle()
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["base scores: AP .600 (.580–.620)", "ensemble"]


def test_learning_curve__marks_the_best_round() -> None:
    (axes,) = learning().axes
    dot = axes.lines[2]
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([2], [0.4])


def test_bars__carry_their_intervals_from_top_to_bottom() -> None:
    (axes,) = bars().axes
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.2]  # type: ignore[attr-defined]
    (interval,) = axes.collections
    ((left, right),) = interval.get_segments()  # type: ignore[attr-defined]
    assert (left[0], right[0]) == (0.6, 0.8)
    assert axes.yaxis_inverted()


def test_windows__shade_what_neighbours_share() -> None:
    """Instances 0-60 and 50-100 share 50-60."""
    (axes,) = windows().axes
    shade, first, second = axes.patches
    assert (shade.get_x(), shade.get_width()) == (50, 10)  # type: ignore[attr-defined]
    assert (first.get_x(), first.get_width()) == (0, 60)  # type: ignore[attr-defined]
    assert (second.get_x(), second.get_width()) == (50, 50)  # type: ignore[attr-defined]


def test_memory__shows_a_budget_only_where_it_is_near() -> None:
    def words(budget: float) -> list[str]:
        dots = [MemoryDot(10, 100.0 * MIB, 99.0 * MIB, False)]
        figure = memory_figure(dots, gene_bytes=[MIB], noun=GENES, budget_bytes=budget)
        legend: Any = figure.axes[0].get_legend()
        return [text.get_text() for text in legend.get_texts()]

    assert words(150 * MIB) == ["predicted", "measured, instance", "budget"]
    assert words(15_000 * MIB) == ["predicted", "measured, instance"]


def test_label__is_shortened_in_the_middle_and_without_control_characters() -> None:
    assert short_label("a" * 50 + "z", 11) == "aaaaa…aaaaz"
    assert short_label("bell\x07") == "bell?"


def test_figure__of_letters_that_the_font_lacks_is_drawn(tmp_path: Path) -> None:
    save(bar_figure([Bar("遺伝子", 1, 0.5, 1.5)], title="題", axis="x"), tmp_path / "a.png")


def test_save__refuses_other_types(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"figure\.tiff is not a name of a figure"):
        save(bars(), tmp_path / "figure.tiff")
