"""Print the whole book into one PDF with the system's Chromium: `make pdf`.

The articles of the built pages are joined in the order of the table of contents into one document,
so that a link from one page to another becomes a link inside the PDF and the headings become its
outline. Formulas are those of the pages; explorers are figures;
solutions are open, and code that the page folds away is left out.
"""

import argparse
import os
import posixpath
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

import yaml
from bs4 import BeautifulSoup, NavigableString, Tag
from finish_pages import edition

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--allow-file-access-from-files",
]
LEFT_OUT = ("api",)  # lists of functions are for the screen
WIDTH = 672  # CSS pixels of a line of text: A4 less the margins, at 96 dpi
STYLE = """
@page { size: A4; margin: 20mm 16mm 22mm 16mm; }
html, body { background: white; color: black; font-size: 10.5pt; margin: 0; }
body { font-family: Georgia, 'DejaVu Serif', serif; line-height: 1.45; }
article { break-before: page; }
article:first-of-type { break-before: auto; }
h1, h2, h3, h4 { break-after: avoid; font-family: 'DejaVu Sans', sans-serif; }
h1 { font-size: 22pt; } h2 { font-size: 15pt; } h3 { font-size: 12pt; }
figure, table, div.proof > p.admonition-title, pre { break-inside: avoid; }
figure img, .cell_output img { max-width: 12.5cm; height: auto; }
figure.dmf-explorer svg { max-width: 12.5cm; height: auto; }
.toggle-button { display: none; }
pre, code { font-family: 'DejaVu Sans Mono', monospace; font-size: 8pt; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.bd-article div.math { overflow: visible; }
a { color: #12305c; text-decoration: none; }
div.proof, div.admonition { border-left: 2pt solid #8a94a6; margin: 9pt 0;
  padding: 1pt 0 1pt 10pt; }
p.admonition-title { margin: 2pt 0 4pt; break-after: avoid; }
p.admonition-title, div.proof > p.admonition-title { font-weight: bold !important; }
.admonition-title .caption-number { font-weight: bold; }
div.math { position: relative; }
div.proof :is(p, div.math):last-child { margin-block-end: 2pt; }
.eqno { position: absolute; right: 0; top: 50%; transform: translateY(-50%); }
.cell_input pre { background: #f3f4f6; padding: 5pt 7pt; }
.cell_output pre { border-left: 2pt solid #8a94a6; padding-left: 7pt; margin: 4pt 0; }
figure { margin: 10pt 0; text-align: center; } figcaption { font-size: 9pt; text-align: left; }
.sd-card { margin: 6pt 0; } .bd-article table { border-collapse: collapse; font-size: 9pt; }
.bd-article td, .bd-article th { border-bottom: 0.5pt solid #999; padding: 2pt 6pt; }
.titlepage { break-after: page; padding-top: 30vh; text-align: center; }
.titlepage h1 { font-size: 30pt; } .contents { break-after: page; }
.contents ol { list-style: none; padding: 0; line-height: 1.9; }
"""


def pages():
    """Names of the pages in the order of the book, without their suffix."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [c["file"] for part in contents["parts"] for c in part["chapters"]]
    return [contents["root"], *(file for file in files if file not in LEFT_OUT)]


def anchor(page, fragment=""):
    """Name in the joined document of a place on a page."""
    return f"{page.replace('/', '-')}--{fragment or 'top'}"


def redirect(link, page, known):
    """Where a link of a page leads in the joined document; nothing if it leads out of the book."""
    if urlsplit(link).scheme:
        return link
    path, fragment = urldefrag(link)
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
    target = target.removesuffix(".html")
    return "#" + anchor(target, fragment) if target in known else None


def article(page, known, html=HTML):
    """Return the article of a built page, with names and links for the joined document."""
    soup = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    body = soup.select_one("article.bd-article")
    for element in body.select(
        "script, .dmf-explorer-controls, .headerlink, button, details.above-input, a.ledger-row"
    ):
        element.decompose()
    for element in body.select("details"):
        element["open"] = ""
    for element in body.select("div.math"):
        # The number stands first in the page, and beside the formula when it is printed.
        if number := element.select_one(".eqno"):
            element.append(number.extract())
    for element in body.find_all(id=True):
        if element.find_parent("svg") is None and element.name != "svg":
            element["id"] = anchor(page, element["id"])
    for element in body.find_all("a", href=True):
        where = redirect(element["href"], page, known)
        if where is None:
            element.unwrap()
        else:
            element["href"] = where
    for element in body.find_all("img", src=True):
        source = (html / page).parent / element["src"]
        element["src"] = source.resolve().as_uri()
        element.attrs.pop("loading", None)
    for heading in body.select("h1, h2, h3"):
        # Chromium's outline swallows a space at which a heading breaks; this one it keeps.
        for string in heading.find_all(string=True):
            first, *others = string.split(" ")
            parts = [[NavigableString("\u00a0"), Tag(name="wbr"), word] for word in others]
            string.replace_with(first, *(part for group in parts for part in group))
    body["id"] = anchor(page)
    return body


def join(html=HTML):
    """Write the joined document; return its path."""
    names = pages()
    bodies = [article(page, set(names), html) for page in names]
    version, day = edition()
    titles = [
        (anchor(page), " ".join(body.h1.get_text(" ").split()))
        for page, body in zip(names, bodies, strict=True)
    ]
    contents = "\n".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in titles)
    styles = "\n".join(
        f'<link rel="stylesheet" href="{(html / "_static" / name).resolve().as_uri()}" />'
        for name in ("pygments.css", "proof.css", "explore.css", "formulas.css")
        if (html / "_static" / name).exists()
    )
    document = f"""<!DOCTYPE html>
