"""One small style sheet for all pages, and small fonts.

The theme asks for a dozen style sheets, most of whose rules meet nothing in this book. Each request
costs a round trip and each rule its bytes before anything can be read, so the sheets are joined,
rules for classes that no page and no script names are left out, and fonts keep only the signs that
are shown.
"""

import base64
import hashlib
import posixpath
import re
from collections import Counter

import tinycss2
from fontTools import subset

PLACE = re.compile(r"url\((?!['\"]?(?:data:|#))['\"]?([^'\")]+)['\"]?\)")
IMPORT = re.compile(r"""@import\s*["']([^"']+)["'];?""")
CLASS = re.compile(r"""\bclass=(?:"([^"]*)"|'([^']*)'|([^\s>"']+))""")
CLASS_IN_SELECTOR = re.compile(r"\.((?:[A-Za-z_-]|\\.)(?:[\w-]|\\.)*)")
# Classes inside :not(), :is() and their like need not all be there.
FUNCTION = re.compile(r":[\w-]+\([^()]*(?:\([^()]*\)[^()]*)*\)")
# Bootstrap composes these names while the page is read.
COMPOSED = "bs-"
STRING = re.compile(r"""(["'])([^"']{1,12})\1""")
ESCAPE = re.compile(r"\\([0-9a-fA-F]{1,6})\s?")
ICONS = "vendor/fontawesome/webfonts/fa-solid-900"
ICON_FILES = re.compile(
    r"url\([^)]*fa-solid-900\.woff2\)\s*format\([^)]*\),\s*url\([^)]*fa-solid-900\.ttf\)"
    r"\s*format\([^)]*\)"
)
FORMULAS = "mathjax/output/chtml/fonts/woff-v2"
# Comes first in each list of fonts and has no signs, so it must be there before the next is asked.
EMPTY = "MathJax_Zero.woff"
SIGN = re.compile(r'<mjx-c class="mjx-c[0-9A-F]* ?(TEX-\w+)?"')


def words_in_use(pages, texts):
    """All class names of the pages, and all words of the scripts, which may set more of them."""
    found = {
        word for text in texts for match in CLASS.findall(text) for word in "".join(match).split()
    }
    for path in (pages / "_static").rglob("*.js"):
        found |= set(re.findall(r"[A-Za-z_][\w-]*", path.read_text(encoding="utf-8")))
    return found


def matters(selector, words):
    """Whether a selector can meet an element whose classes are among these words."""
    names = CLASS_IN_SELECTOR.findall(FUNCTION.sub("", selector))
    names = [name.replace("\\", "") for name in names]
    return all(name in words or name.startswith(COMPOSED) for name in names)


def without_unused(text, words):
    """A style sheet without the rules, and without the selectors, that meet nothing."""
    kept = []
    for rule in tinycss2.parse_stylesheet(text, skip_comments=True, skip_whitespace=True):
        if rule.type == "qualified-rule":
            selectors = split_at_commas(rule.prelude)
            selectors = [selector for selector in selectors if matters(selector, words)]
            if selectors:
                kept.append(f"{','.join(selectors)}{{{tinycss2.serialize(rule.content).strip()}}}")
        elif rule.type == "at-rule" and rule.lower_at_keyword in {"media", "supports", "layer"}:
            inside = without_unused(tinycss2.serialize(rule.content or []), words)
            if inside:
                prelude = tinycss2.serialize(rule.prelude).strip()
                kept.append(f"@{rule.at_keyword} {prelude}{{{inside}}}")
        else:
            kept.append(rule.serialize())
    return "\n".join(kept)


def split_at_commas(prelude):
    """Selectors of a rule; commas inside brackets belong to one selector."""
    selectors, part = [], []
    for token in prelude:
        if token.type == "literal" and token.value == ",":
            selectors.append(part)
            part = []
        else:
            part.append(token)
    return [tinycss2.serialize(part).strip() for part in [*selectors, part]]


def read(pages, sheet):
    """One style sheet, with those that it imports, and with addresses as seen from `_static`."""
    text = (pages / sheet).read_text(encoding="utf-8")
    text = re.sub(r'^\ufeff?@charset "[^"]*";', "", text)
    folder = posixpath.dirname(sheet)

    def path(place):
        return posixpath.normpath(posixpath.join(folder, place))

    text = PLACE.sub(lambda m: f"url({posixpath.relpath(path(m[1]), '_static')})", text)
    return IMPORT.sub(lambda m: read(pages, path(m[1])), text)


def signs(text):
    """Code points of all short strings of a style sheet, among them those it writes into pages."""
    strings = (string for _, string in STRING.findall(text))
    return {ord(sign) for string in strings for sign in ESCAPE.sub(code_point, string)}


def code_point(match):
    """The sign that an escape stands for."""
    return chr(int(match[1], 16))


def shrink(path, target, codes):
    """Write the signs with these codes of a font into another file, packed."""
    options = subset.Options(flavor="woff", notdef_outline=True)
    options.layout_features = []
    options.drop_tables += ["FFTM"]  # the dates of an editor
    font = subset.load_font(str(path), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=codes)
    subsetter.subset(font)
    subset.save_font(font, str(target), options)


def shrink_fonts(pages, text):
    """Reduce the fonts of icons and formulas to what a style sheet shows; return the sheet."""
    static, codes = pages / "_static", signs(text)
    icons = (static / ICONS).with_suffix(".ttf")
    if icons.exists():
        shrink(icons, icons.with_suffix(".woff"), codes)
    for path in (static / FORMULAS).glob("*.woff"):
        if path.name != EMPTY:
            shrink(path, path, codes)
    text = inline(static, f"{FORMULAS}/{EMPTY}", text)
    return ICON_FILES.sub(f'url({ICONS}.woff) format("woff")', text)


def inline(static, font, text):
    """Put a font into the style sheet itself."""
    if not (static / font).exists():
        return text
    data = base64.b64encode((static / font).read_bytes()).decode()
    return re.sub(
        rf"""url\(["']?{re.escape(font)}["']?\)""", f"url(data:font/woff;base64,{data})", text
    )


def formula_fonts(text):
    """Names of the fonts that the formulas of a page are drawn with, the most used first."""
    used = Counter(name or "TEX" for name in SIGN.findall(text))
    if "<mjx-stretchy" in text:
        used["TEX-S4"] += 1
    return [f"MJX{name}" for name, _ in used.most_common()]


def bundle(pages, sheets, words):
    """Join style sheets into one and return its name."""
    text = "\n".join(read(pages, sheet) for sheet in sheets)
    text = shrink_fonts(pages, without_unused(text, words))
    text = '@charset "UTF-8";\n' + text
    name = f"_static/all-{hashlib.sha256(text.encode()).hexdigest()[:12]}.css"
    (pages / name).write_text(text, encoding="utf-8")
    return name
