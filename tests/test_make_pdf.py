"""The printed book: every chapter, links that stay inside, nothing cut off."""

import re
import subprocess
import sys
from pathlib import Path

import make_pdf
import pypdf
import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILT = pytest.mark.skipif(not make_pdf.HTML.exists(), reason="run `make book`")


def test_links_between_pages_become_links_inside():
    known = {"index", "chapters/a", "chapters/b"}
    assert make_pdf.redirect("b.html#thm-x", "chapters/a", known) == "#chapters-b--thm-x"
    assert make_pdf.redirect("../index.html", "chapters/a", known) == "#index--top"
    assert make_pdf.redirect("#eq-1", "chapters/a", known) == "#chapters-a--eq-1"
    assert make_pdf.redirect("../api.html#f", "chapters/a", known) is None
    assert make_pdf.redirect("https://example.org", "chapters/a", known) == "https://example.org"


@BUILT
def test_joined_document_has_every_link_and_no_controls():
    text = make_pdf.join().read_text(encoding="utf-8")
    names = set(re.findall(r'\bid="([^"]+)"', text))
    inside = set(re.findall(r'href="#([^"]+)"', text))
    missing = {name for name in inside if name not in names and "--" in name}
    assert not missing
    assert 'type="range"' not in text
    assert text.count("<article") == len(make_pdf.pages())


@BUILT
@pytest.mark.browser
def test_the_book_prints_whole(tmp_path):
    target = tmp_path / "book.pdf"
    # In a process of its own, because the other tests have a browser of theirs open in this one.
    command = [sys.executable, make_pdf.__file__, "--output", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wider than the page" not in done.stdout
    reader = pypdf.PdfReader(target)
    chapters = [page for page in make_pdf.pages() if page.startswith("chapters/")]
    assert len(reader.pages) > 10 * len(chapters)
    titles = {str(item.title) for item in reader.outline if not isinstance(item, list)}
    text = (make_pdf.HTML / f"{chapters[0]}.html").read_text(encoding="utf-8")
    first = re.search(r"<title>\d+\. (.*?) &#8212;", text)[1]
    assert any(first in " ".join(title.split()) for title in titles)
