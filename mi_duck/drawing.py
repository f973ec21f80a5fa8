"""The style of every figure, and figures as files: the same figure gives the same bytes.

Colours are those of Okabe and Ito, which people with any kind of colour vision can distinguish; what matters differs in
line style or marker too. A figure for a page has no background, and its colours are names of the page's style sheet, so
that it follows light and dark.

References
----------
Okabe and Ito, Color universal design (2008): the palette.
"""

import atexit
import io
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mi_duck.atomic_files import write_file
from mi_duck.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK = "#1c2024"
MUTED = "#6a7076"
GRID = "#dcdfe3"
ENSEMBLE = "#0072b2"
BASE = "#878d94"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", BASE: "base"} | {
    color: f"series-{number}" for number, color in enumerate(SERIES)
}
"""Every colour that a figure may use, with its name in the style sheet of the page."""

FONT = "DejaVu Sans"
SMALL_FONT = "mi_duck Sans"
"""The same font with the letters of European languages alone; it is made by `_add_small_font`."""
POSTSCRIPT_NAME = 6  # of a font, by its number in the table of names
LETTERS = (*range(0x20, 0x180), *range(0x370, 0x400), *range(0x2010, 0x2027), 0x2212, 0x2264, 0x2265)

STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.facecolor": "auto",
    "font.family": [SMALL_FONT, FONT],
    "font.size": 8,
    "text.color": INK,
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "axes.titley": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.bottom": False,  # the grid shows where values are; marks took a fifth of the time of a figure
    "ytick.left": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 1.7,
    "legend.borderpad": 0.3,
    "lines.linewidth": 1.5,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
LEGEND_LINE = 0.17
"""Height of a line of a legend above a panel, in inches."""
LOSSLESS = {".pdf": ("CreationDate", "Creator", "Producer"), ".svg": ("Date", "Creator", "Format", "Type"), ".png": ()}
"""Types of files, and the metadata of each that would depend on the date or on the version of matplotlib."""


@contextmanager
def style(salt: str = "mi_duck") -> Iterator[None]:
    """Draw and save in this style, whatever the user's matplotlibrc sets; ids inside an SVG depend on the salt."""
    import matplotlib

    _add_small_font()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, STYLE | {"svg.hashsalt": salt}))
        yield


@cache
def _add_small_font() -> None:
    """Let figures use `SMALL_FONT`; letters that it lacks are drawn in `FONT`.

    A PDF holds the letters that it uses. To cut them out of the 6,000 of the whole font took half of the time of a figure.
    """
    from fontTools.subset import Options, Subsetter, load_font
    from matplotlib import font_manager

    options = Options()
    options.layout_features, options.hinting, options.drop_tables = [], False, [*options.drop_tables, "FFTM"]
    folder = tempfile.mkdtemp(prefix="mi_duck_font_")  # matplotlib reads fonts from files alone
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with load_font(font_manager.findfont(FONT), options) as font:
        subsetter = Subsetter(options)
        subsetter.populate(unicodes=LETTERS)
        subsetter.subset(font)
        for record in font["name"].names:
            record.string = SMALL_FONT.replace(" ", "") if record.nameID == POSTSCRIPT_NAME else SMALL_FONT
        font.save(f"{folder}/font.ttf")
    font_manager.fontManager.addfont(f"{folder}/font.ttf")


def new_figure(width: float, height: float, *, columns: int = 1, **options: Any) -> "tuple[Figure, list[Axes]]":
    """Return a figure of one row of axes, in inches; to be called inside `style`; options as for ``Figure.subplots``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False, **options)[0])


def new_panels(
    columns: int, *, width: float = 2.8, height: float = 2.8, legend_lines: int = 0
) -> "tuple[Figure, list[Axes]]":
    """Return a figure of panels of this size, in inches, side by side; to be called inside `style`.

    Above each there is room for its title and so many lines of a legend, see `legend_above`, by which panels are higher.
    Margins are fixed, for numbers of five characters: finding them by drawing takes two thirds of the time of a figure.
    """
    from matplotlib.figure import Figure

    left, right, bottom, top = 0.58, 0.12, 0.46, 0.28 + LEGEND_LINE * legend_lines
    height += LEGEND_LINE * legend_lines
    figure = Figure(figsize=(width * columns, height))
    size = (width - left - right) / (width * columns), (height - bottom - top) / height
    return figure, [
        figure.add_axes(((index * width + left) / (width * columns), bottom / height, *size))
        for index in range(columns)
    ]


def legend_above(
    axes: "Axes",
    title: str,
    handles: Sequence[Any],
    labels: Sequence[str],
    *,
    columns: int = 1,
    lines: int | None = None,
) -> None:
    """Write the title of a panel of `new_panels` and below it, above the data, its legend.

    ``lines`` is the room that is left for it; by default what it takes.
    """
    n_lines = -(-len(handles) // columns) if lines is None else lines
    axes.set_title(short_label(title), pad=6 + 72 * LEGEND_LINE * n_lines)
    axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0.2,
        labelspacing=0.25,
        columnspacing=1.2,
    )


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PDF, SVG or PNG, by the suffix of its name, whole or not at all."""
    if path.suffix not in LOSSLESS:
        raise DataError(f"{path.name} is not a name of a figure; give one that ends in {', '.join(LOSSLESS)}")
    write_file(path, _bytes(figure, path.suffix, salt="mi_duck", transparent=False))


def save_as(figure: "Figure", stem: Path, formats: Sequence[str]) -> None:
    """Write a figure in some formats to ``stem`` with their suffixes, and delete what stands there in others.

    Parameters
    ----------
    formats
        Of ``pdf``, ``svg`` and ``png``.
    """
    for suffix in LOSSLESS:
        path = stem.with_name(f"{stem.name}{suffix}")
        if suffix[1:] in formats:
            save(figure, path)
        else:
            path.unlink(missing_ok=True)


def inline_svg(figure: "Figure", name: str) -> str:
    """Return a figure as an SVG element for a page; its name is unique there, because ids inside depend on it."""
    text = _bytes(figure, ".svg", salt=name, transparent=True).decode()
    text = text[text.index("<svg ") :].strip()
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>\s*", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # names such as axes_1, the same in every figure
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("xmlns:xlink", "data-xlink").replace(' data-xlink="http://www.w3.org/1999/xlink"', "")
    text = text.replace("xlink:href", "href").replace(FONT, "system-ui")
    text = text.replace("<svg ", '<svg class="figure" ', 1)
    for color, variable in NAMES.items():
        text = text.replace(color, f"var(--{variable})")
    return re.sub(r">\s*\n\s*<", "><", text)


def _bytes(figure: "Figure", suffix: str, *, salt: str, transparent: bool) -> bytes:
    target = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None} if suffix == ".png" else dict.fromkeys(LOSSLESS[suffix])
    with style(salt), warnings.catch_warnings():
        # a name in letters that the font lacks is drawn with boxes; the tables have it in full
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(target, format=suffix[1:], metadata=metadata, transparent=transparent, dpi=150)
    data = target.getvalue()
    return data.replace(f"'{SMALL_FONT}', ".encode(), b"") if suffix == ".svg" else data  # which is on no other machine


def short_label(text: str, longest: int = 32) -> str:
    """Return a name for an axis: without control characters, its middle left out where it is long.

    Examples
    --------
    >>> short_label("a_feature_with_a_name_that_would_not_fit", 16)
    'a_featu…_not_fit'
    """
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(clean) <= longest:
        return clean
    head = (longest - 1) // 2
    return f"{clean[:head]}…{clean[len(clean) - (longest - 1 - head) :]}"
