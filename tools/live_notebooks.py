"""Make the chapters' notebooks ready for JupyterLite, which knows one notebook at a time.

Citations and references to other chapters become the words that the built page shows in their
place; cells that the page folds are folded; texts that nbformat allows to split are joined, since
JupyterLite shows the parts of an output's text with commas between them.
"""

import copy
import html
import re

ROLE = re.compile(r"\{(cite|doc|ref|prf:ref|numref)\}`([^`]*)`")
OWN = re.compile(r":(?:label|name): *(\S+)|^\(([\w-]+)\)=", re.MULTILINE)
LINK = re.compile(r'<a class="reference internal" href="([^"]*)"[^>]*>(.*?)</a>', re.DOTALL)
CITATION = re.compile(r'<span class="bibtex-citation"[^>]*>(.*?)</span>', re.DOTALL)


def _words(markup):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


def _shown(page):
    """What a page shows for its citations, in order, and for what its links lead to."""
    _, _, article = page.partition('<article class="bd-article">')
    article, _, _ = article.partition("</article>")
    citations = [
        _words(link) for part in CITATION.findall(article) for _, link in LINK.findall(part)
    ]
    links = {}
    for address, markup in LINK.findall(article):
        file, _, label = address.partition("#")
        links.setdefault(label or file.removesuffix(".html"), _words(markup))
    return citations, links


def live(notebook, page):
    """Return a notebook as JupyterLite shall show it.

    Parameters
    ----------
    notebook : dict
        A chapter as nbformat 4 stores it.
    page : str
        The chapter's page in the built book.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If the page does not show a citation or a reference of the notebook.
    """
    notebook = copy.deepcopy(notebook)
    texts = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    own = {a or b for text in texts for a, b in OWN.findall(text)}
    citations, links = _shown(page)

    def resolve(match):
        role, content = match.groups()
        if role == "cite":
            keys = content.split(",")
            if len(citations) < len(keys):
                raise ValueError(f"the page shows fewer citations than the notebook has: {content}")
            return f"[{'; '.join(citations.pop(0) for _ in keys)}]"
        title, _, target = content.rstrip(">").rpartition("<")
        if target in own:
            return match.group()
        if title:
            return title.strip()
        if target not in links:
            raise ValueError(f"the page does not show the reference {match.group()}")
        return links[target]

    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        cell["source"] = ROLE.sub(resolve, source) if cell["cell_type"] == "markdown" else source
        if "hide-input" in cell["metadata"].get("tags", []):
            cell["metadata"]["jupyter"] = {"source_hidden": True}
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = "".join(output["text"])
            for kind, data in output.get("data", {}).items():
                if isinstance(data, list):
                    output["data"][kind] = "".join(data)
    if citations:
        raise ValueError(f"the page shows more citations than the notebook has: {citations}")
    return notebook
