"""Attention maps as pictures: a matplotlib figure, and a self-contained HTML page.

Both show the source along the top and the target down the side, in every script: the browser and matplotlib (3.11 on)
shape Arabic and Indic text and order right-to-left words themselves; the figure looks for fonts that hold the letters.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING

from transformers.utils import logging

from .attention_maps import AttentionMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.get_logger(__name__)


def plot_attention(attention: AttentionMap, title: str | None = None) -> "Figure":
    """Return a figure of the map; the colour bar gives the scale, from 0 to the largest weight.

    Nothing is saved and no global state of matplotlib is touched: `plot_attention(m).savefig("map.png", dpi=150)`.
    Letters that no installed font holds are named in a warning, since the figure can only show boxes for them.

    Raises:
        ValueError: if the map has no rows or no columns.
    """
    from matplotlib.figure import Figure

    _check_not_empty(attention)
    rows, columns = attention.weights.shape
    cell = max(0.2, min(0.5, 13 / max(rows, columns)))  # inches: room for the letters of one line, whole on a page
    size = min(12.0, cell * 72 * 0.55)  # points
    labels = [_one_line(token) for token in (*attention.source_tokens, *attention.target_tokens)]
    family = _font_families("".join(labels) + (title or ""))
    left = _label_inches(attention.target_tokens, size) + 0.25
    slanted = _label_inches(attention.source_tokens, size) * 0.71 + 0.25  # 45 degrees
    top = slanted + (0.45 if title else 0.1)
    width, height = columns * cell, rows * cell
    overhang = (  # of slanted labels over the right edge
        (index + 0.5 - columns) * cell + _label_inches([token], size) * 0.71
        for index, token in enumerate(attention.source_tokens)
    )
    title_width = _label_inches([title], 12) + 0.3 if title else 0.0
    bar_width, bar_height = 0.75, max(min(height, 3.0), 0.9)
    figure_size = (
        max(left + width + max(bar_width, *overhang) + 0.15, title_width),
        top + max(height, bar_height) + 0.2,
    )

    figure = Figure(figsize=figure_size, facecolor="white")

    def place(x: float, y: float, wide: float, high: float) -> tuple[float, float, float, float]:
        return x / figure_size[0], 1 - (y + high) / figure_size[1], wide / figure_size[0], high / figure_size[1]

    axes = figure.add_axes(place(left, top, width, height))
    image = axes.imshow(attention.weights, cmap="Blues", vmin=0, vmax=_scale(attention), aspect="auto")
    axes.xaxis.tick_top()
    text = {"family": family, "fontsize": size, "color": "#1f2937", "parse_math": False}
    axes.set_xticks(range(columns), labels[:columns], rotation=45, ha="left", rotation_mode="anchor", **text)
    axes.set_yticks(range(rows), labels[columns:], **text)
    axes.set_xticks([i - 0.5 for i in range(columns + 1)], minor=True)
    axes.set_yticks([i - 0.5 for i in range(rows + 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5 if cell > 0.3 else 0.75)
    axes.tick_params(which="both", length=0)
    axes.tick_params(axis="both", which="major", pad=4)
    axes.spines[:].set_visible(False)

    bar_axes = figure.add_axes(place(left + width + 0.18, top, 0.12, bar_height))
    bar = figure.colorbar(image, cax=bar_axes)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=0, labelsize=8, colors="#6b7280", pad=3)
    bar.ax.yaxis.set_major_locator(_round_ticks())
    if title:
        text |= {"fontsize": 12, "weight": "bold", "va": "top"}
        figure.text(0.15 / figure_size[0], 1 - 0.14 / figure_size[1], _one_line(title), **text)
    return figure


def _round_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, steps=[1, 2, 5, 10])


def _check_not_empty(attention: AttentionMap) -> None:
    if not attention.source_tokens or not attention.target_tokens:
        raise ValueError(
            f"attention must have at least one source and one target token, got {len(attention.source_tokens)} "
            f"and {len(attention.target_tokens)}"
        )


def _scale(attention: AttentionMap) -> float:
    return float(attention.weights.max()) or 1.0


def _one_line(token: str) -> str:
    """One line without control characters, at which matplotlib would break lines or draw boxes."""
    return "".join(" " if unicodedata.category(char) == "Cc" else char for char in token) or " "


def _label_width(tokens: Sequence[str]) -> float:
    """Width of the longest label in units of the font size."""

    def width(char: str) -> float:
        if unicodedata.combining(char):
            return 0.0
        return 1.05 if unicodedata.east_asian_width(char) in "WF" else 0.62

    return max(sum(map(width, token)) for token in tokens)


def _label_inches(tokens: Sequence[str], size: float) -> float:
    return _label_width(tokens) * size / 72


def _font_families(text: str) -> list[str]:
    """matplotlib's default font, then installed ones for the letters that it lacks; warns if some are in none."""
    from matplotlib import font_manager

    default = font_manager.FontProperties().get_name()
    families = [default]
    missing = set(text) - _letters(font_manager.findfont(default)) - {" "}
    missing = {char for char in missing if unicodedata.category(char) not in ("Cf", "Mn", "Me")}
    if missing:
        # plain upright sans faces first, in a fixed order
        fonts = sorted(
            (font for font in font_manager.fontManager.ttflist if font.style == "normal"),
            key=lambda font: ("Sans" not in font.name, "Mono" in font.name, abs(int(font.weight) - 400), font.name),
        )
        for font in fonts:
            found = missing & _letters(font.fname)
            if found:
                families.append(font.name)
                missing -= found
            if not missing:
                break
    if missing:
        names = ", ".join(f"{char} ({unicodedata.name(char, f'U+{ord(char):04X}')})" for char in sorted(missing)[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        logger.warning(
            f"No installed font holds {names}{more}: the figure shows boxes instead. Install one (Noto Sans covers "
            "every script), or use attention_html: a browser brings its own."
        )
    return families


@lru_cache(maxsize=512)
def _letters(font_file: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(font_file).get_charmap()))
    except (OSError, RuntimeError):  # a font that matplotlib listed once and cannot read now
        return frozenset()


STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1f2937; --soft: #6b7280; --low: #f1f5f9; --high: #1d4ed8;
  --mark: #f59e0b; }
@media (prefers-color-scheme: dark) { :root { --page: #0f172a; --text: #e2e8f0; --soft: #94a3b8; --low: #1e293b;
  --high: #7dd3fc; --mark: #fbbf24; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem; background: var(--page); color: var(--text);
  font: 16px/1.4 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.25rem; margin: 0 0 1rem; }
figure { margin: 0 0 2.5rem; overflow-x: auto; }
figcaption { margin-bottom: .5rem; font-weight: 600; }
table { border-collapse: separate; border-spacing: 2px; }
th { font-weight: 400; white-space: nowrap; padding: 0; }
thead th { position: relative; vertical-align: bottom; }
thead span { position: absolute; bottom: .25rem; left: 50%; transform-origin: 0 100%; transform: rotate(-45deg); }
tbody th { text-align: right; padding-right: .6rem; }
td { min-width: 2rem; height: 2rem; padding: 0; border-radius: 3px; position: relative; font-size: 0;
  background: color-mix(in oklab, var(--high) calc(var(--w) * 100%), var(--low)); }
.many td { min-width: 1.25rem; height: 1.25rem; border-radius: 2px; }
.many { font-size: .8rem; }
tbody tr:hover th { color: var(--high); }
td[data-pair]:hover { outline: 2px solid var(--mark); z-index: 1; }
td[data-pair]:hover::after { content: attr(data-pair); position: absolute; z-index: 2; left: 50%; bottom: 115%;
  transform: translateX(-50%); padding: .2rem .5rem; border-radius: 4px; background: var(--text); color: var(--page);
  font-size: .85rem; white-space: nowrap; pointer-events: none; }
.scale { display: flex; align-items: center; gap: .5rem; margin-top: .75rem; font-size: .8rem; color: var(--soft); }
.scale i { width: 8rem; height: .6rem; border-radius: 3px;
  background: linear-gradient(in oklab to right, var(--low), var(--high)); }
"""


def attention_html(
    attention: AttentionMap | Sequence[AttentionMap],
    title: str = "Attention",
    captions: Sequence[str] | None = None,
) -> str:
    """Return a page with one heat map per attention map, that needs no other file, no script and no network.

    Pointing at a cell shows both words and the weight; the page follows the reader's light or dark setting.

    Args:
        attention: one map or several.
        title: heading of the page, as plain text.
        captions: one line above each map, as plain text.

    Raises:
        ValueError: if there is no map, a map is empty, or captions are not as many as maps.
    """
    maps = [attention] if isinstance(attention, AttentionMap) else list(attention)
    if not maps:
        raise ValueError("attention must hold at least one map, got none")
    if captions is not None and len(captions) != len(maps):
        raise ValueError(f"captions must be as many as maps ({len(maps)}), got {len(captions)}")
    figures = "\n".join(
        _figure_html(one, None if captions is None else captions[index]) for index, one in enumerate(maps)
    )
    heading = escape(title)
    return (
        '<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{heading}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1><bdi>{heading}</bdi></h1>\n{figures}\n</body>\n</html>\n"
    )


def _figure_html(attention: AttentionMap, caption: str | None) -> str:
    _check_not_empty(attention)
    largest = _scale(attention)
    many = max(attention.weights.shape) > 30
    slanted = round(_label_width(attention.source_tokens) * 0.71 + 1.2, 1)  # em, at 45 degrees
    head = "".join(
        f'<th scope="col"><span dir="auto">{escape(token)}</span></th>' for token in attention.source_tokens
    )
    rows = []
    for target, weights in zip(attention.target_tokens, attention.weights, strict=True):
        cells = "".join(
            # the isolates (U+2068, U+2069) keep a right-to-left word from reordering its neighbours
            f'<td style="--w:{weight / largest:.3f}" data-pair="&#x2068;{escape(target)}&#x2069; \u2190 '
            f'&#x2068;{escape(source)}&#x2069;: {weight:.3f}">{weight:.3f}</td>'
            for source, weight in zip(attention.source_tokens, weights, strict=True)
        )
        rows.append(f'<tr><th scope="row" dir="auto">{escape(target)}</th>{cells}</tr>')
    above = f"<figcaption><bdi>{escape(caption)}</bdi></figcaption>" if caption else ""
    body = "\n".join(rows)
    return (
        f'<figure style="padding-right:{slanted}em">{above}<table{" class=many" if many else ""}>\n'
        f'<thead><tr style="height:{slanted}em"><th></th>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table>\n"
        f'<div class="scale">0 <i></i> {largest:.2f}</div></figure>'
    )
