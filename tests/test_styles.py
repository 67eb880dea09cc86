"""The one style sheet: what it keeps, what it leaves out, and the fonts beside it."""

import re
import shutil

import pytest
import styles
import typeset
from fontTools.ttLib import TTFont

THEME = (
    "@charset \"UTF-8\";@import '../basic.css';"
    '.fa-bars:before{content:"\\f0c9"}.fa-gone:before{content:"\\f0ca"}'
    ".x{background:url(../x.png)}.x.y{background:url(data:a)}"
    "@media (max-width:9px){.gone{color:red}.x{color:blue}}@media print{.gone{color:red}}"
)
IN_USE = {"fa-bars", "x"}


@pytest.fixture
def pages(tmp_path):
    folder = tmp_path / "_static" / "styles"
    folder.mkdir(parents=True)
    (tmp_path / "_static" / "basic.css").write_text("p{color:red}")
    (folder / "theme.css").write_text(THEME)
    return tmp_path


def test_one_style_sheet_with_the_imports_and_the_rules_in_use(pages):
    name = styles.bundle(pages, ["_static/styles/theme.css"], IN_USE)
    text = re.sub(r"\s", "", (pages / name).read_text(encoding="utf-8"))
    rules = ["p{color:red}", '.fa-bars:before{content:"\uf0c9"}', ".x{background:url(x.png)}"]
    assert text == '@charset"UTF-8";' + "".join(rules) + "@media(max-width:9px){.x{color:blue}}"


@pytest.mark.parametrize(
    ("selector", "kept"),
    [
        ("p", True),
        ("p.x > a[class~=gone]", True),
        (".gone", False),
        (".x .gone p", False),
        (".x:not(.gone)", True),
        (".x:not(:is(.gone, .more)) p", True),
        (":is(.gone, .x) a", True),
        (":root .bs-tooltip-auto", True),
        (r".sd-1\/2", True),
        (r".sd-1\/3", False),
        ("a[href$='.pdf']", True),
    ],
)
def test_a_rule_stays_if_its_selector_can_meet_something(selector, kept):
    words = {"x", "sd-1/2", "pdf"}
    assert styles.matters(selector, words) == kept
    text = styles.without_unused(f"{selector}{{color:red}}", words)
    assert ("color" in text) == kept


def test_selectors_of_one_rule_are_judged_one_by_one():
    text = styles.without_unused(".x,.gone,:is(.x,.gone) b{color:red}", {"x"})
    assert text == ".x,:is(.x,.gone) b{color:red}"


@pytest.mark.parametrize("quote", ['class="a b"', "class='a b'", "id=3 class='a  b'"])
def test_classes_are_found_however_they_are_written(tmp_path, quote):
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "a.js").write_text("e.classList.add('from-script')")
    words = styles.words_in_use(tmp_path, [f"<p {quote}>", "<i class=c>"])
    assert {"a", "b", "c", "from-script"} <= words


def test_fonts_keep_the_signs_that_are_shown(pages):
    fonts = pages / "_static" / styles.FORMULAS
    fonts.mkdir(parents=True)
    source = typeset.mathjax() / "output" / "chtml" / "fonts" / "woff-v2"
    for name in ("MathJax_Main-Regular.woff", styles.EMPTY):
        shutil.copy(source / name, fonts / name)
    (pages / "_static" / "formulas.css").write_text(
        'mjx-c::before{content:"\\2265"}'
        f'@font-face{{font-family:Z;src:url("{styles.FORMULAS}/{styles.EMPTY}") format("woff")}}'
    )
    name = styles.bundle(pages, ["_static/formulas.css"], set())
    with TTFont(fonts / "MathJax_Main-Regular.woff") as font:
        codes = set(font.getBestCmap())
    assert 0x2265 in codes
    assert ord("Q") not in codes
    # The font that all lists begin with costs no request.
    text = (pages / name).read_text(encoding="utf-8")
    assert "data:font/woff;base64," in text
    assert styles.EMPTY not in text


def test_the_fonts_of_formulas_are_named_the_most_used_first():
    drawn = typeset.typeset([(r"x+y=\mathbb{R}", False), (r"\left(\frac{a}{b}\right)", True)])
    assert styles.formula_fonts(drawn[r"x+y=\mathbb{R}", False]) == [
        "MJXTEX-I",
        "MJXTEX",
        "MJXTEX-A",
    ]
    assert "MJXTEX-S2" in styles.formula_fonts(drawn[r"\left(\frac{a}{b}\right)", True])
    assert styles.formula_fonts("<p>words</p>") == []
