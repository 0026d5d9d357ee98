"""The help of every command says what its author wrote."""

from __future__ import annotations

import typer
from rich.text import Text

from seewhy.cli import app


def helps(group, path="seewhy"):
    """(where, text) of every help text of a command, its sub-commands and their options."""
    yield path, group.help
    for option in group.params:
        yield f"{path} {option.name}", getattr(option, "help", None)
    for name, command in getattr(group, "commands", {}).items():
        yield from helps(command, f"{path} {name}")


def test_rich_takes_no_bracket_for_markup() -> None:
    """Text in brackets, as in `seewhy[ray]`, must not vanish."""
    texts = {where: text for where, text in helps(typer.main.get_command(app)) if text}
    lost = [where for where, text in texts.items() if Text.from_markup(text).plain != text.replace("\\[", "[")]
    assert not lost, f"write \\[ for [ in the help of {lost}"


def test_the_commands_of_earlier_versions_still_work_and_are_not_listed() -> None:
    commands = typer.main.get_command(app).commands
    for old, new in (("dream", "visualize-class"), ("sanity", "randomization-test")):
        assert commands[old].hidden
        assert not commands[new].hidden
        assert commands[old].callback.__wrapped__ is commands[new].callback.__wrapped__
