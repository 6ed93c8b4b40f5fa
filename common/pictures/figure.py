"""Figures of matplotlib, which is imported when something is drawn, and written as PNG, PDF or SVG."""
import io
import logging
import textwrap
import unicodedata
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_whole
from common.pictures.style import GRID, NOTE, TEXT, font_file

Figure = Axes = Any  # those of matplotlib
FORMATS = (".png", ".pdf", ".svg")
DOTS_PER_INCH = 144  # of a PNG
TITLE_SIZE, LETTERS_PER_INCH = 13, 9  # points, and about as many letters of that size

log = logging.getLogger(__name__)


def can_draw(what: str) -> bool:
    """Return whether matplotlib is there; if not, say once that ``what`` is not drawn."""
    if find_spec("matplotlib") is None:
        _tell_of_missing_package(what)
        return False
    return True


@cache
def _tell_of_missing_package(what: str) -> None:
    log.warning("%s: not drawn, since matplotlib is not installed; run 'pip install -r requirements.txt'.", what)


def open_figure(width: float, height: float, title: str = "") -> Figure:
    """Return an empty figure.

    Args:
        width: inches.
        height: inches.
        title: the heading; lines that are too long are broken.

    Raises:
        UserError: if matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UserError("this picture needs matplotlib, which is not installed; run 'pip install -r requirements.txt'.")
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    if title:
        figure.suptitle(broken_lines(title, int(width * LETTERS_PER_INCH)), fontsize=TITLE_SIZE, color=TEXT,
                        fontweight="bold")
    return figure


def broken_lines(text: str, width: int) -> str:
    """Break a text into lines of about ``width`` letters, of which a Chinese one counts as two."""
    letters = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
    return textwrap.fill(text, max(8, width * len(text) // max(letters, 1)))


def quiet_axes(axes: Axes, title: str = "") -> None:
    """Give axes a title, a faint grid behind the curves and no frame above and to the right."""
    axes.set_title(title, fontsize=12, color=TEXT)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(NOTE)
    axes.tick_params(colors=TEXT, color=NOTE)


def show_epochs(axes: Axes, first: float, last: float) -> None:
    """Label the axis of the epochs, with ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", xlim=(first, last))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=(1, 2, 5, 10)))


def short_number(value: float, _=None) -> str:
    """Return the label of a tick, such as 0.0005 or 1e-5."""
    return f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e")


def check_format(path: str | Path) -> str:
    """Return the format that a file's name asks for; without an ending, PNG.

    Raises:
        UserError: if it is none of ``FORMATS``.
    """
    ending = Path(path).suffix.lower()
    if ending not in ("", *FORMATS):
        raise UserError(f"'{path}' ends in {ending}, but pictures are written as {', '.join(FORMATS[:-1])} or "
                        f"{FORMATS[-1]}.")
    return ending[1:] or "png"


def write_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format of the file's name; letters that matplotlib's font lacks come from an installed one.

    Raises:
        UserError: if it cannot be written, or the name is that of another format.
    """
    form, encoded = check_format(path), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # font_file tells it in a sentence
        figure.draw_without_rendering()
        _use_fonts(figure)
        figure.savefig(encoded, format=form, dpi=DOTS_PER_INCH, bbox_inches="tight", pad_inches=0.12)
    write_whole(path, encoded.getvalue())


def _use_fonts(figure: Figure) -> None:
    """Let an installed font stand in for what matplotlib's own does not have."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    own = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    letters = {letter for text in texts for letter in text.get_text()} - {"\n"}
    missing = "".join(sorted(letter for letter in letters if ord(letter) not in own))
    found = font_file(missing) if missing else None
    if found:
        font_manager.fontManager.addfont(found)
        families = ["DejaVu Sans", font_manager.FontProperties(fname=found).get_name()]
        for text in texts:
            text.set_fontfamily(families)
