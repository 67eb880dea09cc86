"""One script for all that a page does after it can be read.

The theme and its extensions ask for a dozen files in the head. Here they are joined in their order
and asked for at the end of the page; each request costs a round trip, and a script in the head
would hold the text back. Scripts that stand in the page stay in it.
"""

import hashlib
import posixpath
import re

SCRIPT = re.compile(r"\s*<script\b(?P<attributes>[^>]*)>(?P<code>.*?)</script>", re.DOTALL)
SRC = re.compile(r'\bsrc="([^"?#]+)')
PRELOAD = re.compile(r'\s*<link rel="preload" as="script"[^>]*>')
# Sets the light or the dark theme before anything is painted.
FIRST = "data-cfasync"
# Read by scripts that stand in the page, so it stands there as well.
SETTINGS = "documentation_options.js"
FOR_SEARCH = {"searchtools.js", "language_data.js", "searchindex.js"}


def script_file(match, page):
    """Path in the folder of the book of the file that a script asks for, if it asks for one."""
    source = SRC.search(match["attributes"])
    folder = posixpath.dirname(page)
    return posixpath.normpath(posixpath.join(folder, source[1])) if source else None


def joined(text, page, pages):
    """A page whose scripts are two sorts: those that stand in it, and one file for the rest."""
    inline, files = [], []

    def take(match):
        file = script_file(match, page)
        if FIRST in match["attributes"] or "application/json" in match["attributes"]:
            return match[0]
        if file is None:
            inline.append(match["code"])
        elif posixpath.basename(file) == SETTINGS:
            inline.append((pages / file).read_text(encoding="utf-8"))
        elif posixpath.basename(file) not in FOR_SEARCH:
            files.append(file)
        return ""

    text = SCRIPT.sub(take, PRELOAD.sub("", text))
    if not inline and not files:
        return text
    end = "".join(f"<script>{code}</script>\n" for code in dict.fromkeys(inline))
    if files:
        address = posixpath.relpath(join(files, pages), posixpath.dirname(page) or ".")
        end += f'<script defer src="{address}"></script>\n'
    return text.replace("</body>", f"{end}</body>", 1)


def join(files, pages):
    """Join files in this order into one and return its path."""
    parts = [(pages / file).read_text(encoding="utf-8") for file in dict.fromkeys(files)]
    # The first semicolon keeps a file's "use strict" from becoming the rule for all of them.
    code = ";\n" + "\n;\n".join(parts)
    name = f"_static/all-{hashlib.sha256(code.encode()).hexdigest()[:12]}.js"
    (pages / name).write_text(code, encoding="utf-8")
    return name
