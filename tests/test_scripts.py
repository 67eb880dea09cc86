"""One script for all, in the order in which they stood."""

import re

import scripts

PAGE = """<html><head><script data-cfasync="false">first()</script>
<link rel="preload" as="script" href="../_static/b.js" />
<script src="../_static/documentation_options.js?v=1"></script>
<script>let hint = 1;</script><script defer src="../_static/a.js?v=2"></script>
<script>let hint = 1;</script><script src="../_static/searchtools.js"></script></head>
<body><script type="application/json">{}</script><p>Text</p>
<script defer src="../_static/b.js"></script></body></html>"""


def test_one_file_in_order_behind_the_text(tmp_path):
    static = tmp_path / "_static"
    static.mkdir()
    (static / "documentation_options.js").write_text("const OPTIONS = {};")
    (static / "a.js").write_text('"use strict"; let a = 1')
    (static / "b.js").write_text("undeclared = a")
    text = scripts.joined(PAGE, "chapters/rank.html", tmp_path)
    head, _, body = text.partition("</head>")
    assert re.findall(r"<script[^>]*>", head) == ['<script data-cfasync="false">']
    assert "preload" not in head
    before, _, after = body.partition("<p>Text</p>")
    assert "application/json" in before
    inline = re.findall(r"<script>(.*?)</script>", after)
    assert inline == ["const OPTIONS = {};", "let hint = 1;"]
    (file,) = re.findall(r'<script defer src="\.\./([^"]*)"></script>\n</body>', after)
    code = (tmp_path / file).read_text()
    assert code.index("let a = 1") < code.index("undeclared = a")
    # The strictness of one file is not imposed on the others.
    assert not re.match(r'\s*"use strict"', code)


def test_a_page_without_scripts_stays_as_it_is(tmp_path):
    assert scripts.joined("<body><p>a</p></body>", "a.html", tmp_path) == "<body><p>a</p></body>"
