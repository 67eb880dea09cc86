"""The built book, opened page by page in a real browser and read file by file.

Needs ``_build/html`` (``make book``). The browser tests are left out, with a message, where there
is no Chromium; in continuous integration their absence is a failure.
"""

import functools
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from colours import contrast, in_dark_mode
from serving import served

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
PAGES = sorted(str(path.relative_to(HTML)) for path in HTML.rglob("*.html"))
PAGES = [page for page in PAGES if not page.startswith(("_static/", "_sources/"))]
CONTENT = [page for page in PAGES if page not in {"genindex.html", "py-modindex.html"}]
PHONE = {"width": 390, "height": 844}
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]

if not PAGES and os.environ.get("CI") == "true":
    raise RuntimeError("the book is not built: run `make book` before the tests")
pytestmark = pytest.mark.skipif(not PAGES, reason="tests of the pages left out: run `make book`")


class Page(HTMLParser):
    """Links, ids and images of one page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.images, self.lang = [], set(), [], None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        for name in ("id", "name"):
            if attributes.get(name):
                self.ids.add(attributes[name])
        for name in ("href", "src", "data-src"):
            if attributes.get(name):
                self.links.append(attributes[name])
        if tag == "img":
            self.images.append(attributes)
        if tag == "html":
            self.lang = attributes.get("lang")


def read_text(page):
    return (HTML / page).read_text(encoding="utf-8")


@functools.cache
def read(page):
    return Page(HTML / page)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    broken = []
    for link in read(page).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        path, fragment = urldefrag(link)
        target = (HTML / page).parent / unquote(urlsplit(path).path) if path else HTML / page
        target = target.resolve()
        if not target.exists():
            broken.append(link)
        elif fragment and target.suffix == ".html":
            name = unquote(fragment)
            if name not in read(str(target.relative_to(HTML.resolve()))).ids:
                broken.append(link)
    assert not broken, f"{page}: broken links {sorted(set(broken))}"


@pytest.mark.parametrize("page", CONTENT)
def test_no_reference_is_left_unresolved(page):
    # In a script `??` is an operator.
    text = re.sub(r"<script\b.*?</script>", "", read_text(page), flags=re.DOTALL)
    left = re.findall(r"\[\?[\w-]*\]|\?\?|\{(?:prf:ref|cite|numref|eq|doc|ref)\}`[^`]*`", text)
    assert not left, f"{page}: {left}"


@pytest.mark.parametrize("page", PAGES)
def test_images_have_words(page):
    bare = [a.get("src") for a in read(page).images if not (a.get("alt") or "").strip()]
    assert not bare, f"{page}: images without alternative text: {bare}"
    unnamed = [a["src"] for a in read(page).images if a["alt"].endswith((".svg", ".png"))]
    assert not unnamed, f"{page}: alternative text is a file name: {unnamed}"
    assert read(page).lang == "en"


def test_words_in_figures_are_readable():
    # Matplotlib draws words as shapes: a group named text_N, and in it one that has a colour.
    word = re.compile(r'<g id="text_\d+">\s*(?:<!--.*?-->\s*)?<g style="fill: (#\w{6})', re.DOTALL)
    words = 0
    for figure in (HTML / "_images").glob("*.svg"):
        for color in word.findall(figure.read_text(encoding="utf-8")):
            assert contrast(color, "white") >= 4.5, f"{figure.name}: {color}"
            assert contrast(in_dark_mode(color), "#14181e") >= 4.5, f"{figure.name}: {color}"
            words += 1
    assert words > 1000


def test_no_page_names_another_server_for_scripts_styles_or_fonts():
    pattern = re.compile(
        r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["'](?:https?:)?//[^"']*"""
    )
    for page in PAGES:
        hits = pattern.findall(read_text(page))
        hits = [hit for hit in hits if 'rel="license"' not in hit and 'rel="canonical"' not in hit]
        assert not hits, f"{page}: {hits[:3]}"


