"""What a link to a page shows elsewhere: its title, its first words, and a picture."""

import html
import re
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

CARD_INK, CARD_PAPER = "#12305c", "#fbfaf7"


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


def draw_card(path, words):
    """Draw the picture of a page: its title above the curve of a value that is found late."""
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


def draw_cards(folder, texts):
    """Draw the pictures of all pages, given as a dictionary from their names to their HTML."""
    folder.mkdir(exist_ok=True)
    for page, text in texts.items():
        words = re.sub(r"^\d+\. ", "", html.unescape(title(text)))
        draw_card(folder / f"{Path(page).stem}.png", words)


def sitemap(pages, url):
    """Addresses of all pages, for search engines."""
    entries = "\n".join(f"  <url><loc>{html.escape(url + page)}</loc></url>" for page in pages)
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    space = "http://www.sitemaps.org/schemas/sitemap/0.9"
    return f'{head}\n<urlset xmlns="{space}">\n{entries}\n</urlset>\n'
