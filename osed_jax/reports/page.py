"""A web page in one file, with its figures; no script, no network."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       margin: 0 auto; max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; border-top: 1px solid #ddd; padding-top: 1rem; }
p { max-width: 46rem; margin: .4rem 0 .8rem; }
img { display: block; width: min(100%, 46rem); height: auto; }
img.wide { width: auto; max-width: none; height: 34rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; white-space: nowrap;
         border-bottom: 1px solid #e5e5e5; }
th:first-child, td:first-child { text-align: left; }
th.text, td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
pre { background: #f4f4f4; padding: .8rem; font-size: .85rem; white-space: pre-wrap;
      overflow-wrap: anywhere; }
nav { font-size: .9rem; } nav a { margin-right: .8rem; white-space: nowrap; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: 1rem 0; }
.facts div { min-width: 6rem; } .facts b { display: block; font-size: 1.5rem; line-height: 1.2; }
"""


def page(title: str, intro: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole page.

    Args:
      title: plain text.
      intro: HTML below the title.
      sections: (heading in plain text, HTML) each.
    """
    links = "".join(f'<a href="#s{i}">{html.escape(h)}</a> ' for i, (h, _) in enumerate(sections))
    body = "".join(
        f'<section id="s{i}"><h2>{html.escape(heading)}</h2>{content}</section>\n'
        for i, (heading, content) in enumerate(sections)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{intro}\n<nav>{links}</nav>\n{body}</body></html>\n"
    )


def text(*paragraphs: str) -> str:
    """Paragraphs of plain text."""
    return "".join(f"<p>{html.escape(p)}</p>" for p in paragraphs)


def picture(path: Path, description: str, *, wide: bool = False) -> str:
    """A PNG file, inside the page.

    Args:
      path: of the file.
      description: for those who cannot see it.
      wide: it keeps its size and is scrolled on a small screen.
    """
    data = base64.b64encode(path.read_bytes()).decode()
    kind = ' class="wide"' if wide else ""
    shown = f'<img{kind} alt="{html.escape(description)}" src="data:image/png;base64,{data}">'
    return f'<div class="scroll">{shown}</div>' if wide else shown


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: bool = False) -> str:
    """A table of plain text; numbers to the right, or with `texts` everything to the left."""
    kind = ' class="text"' if texts else ""
    header = "".join(f"<th{kind}>{html.escape(h)}</th>" for h in head)
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{header}</tr>{body}</table></div>'


def code(content: str) -> str:
    """Text as it is typed."""
    return f"<pre>{html.escape(content)}</pre>"


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A few large figures: (what, value) each."""
    inner = "".join(f"<div><b>{html.escape(v)}</b>{html.escape(k)}</div>" for k, v in pairs)
    return f'<div class="facts">{inner}</div>'


def details(summary: str, content: str) -> str:
    """HTML that is folded away below a line of text."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"
