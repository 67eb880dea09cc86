"""What the finished pages carry, on small pages made here."""

import base64
import hashlib
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import finish_pages
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = """<!DOCTYPE html><html lang="en"><head>
    <meta charset="utf-8" />
    <title>3. Rank &amp; norm &#8212; The implicit bias of gradient descent</title>
    <script>let a = "<b>";</script></head><body>
    <h1>Rank &amp; norm</h1><p>Short.</p>
    <p>A sentence with <em>marks</em>, long enough to say what the page is about &amp; why.</p>
    <button onclick="window.print()">Print</button>
    <script src="x.js"></script><script type='application/json'>{"a": 1}</script>
    <footer><p class="copyright">© 2026</p></footer></body></html>"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "chapters").mkdir()
    (tmp_path / "_static").mkdir()
    (tmp_path / "chapters" / "rank.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "_static" / "part.html").write_text("<p>not a page</p>", encoding="utf-8")
    return tmp_path


def test_policy_lists_each_script_of_the_page_and_no_other():
    text = finish_pages.with_policy(PAGE)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    scripts = re.search(r"script-src ([^;]*);", policy)[1].split()
    digest = hashlib.sha256(b'let a = "<b>";').digest()
    assert scripts == ["'self'", f"'sha256-{base64.b64encode(digest).decode()}'"]
    assert "default-src 'none'" in policy
    assert "onclick" not in text
    # The policy stands before the first script, or it would not hold for it.
    assert text.index("Content-Security-Policy") < text.index("<script")


def test_pages_name_edition_and_citation(folder):
    finish_pages.finish(folder)
    text = (folder / "chapters" / "rank.html").read_text(encoding="utf-8")
    version, day = finish_pages.edition()
    assert f"Edition {version}, {day.day} " in text
    entry = re.search(r"<pre tabindex=\"0\">(.*?)</pre>", text, re.DOTALL)[1]
    assert entry.startswith("@incollection{rank-")
    assert "title = {Rank &amp; norm}" in entry
    assert entry.count("{") == entry.count("}")
    assert (folder / "_static" / "part.html").read_text() == "<p>not a page</p>"


def test_without_an_address_nothing_claims_one(folder):
    finish_pages.finish(folder)
    text = (folder / "chapters" / "rank.html").read_text(encoding="utf-8")
    assert 'property="og:title" content="3. Rank &amp; norm"' in text
    assert "A sentence with marks, long enough" in text
    assert "og:url" not in text
    assert "canonical" not in text
    assert not (folder / "sitemap.xml").exists()
    assert "such page" in (folder / "404.html").read_text(encoding="utf-8")


def test_with_an_address_pages_carry_it(folder, monkeypatch):
    monkeypatch.setattr(finish_pages, "base_url", lambda: "https://book.example/bias/")
    finish_pages.finish(folder)
    text = (folder / "chapters" / "rank.html").read_text(encoding="utf-8")
    assert 'rel="canonical" href="https://book.example/bias/chapters/rank.html"' in text
    assert 'content="https://book.example/bias/_static/cards/rank.png"' in text
    with Image.open(folder / "_static" / "cards" / "rank.png") as card:
        assert card.size == (1200, 630)
    tree = ElementTree.parse(folder / "sitemap.xml")
    assert [e.text for e in tree.iter() if e.tag.endswith("loc")] == [
        "https://book.example/bias/chapters/rank.html"
    ]
    assert 'href="https://book.example/bias/"' in (folder / "404.html").read_text(encoding="utf-8")


def test_address_gets_one_slash(monkeypatch, tmp_path):
    monkeypatch.setattr(finish_pages, "ROOT", tmp_path)
    (tmp_path / "_config.yml").write_text("html: {baseurl: 'https://a.example/b'}")
    assert finish_pages.base_url() == "https://a.example/b/"
    (tmp_path / "_config.yml").write_text("title: x")
    assert finish_pages.base_url() == ""


ARTICLE = '<article class="bd-article"><h1>Rank</h1></article>'


def test_no_launcher_before_the_repository_is_named():
    assert finish_pages.launchers("rank") == {}
    assert finish_pages.with_launchers(ARTICLE, "chapters/rank.html") == ARTICLE


def test_launchers_open_the_chapter_of_the_named_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(finish_pages, "ROOT", tmp_path)
    (tmp_path / "_config.yml").write_text(
        "repository: {url: 'https://github.com/who/book', branch: v1}\n"
        "launch_buttons: {jupyterhub_url: 'https://hub.example'}\n"
    )
    links = finish_pages.launchers("rank")
    assert links["Binder"] == (
        "https://mybinder.org/v2/gh/who/book/v1?urlpath=lab%2Ftree%2Fchapters%2Frank.ipynb"
    )
    query = parse_qs(urlsplit(links["JupyterHub"]).query)
    assert query == {
        "repo": ["https://github.com/who/book"],
        "branch": ["v1"],
        "urlpath": ["lab/tree/book/chapters/rank.ipynb"],
    }
    text = finish_pages.with_launchers(ARTICLE, "chapters/rank.html")
    assert text.count("<a href=") == 2
    assert finish_pages.with_launchers(ARTICLE, "index.html") == ARTICLE
    (tmp_path / "_config.yml").write_text("repository: {url: 'https://git.example/who/book'}\n")
    assert (
        "/v2/git/https%3A%2F%2Fgit.example%2Fwho%2Fbook/main?"
        in finish_pages.launchers("a")["Binder"]
    )


def test_pictures_wait_and_keep_their_place(tmp_path):
    (tmp_path / "a.svg").write_text('<svg viewBox="0 0 374.4 245.1" xmlns="x"></svg>')
    Image.new("RGB", (30, 20)).save(tmp_path / "b.png")
    svg = finish_pages.picture('<img alt="a" src="a.svg" />', tmp_path)
    assert svg == '<img loading="lazy" width="374" height="245" alt="a" src="a.svg" />'
    assert 'width="30" height="20"' in finish_pages.picture('<img src="b.png?v=1" />', tmp_path)
    sized = '<img loading="lazy" width="3" src="c.png" />'
    assert finish_pages.picture('<img width="3" src="c.png" />', tmp_path) == sized
