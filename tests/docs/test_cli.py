"""The page about the command line has each command, and each option in its command's section or in that of `run`."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from servekit.cli.main import COMMANDS, servekit

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^### `servekit (\w+).*?`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
EVERYWHERE = {"--name", "--help"}


def options(name: str) -> set[str]:
    """The long options of a command that people are told of."""
    context = click.Context(servekit)
    command = servekit.get_command(context, name)
    assert command is not None
    commands = [command, *command.commands.values()] if isinstance(command, click.Group) else [command]
    given = [each for one in commands for each in one.get_params(context)]
    shown = [each for each in given if isinstance(each, click.Option) and not each.hidden]
    return {max(each.opts, key=len) for each in shown}


def test_each_command_has_a_section() -> None:
    assert SECTIONS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_told_of_and_none_that_is_not_there(name: str) -> None:
    told = {*re.findall(r"(?<![\w-])--[a-z][a-z-]+", SECTIONS.get(name, ""))}
    assert told <= options(name)
    where = told | EVERYWHERE | ({*re.findall(r"`(--[a-z-]+)", SECTIONS["run"])} if name == "start" else set())
    assert options(name) <= where
