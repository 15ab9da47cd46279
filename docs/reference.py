"""Sphinx extension: the reference of commands, made from their config classes, and the layout of docstrings.

`{evax-commands}` writes a section per command with a table of its options, `{evax-functions}` the Python
function of each.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective
from tyro.conf import Positional, Suppress

from evax.cli import COMMANDS
from evax.config import shown_option
from evax.options import CONFIGS, config_class

COMMAND_OF = {config_class(command): command for command in CONFIGS}


class Commands(SphinxDirective):
    """A section per command."""

    def run(self) -> list[nodes.Node]:
        text = "\n\n".join(section_of(command) for command in COMMANDS)
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Functions(SphinxDirective):
    """The function of every command, with its config class."""

    def run(self) -> list[nodes.Node]:
        text = "\n\n".join(
            f"```{{eval-rst}}\n.. autofunction:: evax.{command}\n```\n"
            f"Config: `evax.{config_class(command).__name__}`, [options](commands.md#evax-{command})."
            for command in COMMANDS
        )
        return self.parse_text_to_nodes(text)


def section_of(command: str) -> str:
    """A command in Markdown: what it does and its options, without those of a command that it extends."""
    config = config_class(command)
    text = f"## evax {command}\n\n{escaped(config.__doc__)}\n\n"
    names = [field.name for field in dataclasses.fields(config)]
    parent = next((COMMAND_OF[base] for base in config.__mro__[1:] if base in COMMAND_OF), None)
    if parent:
        names = [name for name in names if name in config.__annotations__]
        hidden = ", ".join(f"`{option_name(name)}`" for name in names if marks(config, name, Suppress))
        text += f"The options of [evax {parent}](#evax-{parent}) except {hidden}, and:\n\n"
    return text + table("option", "default", "meaning", rows=option_rows(config, names))


def option_rows(config: Any, names: list[str], values: Any = None, inside: str = "") -> Iterator[str]:
    """A row per option; a nested config has a row for each of its own. values: defaults, else the class's."""
    for field in dataclasses.fields(config):
        if field.name not in names or marks(config, field.name, Suppress):
            continue
        default = getattr(values, field.name) if values else default_of(field)
        if dataclasses.is_dataclass(default):
            nested = [item.name for item in dataclasses.fields(default)]
            yield from option_rows(type(default), nested, default, f"{field.name}.")
            continue
        positional = marks(config, field.name, Positional)
        name = field.name.upper() if positional else option_name(inside + field.name)
        meaning = escaped(meaning_of(config, field.name))
        if choices := choices_of(typing.get_type_hints(config)[field.name]):
            meaning += f" Values: `{'`, `'.join(choices)}`."
        yield f"| `{name}` | {shown_default(default)} | {meaning} |"


def table(*columns: str, rows: Iterable[str]) -> str:
    """A table in Markdown."""
    return "\n".join([f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}", *rows])


def option_name(name: str) -> str:
    """The option of a field on the command line."""
    return f"--{name.replace('_', '-')}"


def marks(config: Any, name: str, mark: Any) -> bool:
    """Whether a field has this mark of tyro."""
    kind = typing.get_type_hints(config, include_extras=True)[name]
    return mark in getattr(kind, "__metadata__", ())


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field, MISSING without one."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def shown_default(value: Any) -> str:
    """A default in the table; empty where nothing is set."""
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value in (None, (), "") else f"`{shown_option(value)}`"


def choices_of(kind: Any) -> list[str]:
    """The words that an option takes, where they are listed."""
    if typing.get_origin(kind) is typing.Literal:
        return [str(choice) for choice in typing.get_args(kind) if choice is not None]
    return [choice for part in typing.get_args(kind) for choice in choices_of(part)]


def meaning_of(config: Any, name: str) -> str:
    """The text below a field, in the class that defines it last."""
    for base in config.__mro__:
        comments = ModuleAnalyzer.for_module(base.__module__).find_attr_docs()
        if (base.__name__, name) in comments:
            return " ".join(comments[base.__name__, name]).strip()
    raise LookupError(f"{config.__name__}.{name} has no text below it")


def escaped(text: str) -> str:
    """Plain text of a docstring in Markdown; its code keeps its marks."""
    return re.sub(r"([*|<>])", r"\\\1", re.sub(r"\n[ \t]+", "\n", text.strip()))


def link_contributing(app: Sphinx, page: str, source: list[str]) -> None:
    """Links from a page to files that the site includes under another name."""
    source[0] = re.sub(
        r"\]\(\.\./(CONTRIBUTING|CHANGELOG)\.md", lambda found: f"]({found[1].lower()}.md", source[0]
    )


def space_docstring(app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Parameters, `Returns` and `Raises` each get a paragraph of their own."""
    text = re.sub(r"\n(?=(\w+: |Returns |Raises ))", "\n\n", "\n".join(lines))
    lines[:] = re.sub(r"^(\w+):(?= )", r"**\1**:", text, flags=re.M).split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("evax-commands", Commands)
    app.add_directive("evax-functions", Functions)
    app.connect("source-read", link_contributing)
    app.connect("autodoc-process-docstring", space_docstring)
    return {"parallel_read_safe": True}
