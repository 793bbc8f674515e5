"""What the pages name is there: links, anchors, files, fields, modes, commands, figures."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from osed_jax.commands.modes import MODES
from osed_jax.commands.sweep import planned
from osed_jax.config.build import check
from osed_jax.config.by_method import MethodConfigs
from osed_jax.config.methods import METHODS
from osed_jax.config.schema import FIELDS, SECTIONS
from osed_jax.errors import UserError
from osed_jax.tuning.configs import candidates
from tests.conftest import ROOT

# ml_collections loads a config file by load_module.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *DOCS, *(ROOT / "results").rglob("*.md")], key=str)
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")
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


def num_words(page):
    return sum(re.search(r"\w", word) is not None for word in text_of(page).split())


def test_pages_are_short():
    assert num_words(ROOT / "README.md") <= 1000
    assert num_words(ROOT / "docs" / "answer.md") <= 900
    assert num_words(ROOT / "README.md") + sum(map(num_words, DOCS)) <= 20_000


def figures_of_setting(row):
    """The figures with two digits in the tables of the setting that a line of a table links."""
    folder = ROOT / "results" / re.search(r"results/(\w+)/", row)[1]
    written = text_of(folder / "README.md") + text_of(folder / "tables.md")
    return {float(figure) for figure in re.findall(r"\b\d\d\.\d\d\b", written)}


def test_figures_of_the_answer_and_the_readme_are_those_of_the_runs():
    rows = [r for r in text_of(ROOT / "docs" / "answer.md").splitlines() if r.startswith("| [")]
    for row in rows:
        figures = re.findall(r"\b\d\d\.\d\d\b", row)
        assert len(figures) >= 3 and set(map(float, figures)) <= figures_of_setting(row), row
    assert len(rows) == 6
    lines = [
        r for r in text_of(ROOT / "README.md").splitlines() if "](results/" in r and r[0] == "|"
    ]
    for row in lines:
        figures = re.findall(r"\b\d\d\.\d\b", row)
        exact = figures_of_setting(row)
        assert len(figures) == 3
        assert all(any(abs(float(f) - e) < 0.0501 for e in exact) for f in figures), row
    assert len(lines) == 4


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page):
    in_package = {path.name for path in (ROOT / "osed_jax").rglob("*.py")}
    folders = [f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."]
    for word in re.findall(r"(?<![\w./])[\w./]+", text_of(page)):
        is_file = "." in Path(word).name.rstrip(".")
        if is_file and word.startswith(tuple(folders)) and not word.startswith("runs/"):
            assert (ROOT / word.rstrip(".")).exists(), word
    if page.name == "architecture.md":
        outside = {"main.py", "test_layers.py", "test_cli.py"}
        assert set(re.findall(r"\b\w+\.py\b", text_of(page))) - outside <= in_package


def test_the_program_names_pages_that_are_there():
    sources = [
        *(ROOT / "osed_jax").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        ROOT / "Makefile",
    ]
    for path in sources:
        for name in re.findall(r"\bdocs/[\w/]+\.\w+", path.read_text()):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_fields_and_modes_that_a_page_names_exist(page):
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


def written_commands(text):
    """The arguments of every `python main.py` in code blocks and config headers."""
    text = re.sub(r"\\?\n\s+(?=--)", " ", text)  # a command goes on where a line begins with --
    for line in text.splitlines():
        before, command, arguments = line.partition("python main.py ")
        if command and before.count("`") % 2 == 0 and "Time" not in before:
            yield shlex.split(arguments.replace("$ID", "0").rstrip('"'), comments=True)


def config_of(arguments):
    """The checked config or configs that a command gives; raises if it would not be accepted."""
    known = flags.FlagValues()
    for kind, name in re.findall(r'DEFINE_(\w+)\(\s*"(\w+)"', text_of(ROOT / "main.py")):
        default = {"float": 0.0, "integer": 0, "bool": False}.get(kind, "")
        if kind != "config_file":
            getattr(flags, f"DEFINE_{kind}")(name, default, "", flag_values=known)
    argv = ["main.py", *arguments]
    config_flags.DEFINE_config_file("config", None, flag_values=known, sys_argv=argv)
    rest = known(argv)[1:]
    assert not rest, rest
    mode = MODES[known.mode or "train"]
    assert bool(known.workdir) == mode.workdir and (known.config is not None) == mode.config
    if not mode.config:
        return
    path, _, method = next(a for a in arguments if a.startswith("--config="))[9:].partition(":")
    get_config = importlib.import_module(path.removesuffix(".py").replace("/", ".")).get_config
    given = MethodConfigs(get_config, dict(config_flags.get_override_values(known["config"])))
    assert bool(method) != mode.by_method and (mode.by_method or method in METHODS)
    if known.mode == "tune":
        candidates(given)
    elif known.mode == "sweep":
        planned(given, Path("runs"))
    else:
        check(known.config)


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_that_a_page_shows_are_accepted(page):
    for arguments in written_commands(text_of(page)):
        config_of(arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        "--config=configs/digits.py:open --workdir=x --config.train.num_epoch=3",
        "--config=configs/digits.py:opn --workdir=x",
        "--config=configs/digits.py:erm",
        "--config=configs/digits.py --workdir=x --mode=tune --config.tune.candidates=ros,fil",
        "--config=configs/digits.py:la --workdir=x --config.model.depth=11",
        "--mode=compare --work_dir=x",
    ],
)
def test_a_command_that_is_not_accepted_is_found(wrong):
    (arguments,) = written_commands(f"```\npython main.py {wrong}\n```")
    with pytest.raises((AssertionError, AttributeError, flags.Error, UserError)):
        config_of(arguments)


def test_commands_are_found_in_code_blocks_and_headers():
    pages = {page: list(written_commands(text_of(page))) for page in [*PAGES, *CONFIGS]}
    assert sum(len(commands) for commands in pages.values()) >= 30
    assert all(pages[path] for path in CONFIGS if path.stem != "default")
    assert len(pages[ROOT / "README.md"]) >= 3
