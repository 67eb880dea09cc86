"""What the finished pages need and the theme does not give.

Repairs for accessibility; formulas that are typeset (`typeset.py`); one small style sheet
(`styles.py`) and one script (`scripts.py`); a Content-Security-Policy that admits the page's own
scripts and nothing else; the edition and a box that says how to cite the page; what a link to the
page shows elsewhere (`cards.py`); and, once `_config.yml` says where the book is published
(``html: baseurl``), canonical addresses and a sitemap; once it names the repository
(``repository: url``), links that open a chapter on Binder or on a JupyterHub.
"""

import base64
import hashlib
import html
import posixpath
import re
from datetime import date
from pathlib import Path
from urllib.parse import quote, urlencode

import scripts
import styles
import typeset
import yaml
from cards import draw_cards, sitemap, title, with_cards

ROOT = Path(__file__).resolve().parents[1]
# Draws icons that the style sheets draw as well, and is a third of a page's weight.
ICONS = re.compile(r'\s*<script defer src="[^"]*scripts/fontawesome\.js[^"]*"></script>')
SUMMARY = '<summary><span class="toctree-toggle"'
NAME = ' aria-label="Show or hide the pages below">'
INLINE = re.compile(
    r"<script(?![^>]*\bsrc=)(?P<attributes>[^>]*)>(?P<code>.*?)</script>", re.DOTALL
)
# Formulas and figures carry styles in their attributes, so those cannot be listed.
POLICY = (
    "default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'"
)
THEME = 'document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";'
CHOSEN = (
    '{light: "light", dark: "dark"}[document.documentElement.dataset.mode] '
    '?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")'
)
ASK = (
    'const names = document.currentScript.dataset.fonts.split(" ");'
    "document.fonts.forEach(face => names.includes(face.family) && face.load());"
)
FORMULAS = "_static/formulas.css"
# The full site adds its button to pages that are finished.
BUTTON = "run-live"


def edition():
    """Version and date of this edition, from CITATION.cff."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return citation["version"], date.fromisoformat(str(citation["date-released"]))


def base_url():
    """Address under which the book is published, with a final slash, or nothing."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    url = config.get("html", {}).get("baseurl", "")
    return url.rstrip("/") + "/" if url else ""


def launchers(stem):
    """Names and addresses of the places that can run a chapter, from `_config.yml`."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    repository = config.get("repository", {})
    url, branch = repository.get("url", "").rstrip("/"), repository.get("branch", "main")
    if not url:
        return {}
    buttons = config.get("launch_buttons", {})
    binder = buttons.get("binderhub_url", "https://mybinder.org").rstrip("/")
    hub = buttons.get("jupyterhub_url", "").rstrip("/")
    place = f"chapters/{stem}.ipynb"
    host, _, path = url.partition("://")[2].partition("/")
    name = f"gh/{path}" if host == "github.com" else f"git/{quote(url, safe='')}"
    found = {"Binder": f"{binder}/v2/{name}/{branch}?{urlencode({'urlpath': f'lab/tree/{place}'})}"}
    if hub:
        folder = url.rsplit("/", 1)[1].removesuffix(".git")
        query = {"repo": url, "branch": branch, "urlpath": f"lab/tree/{folder}/{place}"}
        found["JupyterHub"] = f"{hub}/hub/user-redirect/git-pull?{urlencode(query)}"
    return found


def with_launchers(text, page):
    """Offer on a chapter's page the other places where it can be run."""
    links = launchers(Path(page).stem) if page.startswith("chapters/") else {}
    if not links:
        return text
    anchors = "\n".join(
        f'<a href="{html.escape(url)}" rel="noopener">{name}</a>' for name, url in links.items()
    )
    box = f'<p class="launchers">Run this chapter on\n{anchors}</p>'
    start = '<article class="bd-article">'
    return text.replace(start, f"{start}\n{box}", 1)


def mend_accessibility(text):
    """Repair what the theme and docutils write against the accessibility rules.

    Entries of a bibliography carry a role that ARIA 1.2 has withdrawn, and the arrows that unfold
    the table of contents have no name.
    """
    text = text.replace('role="doc-biblioentry"', 'role="listitem"')
    return text.replace(SUMMARY, SUMMARY.replace(">", NAME, 1))


def with_theme(text):
    """Set light or dark before anything is painted; the theme's own script comes too late."""
    text = text.replace('data-theme="auto"', 'data-theme="light"', 1)  # where no script runs
    return text.replace(THEME, f"{THEME.partition(' = ')[0]} = {CHOSEN};", 1)


def with_policy(text):
    """Add the Content-Security-Policy, with the hash of each script that stands in the page."""
    # The policy forbids handlers in attributes; book.js listens instead.
    text = text.replace('onclick="window.print()"', 'data-action="print"')
    hashes = []
    for match in INLINE.finditer(text):
        if "application/json" not in match["attributes"]:
            digest = base64.b64encode(hashlib.sha256(match["code"].encode()).digest()).decode()
            hashes.append(f"'sha256-{digest}'")
    policy = POLICY.format(hashes=" ".join(dict.fromkeys(hashes)))
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}" />'
    return text.replace('<meta charset="utf-8" />', f'<meta charset="utf-8" />\n    {meta}', 1)


