"""The ledger: which result stands where, what its status is, and what its tests measured.

Three things are joined. `ledger/results.yml` lists every result of the four sources and where the
book treats it. The chapters carry the labels of the book's own numbered results. The tests write
what they measured into `ledger/evidence.json` (``make ledger``). `problems` says where the three do
not fit together; `page` writes them down as one page; `with_links` sends each numbered result of
a chapter to its row. The errors of the sources, in `ledger/errata.yml`, become a page of their own,
which leads to the cells that demonstrate them.
"""

import json
import re
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
LEDGER = ROOT / "ledger"
RESULTS, EVIDENCE, ERRATA = (LEDGER / n for n in ("results.yml", "evidence.json", "errata.yml"))
# What must have a test. Definitions and algorithms have labels and nothing to be tested.
CLAIMS = ("theorem", "lemma", "proposition", "corollary")
STATUS = ("theorem", "cited", "evidence", "refuted", "conjecture", "definition", "figure")
DIRECTIVE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{prf:(?P<kind>\w+)\}[ \t]*(?P<title>[^\n]*)\n"
    r"(?P<body>.*?)^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
LABEL = re.compile(r"^:label:[ \t]*(\S+)", re.MULTILINE)
NAME = re.compile(
    r"\((?P<target>[\w-]+)\)=|:label:[ \t]*(?P<label>[\w-]+)|:name:[ \t]*(?P<name>[\w-]+)"
)
SOURCES = {
    "A": "Gradient descent for deep matrix factorization (report)",
    "B": "The implicit bias phenomenon (talk)",
    "C": "Implicit regularization of gradient descent (report)",
    "D": "Implicit regularization in deep matrix factorization (paper)",
}


def chapters():
    """The notebooks in the order of the book, as (stem, notebook)."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [c["file"] for part in contents["parts"] for c in part["chapters"]]
    paths = [ROOT / f"{file}.ipynb" for file in files if file.startswith("chapters/")]
    return [(path.stem, nbformat.read(path, as_version=4)) for path in paths]


def claims(notebook):
    """Numbered results of a notebook, as (label, kind, title)."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for match in DIRECTIVE.finditer(cell.source):
                label = LABEL.search(match["body"])
                if match["kind"] in CLAIMS and label:
                    found.append((label[1], match["kind"], match["title"].strip()))
    return found


def targets(notebook):
    """Everything in a notebook that can be referred to: its labels and its figures' names."""
    names = set()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            names |= {name for match in NAME.findall(cell.source) for name in match if name}
        else:
            figure = cell.metadata.get("mystnb", {}).get("figure", {})
            names |= {figure["name"]} if "name" in figure else set()
    return names


def load():
    """Results of the sources, evidence by label, and errors of the sources."""
    results = yaml.safe_load(RESULTS.read_text(encoding="utf-8"))
    evidence = json.loads(EVIDENCE.read_text(encoding="utf-8"))
    errata = yaml.safe_load(ERRATA.read_text(encoding="utf-8"))
    return results, evidence, errata


def demonstrating(notebook, words):
    """Indices of the cells that print these words."""
    return [
        index
        for index, cell in enumerate(notebook.cells)
        if any(words in output.get("text", "") for output in cell.get("outputs", []))
    ]


def problems_of_errata(errata, notebooks):
    """Say in one line each which error points nowhere."""
    notebooks, found = dict(notebooks), []
    for number, error in enumerate(errata, 1):
        name, notebook = f"erratum {number} ({error['where']})", notebooks.get(error["chapter"])
        if notebook is None:
            found.append(f"{name}: there is no chapter {error['chapter']}")
            continue
        if "label" in error and error["label"] not in targets(notebook):
            found.append(f"{name}: {error['chapter']} has no label {error['label']}")
        if "cell" in error and len(demonstrating(notebook, error["cell"])) != 1:
            found.append(f"{name}: not exactly one cell prints {error['cell']!r}")
    return found


def problems(results, evidence, notebooks):
    """Say in one line each what does not fit together."""
    found = []
    stems = {stem for stem, _ in notebooks}
    known = set().union(*(targets(notebook) for _, notebook in notebooks))
    labels = [label for _, notebook in notebooks for label, _, _ in claims(notebook)]
    cited = {label for r in results if r["status"] == "cited" for label in r.get("where", [])}
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        found.append(f"{label}: two results carry this label")
    for label in labels:
        if label not in evidence and label not in cited:
            found.append(f"{label}: a numbered result without a test")
    for label in sorted(set(evidence) - known):
        found.append(f"{label}: a test of a result that no chapter carries")
    seen = set()
    for result in results:
        name = result["id"]
        if name in seen:
            found.append(f"{name}: listed twice")
        seen.add(name)
        if result["status"] not in STATUS:
            found.append(f"{name}: status {result['status']!r} is none of {', '.join(STATUS)}")
        where = result.get("where", [])
        if not where:
            found.append(f"{name}: the book does not treat it anywhere")
        for place in where:
            if place not in known and place not in stems:
                found.append(f"{name}: no chapter has the label {place}")
        if result["status"] == "theorem" and not any(place in evidence for place in where):
            found.append(f"{name}: a theorem without a test")
    return found