@pytest.mark.parametrize("page", PAGES)
def test_page_admits_its_own_scripts_only(page):
    # That the pages obey is seen in the browser: a violation is an error on its console.
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', read_text(page))
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    scripts = rules.get("script-src", "").split()
    assert all(source == "'self'" or source.startswith("'sha256-") for source in scripts)
    assert not re.search(r"\son[a-z]+=\"", read_text(page).partition("<body")[2].split(">")[0])
    assert "document.cookie" not in read_text(page)


def test_numbered_results_and_ledger_lead_to_each_other():
    ledger = read("ledger.html")
    rows = {name for name in ledger.ids if name.startswith("row-")}
    there = set()
    for page in (page for page in PAGES if page.startswith("chapters/")):
        for link in read(page).links:
            if "ledger.html#row-" in link:
                there.add(link.partition("#")[2])
        back = {link.partition("#")[2] for link in ledger.links if link.startswith(page)}
        assert back, f"the ledger does not lead to {page}"
    assert there == rows
    assert len(rows) > 100


@pytest.fixture(scope="module")
def address():
    """Serve the book as a plain file server would."""
    with served(HTML) as address:
        yield address


ALL_SHOWN = """() => [...document.querySelectorAll(".bd-article > section > section")]
    .every(section => section.style.contentVisibility === "visible")"""


# Fonts are asked for when what they draw is laid out; observers are told after that.
SETTLED = """async () => {
    const frames = () => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)));
    await frames();
    await document.fonts.ready;
    await frames();
}"""


class Visit:
    """One page opened in the browser, with everything that went wrong on the way."""

    def __init__(self, context, address, page):
        self.problems = []
        self.tab = context.new_page()
        self.tab.on("request", self._request(address))
        self.tab.on("response", self._response)
        self.tab.on("console", self._console)
        self.tab.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.tab.goto(f"{address}/{page}", wait_until="load")
        self.tab.wait_for_function(ALL_SHOWN)
        self.tab.evaluate(SETTLED)

    def _request(self, address):
        def check(request):
            if not request.url.startswith((address, "data:", "blob:")):
                self.problems.append(f"request to {request.url}")

        return check

    def _response(self, response):
        if response.status >= 400:
            self.problems.append(f"{response.status} for {response.url}")

    def _console(self, message):
        if message.type in {"error", "warning"}:
            self.problems.append(f"console: {message.text}")


@pytest.fixture(params=["light", "dark"])
def context(browser, request):
    """A fresh browser profile in light or dark mode."""
    context = browser.new_context(color_scheme=request.param)
    context.add_init_script(
        f"localStorage.setItem('mode', '{request.param}');"
        f"localStorage.setItem('theme', '{request.param}')"
    )
    yield context
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize("page", CONTENT)
def test_page_is_whole_alone_and_accessible(context, address, page):
    from axe_playwright_python.sync_playwright import Axe

    visit = Visit(context, address, page)
    assert not visit.problems, f"{page}: {visit.problems}"
    results = Axe().run(visit.tab, options={"runOnly": WCAG})
    violations = [
        f"{violation['id']}: {violation['help']}: "
        + "; ".join(node["html"][:160] for node in violation["nodes"][:3])
        for violation in results.response["violations"]
    ]
    assert not violations, f"{page}: " + "\n".join(violations)


