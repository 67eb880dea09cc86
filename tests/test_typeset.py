"""Formulas typeset when the book is built: drawn as in a browser, readable, and copied."""

import html
import re
from xml.etree import ElementTree

import pytest
import typeset
from build_book import HTML
from serving import served

INLINE = '<p><span class="math notranslate nohighlight">\\({}\\)</span></p>'
NUMBERED = (
    '<div class="math notranslate nohighlight" id="e">\n<span class="eqno">(1)<a href="#e">#</a>'
    "</span>\\[{}\\]</div>"
)
SPACE = "{http://www.w3.org/1998/Math/MathML}"


def chapters():
    return sorted((HTML / "chapters").glob("*.html"))


def formulas(page):
    """TeX of the formulas of a built page, as their MathML keeps it."""
    found = re.findall(r"<annotation[^>]*>(.*?)</annotation>", page.read_text(encoding="utf-8"))
    return [html.unescape(tex) for tex in found]


def test_a_page_gets_its_formulas_and_loses_the_scripts_for_them():
    scripts = '<script>window.MathJax = {}</script><script src="a/mathjax/x.js"></script>'
    page = scripts + "<script>keep()</script>" + INLINE.format("a &lt; b") + NUMBERED.format("x^2")
    text = typeset.typeset_pages({"a.html": page})["a.html"]
    assert text.startswith("<script>keep()</script>")
    assert text.count("<mjx-container") == 2
    assert "\\(" not in text
    assert '<span class="eqno">(1)' in text
    trees = [ElementTree.fromstring(math) for math in re.findall(r"<math .*?</math>", text)]
    assert [tree.find(f".//{SPACE}annotation").text for tree in trees] == ["a < b", "x^2"]
    assert [mo.text for mo in trees[0].iter(f"{SPACE}mo")] == ["<"]
    # What is drawn is hidden from those who listen, and what is read from those who see.
    assert text.count('<mjx-math class=" MJX-TEX" aria-hidden="true"') == 1
    assert text.count("<mjx-assistive-mml") == 2


@pytest.mark.parametrize("tex", [r"\unheardof{x}", r"\frac{1}{", r"\begin{aligned} x", "x^2^3"])
def test_a_formula_that_is_not_understood_ends_the_build(tex):
    with pytest.raises(ValueError, match=re.escape(tex)):
        typeset.typeset_pages({"a.html": INLINE.format(tex)})


def test_a_formula_of_unknown_form_ends_the_build():
    page = '<span class="math other">\\(x\\)</span>'
    with pytest.raises(ValueError, match="0 of 1 formulas"):
        typeset.typeset_pages({"a.html": page})


def test_formulas_in_a_line_may_break_after_relations_and_sums_only():
    drawn = typeset.typeset([("a+b=|c|", False)])["a+b=|c|", False]
    parts = re.sub(r"</?mjx-c[^>]*>", "", drawn.partition("<mjx-assistive")[0])
    assert parts.count("<wbr>") == 2
    assert re.search(r"<wbr></?wbr>?", parts) is None
    # The space behind an operator does not go to the next line.
    for operator, following in re.findall(r"(<mjx-mo[^>]*>)</mjx-mo><wbr>(<[^>]*>)", parts):
        assert " space=" in operator
        assert " rspace=" in operator
        assert "space" not in following
    assert parts.count("rspace") == 2
    assert "<wbr>" not in typeset.typeset([("a+b", True)])["a+b", True]


needs_book = pytest.mark.skipif(not chapters(), reason="run `make book` first")


