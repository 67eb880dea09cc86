"""What the finished pages need and the theme does not give.

Repairs for accessibility; a Content-Security-Policy that admits the page's own scripts and nothing
else; the edition and a box that says how to cite the page; the data and the picture that a link to
the page shows elsewhere; and, once `_config.yml` says where the book is published
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

import yaml

ROOT = Path(__file__).resolve().parents[1]
# Draws icons that the style sheets draw as well, and is a third of a page's weight.
ICONS = re.compile(r'\s*<script defer src="[^"]*scripts/fontawesome\.js[^"]*"></script>')
SUMMARY = '<summary><span class="toctree-toggle"'
NAME = ' aria-label="Show or hide the pages below">'
INLINE = re.compile(
    r"<script(?![^>]*\bsrc=)(?P<attributes>[^>]*)>(?P<code>.*?)</script>", re.DOTALL
)
# Styles are written by MathJax and by figures while the page is read, so they cannot be listed.
POLICY = (
    "default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'"
)
CARD_INK, CARD_PAPER = "#12305c", "#fbfaf7"


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
ICON = re.compile(r'\.(fa-[a-z0-9-]+):before\{content:"[^"]*"\}')
PLACE = re.compile(r"url\((?!['\"]?(?:data:|#))['\"]?([^'\")]+)['\"]?\)")
SCRIPT = re.compile(
    r"\s*<script\b(?![^>]*\bdata-cfasync)(?![^>]*application/json).*?</script>", re.DOTALL
)
PICTURE = re.compile(r"<img [^>]*>")
IMPORT = re.compile(r"""@import\s*["']([^"']+)["'];?""")
SOLID = re.compile(
    r"url\([^)]*fa-solid-900\.woff2\)\s*format\([^)]*\),\s*url\([^)]*fa-solid-900\.ttf\)"
    r"\s*format\([^)]*\)"
)
# Read by scripts that stand in the page, so it cannot wait.
LATER = re.compile(r'<script(?: defer(?:="defer")?)? src="(?![^"]*documentation_options)')
FOR_SEARCH = re.compile(r'src="[^"]*(?:searchtools|language_data|searchindex)\.js')
PRELOAD = re.compile(r'\s*<link rel="preload" as="script"[^>]*>')


def style(pages, sheet, icons):
    """One style sheet, with those that it imports, and with addresses as seen from `_static`."""
    text = (pages / sheet).read_text(encoding="utf-8")
    text = re.sub(r'^\ufeff?@charset "[^"]*";', "", text)
    text = ICON.sub(lambda m: m[0] if m[1] in icons else "", text)
    folder = posixpath.dirname(sheet)

    def path(place):
        return posixpath.normpath(posixpath.join(folder, place))

    text = PLACE.sub(lambda m: f"url({posixpath.relpath(path(m[1]), '_static')})", text)
    return IMPORT.sub(lambda m: style(pages, path(m[1]), icons), text)


def bundle(pages, sheets, icons):
    """Join style sheets into one, without the icons that no page shows; return its name.

    A page asks for one file instead of a dozen, and each request costs a round trip before
    anything can be read. The font of the icons shrinks with them.
    """
    text = '@charset "UTF-8";\n' + "\n".join(style(pages, sheet, icons) for sheet in sheets)
    font = pages / "_static" / "vendor" / "fontawesome" / "webfonts" / "fa-solid-900.ttf"
    if font.exists():
        written = {int(code, 16) for code in re.findall(r"\\(f[0-9a-fA-F]{3})\b", text)}
        plain = {ord(sign) for sign in text if "\ue000" <= sign <= "\uf8ff"}
        shrink_font(font, written | plain)
    text = SOLID.sub('url(vendor/fontawesome/webfonts/fa-solid-900.woff) format("woff")', text)
    name = f"_static/all-{hashlib.sha256(text.encode()).hexdigest()[:12]}.css"
    (pages / name).write_text(text, encoding="utf-8")
    return name


def shrink_font(path, codes):
    """Write the signs with these codes of a font beside it, packed."""
    from fontTools import subset

    target = path.with_suffix(".woff")
    if not target.exists():
        options = subset.Options(flavor="woff", notdef_outline=True)
        font = subset.load_font(str(path), options)
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=codes)
        subsetter.subset(font)
        subset.save_font(font, str(target), options)


def icons_in_use(pages):
    """Names of the icons that pages or their scripts show."""
    found = set()
    for path in [*pages.rglob("*.html"), *(pages / "_static").rglob("*.js")]:
        found |= set(re.findall(r"\bfa-[a-z0-9-]+", path.read_text(encoding="utf-8")))
    return found


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


def sooner(text, page, pages, icons):
    """Let the text appear before anything but the style sheet has arrived."""
    folder = posixpath.dirname(page)
    links = STYLE.findall(text)
    if not links or "</body>" not in text:
        return text
    sheets = [posixpath.normpath(posixpath.join(folder, HREF.search(k)[1])) for k in links]
    name = posixpath.relpath(bundle(pages, sheets, icons), folder or ".")
    link = f'\n    <link rel="stylesheet" href="{name}" />'
    text = STYLE.sub("", text).replace("</head>", f"{link}\n  </head>", 1)
    text = PICTURE.sub(lambda match: picture(match[0], pages / folder), text)
    if page == "search.html":
        return text
    head, end, body = PRELOAD.sub("", text).partition("</head>")
    scripts = [script for script in SCRIPT.findall(head) if not FOR_SEARCH.search(script)]
    scripts.sort(key=lambda script: "MathJax" not in script and "mathjax" not in script)
    later = "".join(LATER.sub(r'<script defer src="', script) for script in scripts)
    return SCRIPT.sub("", head) + end + body.replace("</body>", f"{later}\n</body>", 1)


def title(text):
    """Title of the page, without the name of the book, as it stands in the HTML."""
    found = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    return found[1].split("&#8212;")[0].strip() if found else ""


def description(text):
    """First paragraph of some length after the heading, without marks."""
    body = text.partition("<h1")[2]
    for match in re.finditer(r"<p>(.*?)</p>", body, re.DOTALL):
        plain = re.sub(r"\\[()]", "", re.sub(r"<[^>]+>", "", match[1]))
        plain = " ".join(html.unescape(plain).split())
        if len(plain) > 60 and "\\" not in plain:
            return plain if len(plain) <= 200 else plain[:197].rsplit(" ", 1)[0] + " …"
    return "A textbook that computes what gradient descent chooses when the data do not."


def with_cards(text, page, url):
    """Add what a link to the page shows elsewhere: title, description and picture."""
    picture = f"{url}_static/cards/{Path(page).stem}.png" if url else ""
    words = {
        "og:type": "article",
        "og:site_name": "The implicit bias of gradient descent",
        "og:title": html.unescape(title(text)),
        "og:description": description(text),
        "og:url": f"{url}{page}" if url else "",
        "og:image": picture,
        "twitter:card": "summary_large_image" if picture else "",
    }
    tags = [
        f'<meta property="{name}" content="{html.escape(value, quote=True)}" />'
        for name, value in words.items()
        if value
    ]
    tags.append(f'<meta name="description" content="{html.escape(words["og:description"])}" />')
    if url:
        tags.append(f'<link rel="canonical" href="{url}{page}" />')
    return text.replace("</title>", "</title>\n    " + "\n    ".join(tags), 1)


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


def draw_card(path, words):
    """Draw the picture of a page: its title above the curve of a value that is found late."""
    import textwrap

    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor=CARD_PAPER, layout="none")
    axes = figure.add_axes((0, 0, 1, 0.42))
    time = np.linspace(0, 10, 400)
    curves = ((1, "#12305c"), (0.72, "#7a2f78"), (0.45, "#b8432f"))
    for k, (target, ink) in enumerate(curves):
        axes.plot(time, target / (1 + np.exp(-3 * target * (time - 2 - 2.2 * k))), color=ink, lw=4)
    axes.set(xlim=(0, 10), ylim=(-0.1, 1.1))
    axes.axis("off")
    lines = "\n".join(textwrap.wrap(words, 34))
    figure.text(0.06, 0.9, lines, fontsize=40, va="top", color=CARD_INK, linespacing=1.25)
    figure.text(0.06, 0.05, "The implicit bias of gradient descent", fontsize=20, color="#555555")
    figure.savefig(path)


def sitemap(pages, url):
    """Addresses of all pages, for search engines."""
    entries = "\n".join(f"  <url><loc>{html.escape(url + page)}</loc></url>" for page in pages)
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    space = "http://www.sitemaps.org/schemas/sitemap/0.9"
    return f'{head}\n<urlset xmlns="{space}">\n{entries}\n</urlset>\n'


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
    url, written = base_url(), []
    cards = pages / "_static" / "cards"
    (pages / "_static" / "scripts" / "fontawesome.js").unlink(missing_ok=True)
    icons = icons_in_use(pages)
    for path in sorted(pages.rglob("*.html")):
        page = path.relative_to(pages).as_posix()
        if page.startswith(("_static/", "_sources/")):
            continue
        text = ICONS.sub("", mend_accessibility(path.read_text(encoding="utf-8")))
        text = sooner(text, page, pages, icons)
        text = with_launchers(text, page)
        text = with_cards(text, page, url)
        text = with_edition(text, page, url)
        path.write_text(with_policy(text), encoding="utf-8")
        written.append(page)
        if url:
            cards.mkdir(exist_ok=True)
            draw_card(
                cards / f"{path.stem}.png", re.sub(r"^\d+\. ", "", html.unescape(title(text)))
            )
    (pages / "404.html").write_text(not_found(url), encoding="utf-8")
    if url:
        (pages / "sitemap.xml").write_text(sitemap(written, url), encoding="utf-8")
