import logging as python_logging
import warnings as python_warnings
from html.parser import HTMLParser
from io import BytesIO

import matplotlib
import matplotlib.font_manager
import matplotlib.pyplot
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from transformers.utils import logging

from hf_genai.evaluation.attention_maps import AttentionMap
from hf_genai.evaluation.attention_plots import attention_html, plot_attention


def make_map(source, target):
    weights = np.random.default_rng(0).random((len(target), len(source)))
    return AttentionMap(source, target, weights / weights.sum(1, keepdims=True), np.zeros(len(target)))


LATIN = make_map(["the", "red", "house", "."], ["la", "maison", "rouge"])


@pytest.fixture
def warnings(caplog):
    logging.enable_propagation()
    caplog.set_level(python_logging.WARNING)
    yield caplog
    logging.disable_propagation()


def boxes(figure):
    """(inside, texts): whether all labels lie within the figure, and the drawn label boxes by axis."""
    figure.canvas.draw()
    axes = figure.axes[0]
    labels = [*axes.get_xticklabels(), *axes.get_yticklabels()]
    extents = [label.get_window_extent() for label in labels]
    return all(
        e.x0 >= 0 and e.y0 >= 0 and e.x1 <= figure.bbox.width and e.y1 <= figure.bbox.height for e in extents
    ), extents


def test_the_figure_shows_the_source_on_top_the_target_at_the_side_and_the_weights():
    figure = plot_attention(LATIN, title="A map")
    axes, bar = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == LATIN.source_tokens
    assert [label.get_text() for label in axes.get_yticklabels()] == LATIN.target_tokens
    assert axes.xaxis.get_ticks_position() == "top"
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # first target word above
    (image,) = axes.get_images()
    np.testing.assert_array_equal(image.get_array(), LATIN.weights)
    assert image.get_clim() == (0, LATIN.weights.max())
    assert figure.texts[0].get_text() == "A map"


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (1, 12), (12, 1), (20, 18), (60, 60)])
def test_labels_stay_inside_the_figure_and_do_not_touch_from_1_to_60_words(columns, rows):
    words = ["a", "internationalization", "Übersetzung", "of"] * 15
    figure = plot_attention(make_map(words[1 : columns + 1] if columns < 60 else words, words[:rows]))
    inside, extents = boxes(figure)
    assert inside
    rows_of_text = sorted((extent.y0, extent.y1) for extent in extents[columns:])
    assert all(upper[0] >= lower[1] - 1 for lower, upper in zip(rows_of_text, rows_of_text[1:], strict=False))
    assert max(figure.get_size_inches()) < 20


def test_the_figure_leaves_no_state_and_saves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(matplotlib.rcParams)
    plot_attention(LATIN).savefig(BytesIO(), format="png")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == [] and not list(tmp_path.iterdir())


def test_dollars_and_line_breaks_in_words_are_plain_text():
    figure = plot_attention(make_map(["$x_1$", "a\nb", "\\alpha"], ["$", "50%"]))
    figure.savefig(BytesIO(), format="png")
    labels = figure.axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["$x_1$", "a b", "\\alpha"]
    assert labels[0].get_window_extent().width > labels[2].get_window_extent().width * 0.7  # no formula
    assert not any(label.get_parse_math() for label in labels)


def test_arabic_and_hebrew_are_drawn_with_glyphs_in_a_shaped_run():
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")  # a missing glyph would warn
        plot_attention(make_map(["البيت", "الأحمر"], ["הבית", "!"])).savefig(BytesIO(), format="png")


def make_font(path, letters):
    """A font whose letters are all a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 700), (800, 700), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, letters), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_letters_of_other_scripts_come_from_an_installed_font(tmp_path, monkeypatch):
    manager = matplotlib.font_manager.fontManager
    default = matplotlib.font_manager.findfont("DejaVu Sans")
    monkeypatch.setattr(manager, "ttflist", [font for font in manager.ttflist if font.fname == default])
    make_font(tmp_path / "squares.ttf", "日本猫")
    manager.addfont(tmp_path / "squares.ttf")
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("error")
        plot_attention(make_map(["猫", "日本"], ["cat", "Japan"]), title="日本").savefig(BytesIO(), format="png")


def test_a_letter_that_no_font_has_is_named(warnings, monkeypatch):
    default = matplotlib.font_manager.findfont("DejaVu Sans")
    only = [font for font in matplotlib.font_manager.fontManager.ttflist if font.fname == default]
    monkeypatch.setattr(matplotlib.font_manager.fontManager, "ttflist", only)
    plot_attention(make_map(["日", "a"], ["b"]))
    assert "日 (CJK UNIFIED IDEOGRAPH-65E5)" in warnings.text and "attention_html" in warnings.text
    warnings.clear()
    plot_attention(LATIN)
    assert not warnings.records


class Page(HTMLParser):
    """Collects tags, attributes and the text of header cells, titles and cells."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.texts = [], [], {}
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "link", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.stack[-1] if self.stack else None, []).append(data)


def test_the_page_is_well_formed_and_holds_every_word_and_weight():
    page = Page(attention_html(LATIN))
    assert page.texts["span"] == LATIN.source_tokens
    assert page.texts["th"] == LATIN.target_tokens
    np.testing.assert_allclose([float(cell) for cell in page.texts["td"]], LATIN.weights.ravel(), atol=5e-4)
    cells = [attributes for tag, attributes in page.tags if tag == "td"]
    assert cells[1]["data-pair"].replace("\u2068", "").replace("\u2069", "") == (
        f"la \u2190 red: {LATIN.weights[0, 1]:.3f}"
    )
    shades = [float(cell["style"].removeprefix("--w:")) for cell in cells]
    np.testing.assert_allclose(shades, (LATIN.weights / LATIN.weights.max()).ravel(), atol=5e-4)
    headers = [attributes for tag, attributes in page.tags if tag in ("span", "th") and "dir" in attributes]
    assert len(headers) == 7 and all(attributes["dir"] == "auto" for attributes in headers)


def test_the_page_needs_nothing_else_and_escapes_what_it_shows():
    evil = make_map(['<script>alert("1")</script>', "a&b"], ['"><img src=x>'])
    text = attention_html([evil, LATIN], title="<b>T</b>", captions=["<i>", "two"])
    page = Page(text)
    assert not {"script", "img", "link", "iframe", "b", "object"} & {tag for tag, _ in page.tags}
    assert "url(" not in text and "@import" not in text and "http" not in text
    assert page.texts["span"][:2] == evil.source_tokens
    assert page.texts["title"] == ["<b>T</b>"] and page.texts["bdi"] == ["<b>T</b>", "<i>", "two"]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_empty_maps_and_wrong_captions_are_refused():
    empty = AttentionMap(["a"], [], np.zeros((0, 1)), np.zeros(0))
    for draw in (plot_attention, attention_html):
        with pytest.raises(ValueError, match="at least one source and one target token, got 1 and 0"):
            draw(empty)
    with pytest.raises(ValueError, match="at least one map"):
        attention_html([])
    with pytest.raises(ValueError, match=r"captions must be as many as maps \(1\), got 2"):
        attention_html(LATIN, captions=["a", "b"])


def test_a_map_without_any_weight_is_drawn_blank():
    blank = AttentionMap(["a", "b"], ["c"], np.zeros((1, 2)), np.ones(1))
    plot_attention(blank).savefig(BytesIO(), format="png")
    assert attention_html(blank).count("--w:0.000") == 2