@needs_book
def test_no_page_needs_mathjax():
    for page in HTML.rglob("*.html"):
        assert "tex-chtml" not in page.read_text(encoding="utf-8")
    assert not (HTML / "_static" / "mathjax" / "tex-chtml.js").exists()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server of the book and of MathJax itself."""
    folder = tmp_path_factory.mktemp("formulas")
    (folder / "book").symlink_to(HTML)
    (folder / "mathjax").symlink_to(typeset.mathjax())
    (folder / "blank.html").write_text(
        "<!DOCTYPE html><script>window.MathJax = {options: {enableMenu: false}, "
        # All rules at once, as a page has them that shows all sorts of formulas.
        "chtml: {adaptiveCSS: false}}</script>"
        '<script src="mathjax/tex-chtml.js"></script><body></body>'
    )

    with served(folder) as address:
        yield address


SIZES = """() => [...document.querySelectorAll(".bd-article div.math mjx-math")]
    .filter(e => e.getClientRects().length && !e.querySelector("mjx-utext, mjx-mtable[width]"))
    .map(e => [e.closest("mjx-container").querySelector("annotation").textContent,
        e.getBoundingClientRect().width, e.getBoundingClientRect().height,
        parseFloat(getComputedStyle(e).fontSize)])"""
REFERENCE = """async ([tex, size]) => {
    await MathJax.startup.promise;
    MathJax.typesetClear();
    document.body.textContent = "\\\\[" + tex + "\\\\]";
    await MathJax.typesetPromise();
    const box = document.querySelector("mjx-container");
    box.style.fontSize = size + "px";
    await document.fonts.ready;
    const {width, height} = box.querySelector("mjx-math").getBoundingClientRect();
    return [width, height];
}"""


@needs_book
@pytest.mark.browser
def test_the_drawing_is_that_of_mathjax_in_the_browser(browser, address):
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page, reference = context.new_page(), context.new_page()
    page.goto(f"{address}/book/chapters/singular_values.html#exercises")
    reference.goto(f"{address}/blank.html")
    page.evaluate("document.fonts.ready.then(() => null)")
    drawn = page.evaluate(SIZES)
    assert len(drawn) > 20
    for tex, width, height, size in drawn:
        expected = reference.evaluate(REFERENCE, [tex, size])
        assert width == pytest.approx(expected[0], abs=0.5), tex
        assert height == pytest.approx(expected[1], abs=0.5), tex
    context.close()


@needs_book
@pytest.mark.browser
@pytest.mark.parametrize("chapter", chapters(), ids=lambda path: path.stem)
def test_a_page_asks_at_once_for_the_fonts_that_it_needs(browser, address, chapter):
    tab = browser.new_page()
    tab.goto(f"{address}/book/chapters/{chapter.name}#exercises", wait_until="load")
    tab.add_style_tag(content="* { content-visibility: visible !important; }")
    tab.evaluate("document.querySelectorAll('details').forEach(box => { box.open = true; })")
    tab.evaluate("document.fonts.ready.then(() => null)")
    used = tab.evaluate(
        """[...document.fonts].filter(face => face.status === "loaded").map(face => face.family)"""
    )
    asked = tab.locator("script[data-fonts]").get_attribute("data-fonts").split()
    assert {name for name in used if name.startswith("MJXTEX")} == set(asked)
    tab.close()


@needs_book
@pytest.mark.browser
def test_formulas_show_without_scripts_as_high_as_the_text(browser, address):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{address}/book/chapters/norm_blowup.html")
    box = tab.locator("mjx-container").first.bounding_box()
    assert box["width"] > 10
    assert box["height"] > 10
    context.close()


@needs_book
@pytest.mark.browser
def test_formulas_are_read_as_mathematics(browser, address):
    tab = browser.new_page()
    tab.goto(f"{address}/book/chapters/norm_blowup.html")
    tree = tab.locator(".bd-article section > p:has(mjx-container)").first.aria_snapshot()
    assert "- math" in tree
    tab.close()


@needs_book
@pytest.mark.browser
def test_copied_text_holds_the_tex_of_its_formulas(browser, address):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    tab.goto(f"{address}/book/chapters/norm_blowup.html", wait_until="load")
    tex = tab.evaluate(
        """() => {
            const formula = document.querySelector(".bd-article p mjx-container");
            getSelection().selectAllChildren(formula.closest("p"));
            return formula.querySelector("annotation").textContent;
        }"""
    )
    tab.keyboard.press("Control+c")
    assert f"${tex}$" in tab.evaluate("navigator.clipboard.readText()")
    context.close()


@needs_book
@pytest.mark.browser
@pytest.mark.parametrize("page", [page.stem for page in chapters()])
def test_a_link_into_a_chapter_leads_to_its_place_and_stays(browser, address, page):
    tab = browser.new_page()
    tab.goto(f"{address}/book/chapters/{page}.html#summary", wait_until="load")
    top = "document.getElementById('summary').getBoundingClientRect().top"
    for _ in range(2):
        assert 0 <= tab.evaluate(top) < 300
        tab.wait_for_timeout(400)
    tab.close()


@needs_book
def test_all_formulas_of_the_book_can_be_typeset_again_from_what_pages_keep():
    found = {tex for page in chapters() for tex in formulas(page)}
    assert len(found) > 2000
    typeset.typeset([(tex, True) for tex in sorted(found)])
