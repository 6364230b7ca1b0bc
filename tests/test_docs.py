# SPDX-License-Identifier: MIT
"""What the pages say works when it is pasted."""

import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from qg.cli import COMMANDS, main
from qg.config import Config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(ROOT / f"docs/{name}.md" for name in ("extenders", "getting-started", "running"))]


DEV_HELP = (ROOT / "tools/dev").read_text()
# What stands for something of the reader's own.
PLACEHOLDERS = {
    r"qg://\.\.\.(@\S+)?": f"qg://{'a' * 52}@203.0.113.7:7447",
    r"\w+\.\.\.": "a" * 52,
}


def command_parse(line):
    """Read a line as the command would; raises `click.UsageError` for what it would not take."""
    words = shlex.split(line, comments=True)
    words = words[1 : words.index("|")] if "|" in words else words[1:]
    for pattern, text in PLACEHOLDERS.items():
        words = [re.sub(f"^{pattern}$", text, word) for word in words]
    assert words[0] in COMMANDS
    main.get_command(None, words[0]).make_context(words[0], words[1:])


def blocks_of(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list:
    return [
        pytest.param(block, id=f"{page.name}-{idx}")
        for page in PAGES
        for idx, block in enumerate(blocks_of(page, language))
    ]


@pytest.mark.parametrize("block", blocks("python"))
def test_python_on_the_pages_runs(block, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{block}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stderr == ""
    assert run.returncode == 0


@pytest.mark.parametrize("block", blocks("toml"))
def test_configuration_on_the_pages_is_right(block):
    Config.from_dict(tomllib.loads(block))


def test_links_between_the_pages_lead_somewhere():
    for page in [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("block", blocks("sh"))
def test_commands_on_the_pages_are_commands(block):
    for line in block.splitlines():
        if line.startswith("qg "):
            command_parse(line)
        elif line.startswith("tools/dev "):
            assert shlex.split(line)[1] in DEV_HELP


@pytest.mark.parametrize("name", [None, *sorted(COMMANDS)])
def test_examples_in_the_help_are_commands(name):
    command = main if name is None else main.get_command(None, name)
    text = inspect.cleandoc(command.help).replace("\\\n", " ")
    examples = [line for line in text.splitlines() if re.match(r"  (\w*\$ +)?qg ", line)]
    assert examples
    for line in examples:
        command_parse(line.partition("$ ")[2] or line)
    shown = click.Context(command, info_name=name or "qg", terminal_width=80, max_content_width=80).get_help()
    assert max(map(len, shown.splitlines())) <= 80
