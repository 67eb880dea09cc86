"""Typeset the formulas of finished pages, so that a reader's browser need not.

MathJax runs here once, inside V8, instead of in each browser: pages show their formulas as soon as
they show their text, also without scripts. What MathJax writes is two trees side by side: one that
is drawn, and hidden MathML that is read aloud; the latter keeps the TeX, which a reader may copy.
A formula that MathJax does not understand ends the build.
"""

import html
import importlib.util
import json
import re
from functools import cache
from pathlib import Path

PARTS = (
    "loader.js",
    "core.js",
    "adaptors/liteDOM.js",
    "input/tex-full.js",
    "output/chtml.js",
    "output/chtml/fonts/tex.js",
    "a11y/assistive-mml.js",
)
# Errors are raised: neither of the two packages that print them into the page is loaded.
START = """
const parts = MathJax._;
const adaptor = parts.adaptors.liteAdaptor.liteAdaptor();
parts.a11y["assistive-mml"].AssistiveMmlHandler(parts.handlers.html_ts.RegisterHTMLHandler(adaptor));
const packages = parts.input.tex.AllPackages.AllPackages.filter(
    name => !["noerrors", "noundefined"].includes(name));
const input = new parts.input.tex_ts.TeX(
    {packages, formatError: (_, error) => { throw new Error(error.message); }});
const font = new parts.output.chtml.fonts.tex_ts.TeXFont({fontURL: FONTS});
const output = new parts.output.chtml_ts.CHTML({font});
const page = parts.mathjax.mathjax.document("", {InputJax: input, OutputJax: output});

// A formula in a line may break after its relations and its sums, as in print: after operators with
// the same wide space on both sides. The space behind them stays behind, so that lines begin flush.
function breakable(container) {
    const row = adaptor.firstChild(container);
    for (const part of adaptor.childNodes(row)) {
        const next = adaptor.next(part), space = adaptor.getAttribute(part, "space");
        const wide = space === "4" || space === "3";
        if (next && wide && adaptor.getAttribute(next, "space") === space) {
            adaptor.removeAttribute(next, "space");
            adaptor.setAttribute(part, "rspace", space);
            adaptor.insert(adaptor.node("wbr"), next);
        }
    }
    return container;
}

function typeset(tex, display) {
    try {
        const container = page.convert(tex, {display});
        return [true, adaptor.outerHTML(display ? container : breakable(container))];
    } catch (error) {
        return [false, error.message];
    }
}
const typesetAll = formulas => JSON.stringify(formulas.map(formula => typeset(...formula)));
const style = () => adaptor.textContent(output.styleSheet(page));
"""
# Letters of formulas are as high as those of the text around them, whichever font that has.
STYLE = """
mjx-container[jax="CHTML"] { font-size: calc(1ex / 0.442); }
mjx-container[jax="CHTML"]:not([display]) > mjx-math { display: inline; }
mjx-math > wbr { white-space: normal; }
mjx-assistive-mml[display="inline"] { height: 1px !important; width: 1px !important; }
"""
FORMULA = re.compile(
    r'(<(?:span|div) class="math notranslate nohighlight"[^>]*>'
    r'\s*(?:<span class="eqno">.*?</span>)?)\s*'
    r"\\(?P<sort>[(\[])(?P<tex>.*?)\\[)\]](?=\s*</(?:span|div)>)",
    re.DOTALL,
)
PLACE = re.compile(r'<(?:span|div) class="math[ "]')
SCRIPT = re.compile(r"\s*<script\b(?P<attributes>[^>]*)>(?P<code>.*?)</script>", re.DOTALL)
MATH = re.compile(r"(<math [^>]*>)(.*)(</math>)", re.DOTALL)


def mathjax():
    """Folder of MathJax inside the package that carries it."""
    return Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax"


@cache
def engine():
    """MathJax, started in V8."""
    from py_mini_racer import MiniRacer

    context = MiniRacer()
    context.eval("var global = globalThis, MathJax = {loader: {load: []}};")
    for part in PARTS:
        context.eval((mathjax() / part).read_text(encoding="utf-8") + "\n;0")
    context.eval(START.replace("FONTS", json.dumps("mathjax/output/chtml/fonts/woff-v2")) + "\n;0")
    return context


def with_tex(drawn, tex):
    """Keep the TeX of a formula in its MathML."""
    note = f'<annotation encoding="application/x-tex">{html.escape(tex.strip())}</annotation>'
    return MATH.sub(
        lambda m: f"{m[1]}<semantics><mrow>{m[2]}</mrow>{note}</semantics>{m[3]}", drawn
    )


def typeset(formulas):
    """HTML of formulas, each given by its TeX and whether it is displayed."""
    formulas = list(dict.fromkeys(formulas))
    answers = json.loads(engine().eval(f"typesetAll({json.dumps(formulas)})"))
    wrong = [
        f"{tex}: {answer}"
        for (tex, _), (good, answer) in zip(formulas, answers, strict=True)
        if not good
    ]
    if wrong:
        raise ValueError("formulas that cannot be typeset:\n" + "\n".join(wrong))
    return {
        formula: with_tex(answer, formula[0])
        for formula, (_, answer) in zip(formulas, answers, strict=True)
    }


def style():
    """Style sheet of all formulas that were typeset so far, with its fonts beside `_static`."""
    return engine().eval("style()") + STYLE


def formula(match):
    """TeX of a formula in a page, and whether it is displayed."""
    return html.unescape(match["tex"]), match["sort"] == "["


def without_mathjax(text):
    """A page without the scripts that would typeset it in the browser."""

    def kept(match):
        theirs = "mathjax" in match["attributes"].lower() or "window.MathJax" in match["code"]
        return "" if theirs else match[0]

    return SCRIPT.sub(kept, text)


def typeset_pages(pages):
    """Typeset all formulas of pages, given as a dictionary from their names to their HTML."""
    found = {formula(m) for text in pages.values() for m in FORMULA.finditer(text)}
    drawn = typeset(sorted(found))
    finished = {}
    for name, text in pages.items():
        text, done = FORMULA.subn(lambda m: m[1] + drawn[formula(m)], without_mathjax(text))
        if done != len(PLACE.findall(text)):
            raise ValueError(f"{name}: {done} of {len(PLACE.findall(text))} formulas are typeset")
        finished[name] = text
    return finished