STYLE = re.compile(r'\s*<link\b[^>]*\brel="stylesheet"[^>]*>')
HREF = re.compile(r'\bhref="([^"?]*)')
PICTURE = re.compile(r"<img [^>]*>")


def picture(tag, folder):
    """Let a picture wait until it is near, with its place kept for it: nothing moves later."""
    if " width=" in tag:
        return tag.replace("<img ", '<img loading="lazy" ', 1)
    path = folder / re.search(r'src="([^"?#]+)', tag)[1]
    if path.suffix == ".svg":
        head = path.read_text(encoding="utf-8")[:2000]
        size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
        size = (float(size[1]), float(size[2])) if size else None
    elif path.exists():
        from PIL import Image

        with Image.open(path) as image:
            size = image.size
    else:
        size = None
    place = f'width="{size[0]:.0f}" height="{size[1]:.0f}" ' if size else ""
    return tag.replace("<img ", f'<img loading="lazy" {place}', 1)


def style_sheets(text, page):
    """Style sheets that a page asks for, by their paths in the folder of the book."""
    folder = posixpath.dirname(page)
    places = [HREF.search(link)[1] for link in STYLE.findall(text)]
    return [posixpath.normpath(posixpath.join(folder, place)) for place in places]


def sooner(text, page, pages, sheet):
    """Let the text appear before anything but the one style sheet has arrived."""
    folder = posixpath.dirname(page)
    if not STYLE.search(text) or "</body>" not in text:
        return text
    link = f'\n    <link rel="stylesheet" href="{posixpath.relpath(sheet, folder or ".")}" />'
    text = STYLE.sub("", text).replace("</head>", f"{link}\n  </head>", 1)
    text = PICTURE.sub(lambda match: picture(match[0], pages / folder), text)
    return text if page == "search.html" else scripts.joined(text, page, pages)


def with_fonts(text):
    """Ask for the fonts of formulas when the text has come, not when their lines are laid out."""
    fonts = styles.formula_fonts(text)
    if not fonts:
        return text
    script = f'<script data-fonts="{" ".join(fonts)}">{ASK}</script>\n'
    return text.replace("</body>", f"{script}</body>", 1)


def with_edition(text, page, url):
    """Add the edition and how to cite the page to its foot."""
    version, day = edition()
    words = f"Edition {version}, {day.day} {day:%B %Y}"
    plain = re.sub(r"^\d+\.\s*", "", html.unescape(title(text)))
    name = plain if plain != "The implicit bias of gradient descent" else ""
    entry = [
        f"@incollection{{{Path(page).stem}-{day.year}," if name else f"@book{{dmflib-{day.year},",
        "  author = {{The dmflib authors}},",
        f"  title = {{{name or 'The implicit bias of gradient descent'}}},",
        "  booktitle = {The implicit bias of gradient descent}," if name else "",
        f"  edition = {{{version}}}, year = {{{day.year}}}, month = {{{day.month}}},",
        f"  url = {{{url}{page}}}," if url else "",
        "}",
    ]
    bibtex = html.escape("\n".join(line for line in entry if line))
    box = (
        f'<p class="edition">{words}</p>\n<details class="cite"><summary>Cite this page</summary>'
        f'<pre tabindex="0">{bibtex}</pre></details>\n'
    )
    return text.replace('<p class="copyright">', box + '<p class="copyright">', 1)


def not_found(url):
    """Page for an address that does not exist; it may be served at any depth."""
    home = url or "/"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta http-equiv="Content-Security-Policy" content="{policy}" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<title>No such page — The implicit bias of gradient descent</title>
<style>
body {{ font-family: sans-serif; margin: 15vh auto; max-width: 34rem; padding: 0 1rem;
  line-height: 1.6; color-scheme: light dark; }}
a {{ color: inherit; }}
</style>
</head>
<body>
<main>
<h1>No such page</h1>
<p>Gradient descent would have gone to the nearest one. We can only offer
<a href="{home}">the first</a>, from which all others can be found and searched.</p>
</main>
</body>
</html>
"""


def finish(pages):
    """Finish all pages in a folder, in place."""
    url = base_url()
    (pages / "_static" / "scripts" / "fontawesome.js").unlink(missing_ok=True)
    texts = {}
    for path in sorted(pages.rglob("*.html")):
        page = path.relative_to(pages).as_posix()
        if not page.startswith(("_static/", "_sources/")):
            text = ICONS.sub("", mend_accessibility(path.read_text(encoding="utf-8")))
            text = with_cards(with_launchers(text, page), page, url)
            texts[page] = with_edition(text, page, url)
    texts = typeset.typeset_pages(texts)
    (pages / FORMULAS).write_text(typeset.style(), encoding="utf-8")
    words = styles.words_in_use(pages, texts.values()) | {BUTTON}
    sheets = [style_sheets(text, page) for page, text in texts.items()]
    sheet = styles.bundle(pages, [*max(sheets, key=len), FORMULAS], words)
    for page, text in texts.items():
        text = with_fonts(sooner(text, page, pages, sheet))
        text = with_policy(with_theme(text))
        (pages / page).write_text(text, encoding="utf-8")
    (pages / "404.html").write_text(not_found(url), encoding="utf-8")
    if url:
        draw_cards(pages / "_static" / "cards", texts)
        (pages / "sitemap.xml").write_text(sitemap(texts, url), encoding="utf-8")