<html lang="en" data-theme="light"><head><meta charset="utf-8" />
<title>The implicit bias of gradient descent</title>
{styles}
<style>{STYLE}</style></head>
<body class="bd-article">
<section class="titlepage"><h1>The implicit bias of gradient descent</h1>
<p>Edition {version}, {day.day} {day:%B %Y}</p></section>
<section class="contents"><h2>Contents</h2><ol>{contents}</ol></section>
{"".join(str(body) for body in bodies)}
</body></html>"""
    folder = html.parent / "pdf"
    folder.mkdir(exist_ok=True)
    path = folder / "book.html"
    path.write_text(document, encoding="utf-8")
    return path


WIDE = """() => [...document.querySelectorAll('mjx-container, img, svg, pre, table')]
    .filter(e => !e.closest('svg svg') && e.getBoundingClientRect().right > %d + 1)
    .map(e => (e.closest('[id]')?.id ?? '') + ': ' + e.tagName.toLowerCase() + ' ' +
        Math.round(e.getBoundingClientRect().right) + ' px')"""
# A formula that is too wide for the line is made smaller, as a typesetter would do.
SHRINK = """width => {
    for (const e of document.querySelectorAll('mjx-container')) {
        const box = e.getBoundingClientRect();
        const end = e.closest("div.math")?.querySelector(".eqno") ? width - 42 : width;
        const room = end - box.left;
        if (box.right > end + 1 && room > 50) {
            const size = parseFloat(getComputedStyle(e).fontSize);
            e.style.fontSize = Math.max(size * room / box.width * 0.985, 5) + 'px';
        }
    }
}"""


def print_pdf(source, target, executable):
    """Print the joined document; return what is wider than the page, which should be nothing."""
    from playwright.sync_api import sync_playwright

    footer = (
        '<div style="font-size:8px;width:100%;text-align:center;color:#555">'
        '<span class="pageNumber"></span></div>'
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM)
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        page.emulate_media(media="print", color_scheme="light")
        page.goto(source.as_uri(), wait_until="load", timeout=120_000)
        page.evaluate("document.fonts.ready.then(() => true)")
        page.evaluate(SHRINK, WIDTH)
        wide = page.evaluate(WIDE % WIDTH)
        part = target.with_suffix(".part")
        page.pdf(
            path=part,
            prefer_css_page_size=True,
            print_background=True,
            tagged=True,
            outline=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=footer,
        )
        browser.close()
    part.rename(target)
    return wide


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "pdf" / "book.pdf")
    target = parser.parse_args().output
    name = os.environ.get("CHROMIUM", "chromium")
    executable = shutil.which(name)
    if executable is None:
        sys.exit(f"no PDF: there is no {name} here (set CHROMIUM to its path)")
    if not HTML.exists():
        sys.exit("no PDF: build the book first (make book)")
    target.parent.mkdir(parents=True, exist_ok=True)
    wide = print_pdf(join(), target, executable)
    for place in wide:
        print(f"wider than the page: {re.sub('--', '#', place, count=1)}")
    print(f"{target} is ready")


if __name__ == "__main__":
    main()