def reference(place, kinds, stems):
    """MyST for a link to a numbered result, a figure or a chapter."""
    if place in stems:
        return f"{{doc}}`chapters/{place}`"
    if place in kinds:
        return f"{{prf:ref}}`{place}`"
    return f"{{numref}}`{place}`" if place.startswith("fig-") else f"{{ref}}`{place}`"


def page(results, evidence, notebooks):
    """The page, in MyST."""
    stems = {stem for stem, _ in notebooks}
    kinds = set()
    for _, notebook in notebooks:
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                for match in DIRECTIVE.finditer(cell.source):
                    label = LABEL.search(match["body"])
                    kinds |= {label[1]} if label else set()
    lines = [(ROOT / "ledger" / "introduction.md").read_text(encoding="utf-8").rstrip(), ""]
    for source, title in SOURCES.items():
        lines += [f"## Source {source}: {title}", ""]
        lines += ["| id | result | status | where |", "|---|---|---|---|"]
        for r in (r for r in results if r["id"].startswith(f"{source}-")):
            where = ", ".join(reference(place, kinds, stems) for place in r["where"])
            lines.append(f"| {r['id']} | {r['what']} | {r['status']} | {where} |")
        lines.append("")
    lines += ["## The numbered results of the book and their tests", ""]
    for stem, notebook in notebooks:
        rows = claims(notebook)
        if not rows:
            continue
        lines += [f"### {{doc}}`chapters/{stem}`", ""]
        lines += [
            "| result | test | instances | tolerance | worst margin |",
            "|---|---|---|---|---|",
        ]
        for label, _, title in rows:
            anchor = f'<a id="row-{label}"></a>{{prf:ref}}`{label}`: {title}'
            tests = evidence.get(label, {})
            if not tests:
                lines.append(f"| {anchor} | cited, not proved here | | | |")
            for test, found in tests.items():
                margin = f"{found['worst']:g}" if found["worst"] else "–"
                name = test.removeprefix("tests/").replace("::", " ")
                cells = [anchor, f"`{name}`", f"{found['instances']}", found["tolerance"], margin]
                lines.append("| " + " | ".join(cells) + " |")
                anchor = ""
        lines.append("")
    return "\n".join(lines)


def errata_page(errata, notebooks):
    """The page of errors, in MyST."""
    kinds = {label for _, notebook in notebooks for label in targets(notebook)}
    lines = [(LEDGER / "errata.md").read_text(encoding="utf-8").rstrip(), ""]
    for source, title in SOURCES.items():
        lines += [f"## Source {source}: {title}", ""]
        lines += ["| where | printed | correct | shown |", "|---|---|---|---|"]
        for number, e in enumerate(errata, 1):
            if e["source"] != source:
                continue
            shown = [reference(e["chapter"], kinds, {e["chapter"]})]
            if "label" in e:
                shown.append(f"{{prf:ref}}`{e['label']}`")
            if "cell" in e:
                place = f"chapters/{e['chapter']}.html#erratum-{number}"
                shown.append(f'<a href="{place}">the cell</a>')
            row = (e["where"], e["printed"], e["correct"], ", ".join(shown))
            lines.append("| " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)


def with_anchors(notebook, stored, stem, errata):
    """Name the places of the cells that demonstrate an error; changes the notebook.

    The cells are found by the outputs of the `stored` notebook, which has the same cells.
    """
    places = {}
    for number, error in enumerate(errata, 1):
        if error["chapter"] == stem and "cell" in error:
            (index,) = demonstrating(stored, error["cell"])
            places.setdefault(index, []).append(f'<a id="erratum-{number}"></a>')
    for index in sorted(places, reverse=True):
        cell = nbformat.v4.new_markdown_cell("\n".join(places[index]), id=f"errata-{index}")
        notebook.cells.insert(index, cell)


def with_links(notebook):
    """Send each numbered result to its row of the ledger; changes the notebook."""

    def linked(match):
        label = LABEL.search(match["body"])
        if match["kind"] not in CLAIMS or not label:
            return match[0]
        link = (
            f'<a class="ledger-row" href="../ledger.html#row-{label[1]}">tests of this result</a>'
        )
        end = match.end("body") - match.start()
        return f"{match[0][:end]}\n{link}\n{match['fence']}"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = DIRECTIVE.sub(linked, cell.source)
