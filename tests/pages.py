"""A page as a browser without scripts would take it: its elements, and its text."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "img", "input", "br", "link"}


@dataclass
class Page(HTMLParser):
    """What was found in a page.

    Attributes:
        elements: (name, attributes) of each.
        text: All that is not in a script or a style, alternative texts of pictures included.
        scripts: What is in scripts and in JSON for them.
        unbalanced: Ends of elements that do not fit.
    """

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    scripts: list[str] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__(convert_charrefs=True)
        self.open = []

    def handle_starttag(self, tag, attrs):
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        self.text += f" {found.get('alt', '')} "
        if tag == "script":
            self.scripts.append("")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts[-1] += data
        elif inside != "style":
            self.text += data

    @property
    def pictures(self) -> list[str]:
        """The pictures' addresses."""
        return [found["src"] for name, found in self.elements if name == "img"]


def read_page(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    return page
