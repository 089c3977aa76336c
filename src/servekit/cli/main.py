"""The command ``servekit``: the table of its commands, and what becomes of an error.

A command's module is imported when the command is called, so that each starts quickly.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from servekit import __version__
from servekit.config import nearest
from servekit.errors import ServekitError

COMMANDS = {
    "init": ("project", "Make a small project to begin with"),
    "run": ("run", "Serve a script or module:attr in the foreground"),
    "start": ("standing", "Run a standing instance in the foreground"),
    "stop": ("standing", "End a standing instance, once it has answered"),
    "restore": ("standing", "Put back the last good state of an instance"),
    "status": ("status", "Show what a standing instance serves"),
    "dashboard": ("dashboard", "Print a link to an instance's dashboard"),
    "explain": ("explain", "Tell why a request went where it went"),
    "logs": ("logs", "Show what a standing instance has logged"),
    "events": ("events", "Show what has happened to a standing instance"),
    "failures": ("events", "Show what handlers have raised, and where"),
    "deploy": ("deploying", "Serve what configuration files say, and nothing else"),
    "apply": ("deploying", "Do what a plan says that deploy has written"),
    "export": ("deploying", "Write what is served as a configuration file"),
    "schema": ("deploying", "Print the JSON Schema of configuration files"),
    "history": ("deploying", "Show what an endpoint's traffic has been"),
    "rollback": ("deploying", "Go back to what an endpoint's traffic was"),
    "rollout": ("rollout", "Have a new version take over, step by step"),
    "traffic": ("changes", "Split an endpoint's traffic between backends"),
    "shadow": ("shadow", "Copy requests to a version, and compare answers"),
    "scale": ("changes", "Give a backend more or fewer replicas"),
    "restart": ("changes", "Replace every replica of a backend"),
    "call": ("call", "Send a request to an endpoint"),
    "code": ("code", "List the files of a backend's frozen code"),
    "plugins": ("plugins", "List the plugins that are installed here"),
    "doctor": ("doctor", "Look for what is wrong on this machine"),
}
"""By name: the module of this package that has the command, as a function of that name, and the line about it."""

FAILED = 1
"""The exit code where something could not be done. A command that is used wrongly has 2, as click has it."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


class Commands(click.Group):
    """The group of `COMMANDS`; `click.Group.commands` stays empty."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, about = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"servekit.cli.{module}"), cmd_name)
        command.short_help = about
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}{nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"max_content_width": 80, "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="servekit %(version)s")
def servekit() -> None:
    """Serve Python functions and classes over HTTP.

    `servekit COMMAND --help` tells of one command.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = None if arguments is None else [*arguments]
    try:
        code = servekit.main(given, "servekit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _say(_in_one_line(error), error.exit_code)
    except click.Abort:
        return _say("interrupted", INTERRUPTED)
    except ServekitError as error:
        return _say(str(error), FAILED)
    return code if isinstance(code, int) else 0


def _say(message: str, code: int) -> int:
    click.echo(f"servekit: {message}", err=True)
    return code


def _in_one_line(error: click.ClickException) -> str:
    """What click would say in several lines, and where more is said."""
    message = " ".join(error.format_message().split())
    message = message[0].lower() + message[1:]
    context = error.ctx if isinstance(error, click.UsageError) else None
    end = "" if message.endswith(("?", ".")) else "."
    return message if context is None else f"{message}{end} See: {context.command_path} --help"


if __name__ == "__main__":
    sys.exit(main())