@pytest.mark.browser
@pytest.mark.parametrize("page", CONTENT)
def test_nothing_is_cut_off_on_a_phone(browser, address, page):
    context = browser.new_context(viewport=PHONE)
    try:
        visit = Visit(context, address, page)
        width = visit.tab.evaluate("document.scrollingElement.scrollWidth")
        assert width <= PHONE["width"], f"{page} is {width} px wide"
        wide = visit.tab.evaluate(
            """() => [...document.querySelectorAll('.bd-article img, .bd-article svg')]
                .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
                .map(e => e.outerHTML.slice(0, 100))"""
        )
        assert not wide, f"{page}: {wide}"
        # A numbered formula begins in sight, and leaves room for its number or stands above it.
        bad = visit.tab.evaluate(
            """() => [...document.querySelectorAll('.bd-article div.math > .eqno')]
                .map(number => [number, number.parentElement.querySelector('mjx-math')]
                    .concat(number.parentElement).map(e => e.getBoundingClientRect()))
                .filter(([number, formula, box]) => box.width && (
                    formula.left < box.left - 1
                    || number.right < box.right - 1 || number.right > box.right + 1
                    || (number.top < formula.bottom && number.left < formula.right)))
                .map(rectangles => JSON.stringify(rectangles))"""
        )
        assert not bad, f"{page}: {bad}"
    finally:
        context.close()


@pytest.mark.browser
@pytest.mark.parametrize("page", CONTENT)
def test_lines_of_code_and_formulas_fit_a_laptop(browser, address, page):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    try:
        visit = Visit(context, address, page)
        visit.tab.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        for width in (1280, 1440):
            visit.tab.set_viewport_size({"width": width, "height": 800})
            wide = visit.tab.evaluate(
                """() => ['pre', 'table', 'div.math', 'mjx-container[display="true"]']
                    .flatMap(what => [...document.querySelectorAll(`.bd-article ${what}`)])
                    .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
                    .map(e => e.textContent.trim().slice(0, 100))"""
            )
            assert not wide, f"{page} at {width} px: {wide}"
    finally:
        context.close()


@pytest.mark.browser
@pytest.mark.parametrize("mode", [None, "light", "dark"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_is_set_before_any_file_has_arrived(browser, address, scheme, mode):
    context = browser.new_context(color_scheme=scheme)
    if mode:
        context.add_init_script(f"localStorage.setItem('mode', '{mode}')")
    context.route("**/_static/**", lambda route: route.abort())
    tab = context.new_page()
    tab.goto(f"{address}/chapters/norm_blowup.html")
    assert tab.evaluate("document.documentElement.dataset.theme") == (mode or scheme)
    context.close()


@pytest.mark.browser
def test_search_finds_a_word_of_the_first_chapter(browser, address):
    context = browser.new_context()
    try:
        visit = Visit(context, address, "search.html?q=pseudoinverse")
        visit.tab.wait_for_selector("#search-results li a", timeout=10_000)
        found = visit.tab.locator("#search-results").inner_text()
        assert "least" in found.lower()
        assert not visit.problems
    finally:
        context.close()


RESTORE = "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }"
LIVE = [page for page in CONTENT if re.search("<figure class=.dmf-explorer", read_text(page))]


def test_the_landing_page_and_every_chapter_are_live():
    assert set(LIVE) >= {"index.html", *(page for page in PAGES if page.startswith("chapters/"))}


@pytest.mark.browser
@pytest.mark.parametrize("page", LIVE)
def test_every_slider_moves_its_figure(browser, address, page):
    context = browser.new_context()
    try:
        visit = Visit(context, address, page)
        figures = visit.tab.locator("figure.dmf-explorer")
        for k in range(figures.count()):
            figure = figures.nth(k)
            sliders = figure.locator("input[type=range]")
            assert sliders.count() > 0
            for j in range(sliders.count()):
                slider, drawing = sliders.nth(j), figure.locator("svg").first
                before, stood = drawing.inner_html(), slider.input_value()
                seen = []
                for key in ("Home", "End"):
                    slider.focus()
                    visit.tab.keyboard.press(key)
                    seen.append((slider.get_attribute("aria-valuetext"), drawing.inner_html()))
                assert seen[0][0] != seen[1][0], f"{page}: slider {j} of figure {k} says nothing"
                assert {html for _, html in seen} != {before}, f"{page}: {j} of {k} is dead"
                slider.evaluate(RESTORE, stood)
                assert drawing.inner_html() == before
        assert not visit.problems
    finally:
        context.close()
