"""What a test asks of a page: its elements, well nested, and nothing from elsewhere."""

import re
from html.parser import HTMLParser

_HEADS = ("h2", "caption", "summary")
VOID = {"meta", "br"}


class Page(HTMLParser):
    """A page's elements in their order, each with its attributes, and the text within it, where a space is a space."""

    def __init__(self, html):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data.replace("\u00a0", " ")

    def find(self, tag, **attributes):
        """Return the elements of a kind with these attributes; `class_` is the class."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [e for e in self.elements if e["tag"] == tag and all(e.get(n) == v for n, v in wanted.items())]

    def rows(self, title):
        """Return the cells of the table below a heading, or with a caption, or of the first, a list of texts a row."""
        heads = [i for i, e in enumerate(self.elements) if e["tag"] in _HEADS and e["text"] == title]
        start = heads[0] if title else 0
        cells = []
        for element in self.elements[start + 1 :]:
            if element["tag"] in _HEADS and cells:
                break
            if element["tag"] == "tr":
                cells.append([])
            elif element["tag"] in ("td", "th"):
                cells[-1].append(element["text"])
        return cells


def check(html):
    """Check that a page stands alone, is well formed, and that each picture has its words; return it."""
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "img"} & {e["tag"] for e in page.elements}
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", html)
    assert not [name for e in page.elements for name in e if name in ("src", "srcset") or name.startswith("on")]
    assert all(e["href"].startswith("#") for e in page.elements if "href" in e)
    ids = [e["id"] for e in page.elements if "id" in e]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="|url\()#([^")]+)', html)
    assert set(used) <= set(ids)
    for picture in page.find("svg"):
        assert picture["role"] == "img"
        assert len(picture["aria-label"]) > 10
    assert len(page.find("figcaption")) == len(page.find("figure"))
    assert all(caption["text"] for caption in page.find("figcaption"))
    assert len(html.encode()) < 2e6
    return page
