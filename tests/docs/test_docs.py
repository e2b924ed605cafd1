"""The documentation is true: its code blocks run, its links lead somewhere, its tables name what exists."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from autoseg import plugins
from autoseg.cli import autoseg
from tests.command_line import invoke
from tests.conftest import PROJECT

PAGES = sorted((PROJECT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```(?P<language>python|bash)(?P<options>[^\n]*)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


def runnable(page: Path) -> list[tuple[str, str]]:
    """Language and code of the blocks of a page that are meant to run."""
    return [(m["language"], m["code"]) for m in BLOCK.finditer(page.read_text()) if "no-run" not in m["options"]]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=lambda page: str(page.relative_to(PROJECT))
)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    """All blocks of a page, in order, in one empty folder; all in this process, which has loaded torch already."""
    folder, block = tmp_path / "page", tmp_path / "block.py"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)  # blocks may import what an earlier one has written
    for language, code in runnable(page):
        if language == "python":
            block.write_text(code)
            runpy.run_path(str(block), run_name="__main__")
        else:
            for line in code.splitlines():
                program, *arguments = line.split()
                assert program == "autoseg", line
                assert invoke(arguments) == 0, line


@pytest.mark.parametrize("page", [*PAGES, PROJECT / "README.md"], ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [*PAGES, PROJECT / "README.md"], ids=lambda page: str(page.relative_to(PROJECT)))
def test_no_page_is_unfinished(page):
    text = page.read_text()
    assert len(text) > 200
    assert not re.search(r"@@|TODO|FIXME|TBD", text)


def test_plug_table_is_complete():
    text = (PROJECT / "docs" / "reference" / "plugs.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    for kind in plugins.KINDS:
        for name in plugins.available(kind):
            assert f"`{name}`" in rows[kind], f"{kind} {name}"


def test_commands_are_listed():
    text = (PROJECT / "docs" / "reference" / "command-line.md").read_text()
    for name in autoseg.commands:
        assert f"autoseg {name}" in text
