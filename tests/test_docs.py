"""What the pages name is there: links, anchors, files, fields, modes, figures."""

import re
from pathlib import Path

import pytest

from osed_jax.commands.modes import MODES
from osed_jax.config.schema import FIELDS, SECTIONS
from tests.conftest import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "results").rglob("*.md")],
    key=str,
)
_LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
_CODE = re.compile(r"`([^`\n]+)`")
_ENDINGS = {"py", "json", "html", "csv", "png"}
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def text_of(page):
    return page.read_text()


def links(page):
    return [a or b for a, b in _LINK.findall(text_of(page)) if "://" not in (a or b)]


def anchor(heading):
    """As GitHub makes it: lower case, no punctuation, spaces as hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


def anchors(page):
    return {anchor(line.lstrip("#")) for line in text_of(page).splitlines() if line[:1] == "#"}


def problems_of_links(page):
    for link in links(page):
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{link}: no such file"
        elif fragment and fragment not in anchors(target):
            yield f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_anchors_lead_somewhere(page):
    assert not list(problems_of_links(page))


def test_a_dead_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('# A `b`, c\n[x](#a-b-c) [y](#no) [z](gone.md) <img src="no.png">\n')
    assert [problem.split(":")[0] for problem in problems_of_links(page)] == [
        "#no",
        "gone.md",
        "no.png",
    ]


def test_every_page_is_reached_from_the_readme():
    seen, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        queue += [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
    assert set(PAGES) <= seen


def test_every_figure_is_shown():
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert set((ROOT / "docs" / "figures").iterdir()) <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page):
    in_package = {path.name for path in (ROOT / "osed_jax").rglob("*.py")}
    folders = ("osed_jax/", "configs/", "tests/", "benchmarks/", "docs/", "results/", "demo/")
    for word in re.findall(r"[\w./]+", text_of(page)):
        if word.startswith(folders) and "." in Path(word).name.rstrip("."):
            assert (ROOT / word.rstrip(".")).exists(), word
    if page.name == "architecture.md":
        named = set(re.findall(r"\b\w+\.py\b", text_of(page))) - {"main.py", "test_layers.py"}
        assert named <= in_package


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_fields_and_modes_that_a_page_names_exist(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("it tells of fields that were renamed")
    known = set(FIELDS)
    text = text_of(page)
    for name in re.findall(r"\bconfig\.([a-z_]+(?:\.[a-z_]+)*)", text):
        assert name in known or name in SECTIONS or name in _ENDINGS, name
    for code in _CODE.findall(_FENCED.sub("", text)):
        name = code.split("=")[0].removeprefix("--config.")
        section, _, field = name.partition(".")
        if section in SECTIONS and re.fullmatch("[a-z_0-9]+", field) and field not in _ENDINGS:
            assert name in known, code
    for mode in re.findall(r"--mode=(\w+)", text):
        assert mode in MODES, mode
