"""Recipes, command lines and Python callers -> one frozen dataclass with values of the right types; an
unknown key is an error at any depth.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import re
import shlex
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AnySet
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from evax.errors import ConfigError, unknown_name
from evax.files import name_of, path_of, read_text, write_text

C = TypeVar("C")
R = TypeVar("R")
RECIPES = Path(__file__).parent / "recipes"


def validated(config_class: type[C]) -> type[C]:
    """A dataclass of options whose values are converted to the types of its fields, whoever builds it.

    A path may be given as a string, a list as a tuple, a single path or string where several may stand, and
    the options of a nested config as a dictionary.
    Raises ConfigError naming the option that is unknown, missing or of the wrong type.
    """
    plain: Any = config_class.__init__

    @functools.wraps(plain)
    def __init__(self: Any, *unnamed: Any, **values: Any) -> None:
        name = config_class.__name__
        if unnamed:
            raise ConfigError(f"{name} takes its options by name, as out=..., got {unnamed[0]!r} alone.")
        checked = _checked(values, config_class, where=name)
        _check_complete(config_class, checked, where=name)
        types, fields = typing.get_type_hints(config_class), _fields(config_class)
        plain(self, **{key: _built(types[key], fields[key], value) for key, value in checked.items()})

    config_class.__init__ = __init__  # type: ignore[method-assign]
    return config_class


def job(config_class: type[C]) -> Callable[[Callable[[C], R]], Callable[[C], R]]:
    """A function of one config that raises ConfigError for anything else."""

    def decorate(function: Callable[[C], R]) -> Callable[[C], R]:
        @functools.wraps(function)
        def run(config: C) -> R:
            if not isinstance(config, config_class):
                call = f"{function.__name__}({config_class.__name__}(...))"
                raise ConfigError(f"Call it as {call}; it got {type(config).__name__}.")
            return function(config)

        return run

    return decorate


def parse_command_line(config_class: type[C], arguments: Sequence[str], program: str) -> C:
    """The configuration of one command: the command line, else the recipe of --recipe, else the class's
    defaults.

    Recipe and command line are merged before the dataclass is built, so its checks see only final values.
    Raises ConfigError for a faulty recipe; wrong usage ends the process with status 2, as argparse does.
    """
    arguments, recipe = _take_recipe(_expand_seed_ranges(arguments))
    arguments, own = _take_suppressed_options(config_class, arguments)
    recipe = recipe or getattr(config_class, "default_recipe", None)
    values = getattr(config_class, "command_line_defaults", {}) | (
        read_recipe(recipe_path(recipe), config_class) if recipe else {}
    )
    values |= own
    usage_error = io.StringIO()
    try:
        with redirect_stderr(usage_error):
            return tyro.cli(
                config_class, prog=program, args=arguments, default=_with_defaults(config_class, values)
            )
    except SystemExit as stop:
        # tyro reports a failed check of ours as wrong usage
        if isinstance(stop.__context__, ConfigError):
            raise stop.__context__ from None
        sys.stderr.write(usage_error.getvalue())
        raise


def recipe_path(recipe: str) -> Path:
    """A recipe file as given, or the shipped recipe of that name.

    Raises ConfigError for what is neither; a path is told from a name by its suffix.
    """
    shipped, path = shipped_recipes(), Path(recipe)
    if not path.is_file() and not path.suffix and recipe not in shipped:
        raise unknown_name("recipe file or shipped recipe", recipe, shipped)
    return path if path.is_file() or path.suffix else shipped[recipe]


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with evax; the name is the path under recipes/."""
    paths = sorted(RECIPES.rglob("*.yaml"))
    return {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in paths}


def command_line(command: str, config: Any) -> str:
    """The command that repeats a config: only what differs from the defaults is written."""
    words = ["evax", command]
    options: list[str] = []
    kinds = typing.get_type_hints(type(config), include_extras=True)
    defaults = getattr(type(config), "command_line_defaults", {})
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if tyro.conf.Positional in getattr(kinds[item.name], "__metadata__", ()):
            words += _words(value)
        else:
            options += _option_words(f"--{item.name}", value, defaults.get(item.name, _default_of(item)))
    return shlex.join([*words, *options])


def _option_words(option: str, value: Any, default: Any) -> list[str]:
    if value == default:
        return []
    if dataclasses.is_dataclass(value):
        return [
            word
            for item in dataclasses.fields(value)
            for word in _option_words(
                f"{option}.{item.name}", getattr(value, item.name), getattr(default, item.name)
            )
        ]
    option = option.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    return [option, *_words(value)]


def _words(value: Any) -> list[str]:
    values = value if isinstance(value, tuple) else (value,)
    return ["none" if item is None else str(item) for item in values]


def _default_of(item: dataclasses.Field[Any]) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def read_recipe(path: Path, config_class: type) -> dict[str, Any]:
    """The values of a YAML recipe, checked against a config class: known keys only, each of the right type.

    `${NAME}` and `${NAME:-default}` in texts are taken from the environment.
    Raises ConfigError naming the file and the key.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise ConfigError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"The recipe {path} is not UTF-8 text: {error.reason}. Save it as UTF-8."
        ) from error
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"The recipe {path} is not valid YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"The recipe {path} must be a table of options, got {type(content).__name__}.")
    try:
        values: dict[str, Any] = _with_native_paths(
            _checked(_expand_environment(content), config_class, where="")
        )
        return values
    except ConfigError as error:
        raise ConfigError(f"Recipe {path}: {error}") from error


def to_plain(value: Any) -> Any:
    """A config as dictionaries, lists and scalars: what a recipe holds."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return name_of(value) if isinstance(value, Path) else value


def write_recipe(config: Any, path: Path) -> None:
    """A finished run's config.yaml, itself a recipe of the same command; written whole or not at all."""
    write_text(yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True), path)


def changed_options(before: Mapping[str, Any], now: Mapping[str, Any], but: Iterable[str]) -> str:
    """What differs between two configs as dictionaries, as "--steps was 2, is 3".

    but: what may differ, where it is given in both or in neither.
    """
    was, is_now = flat_options(before), flat_options(now)
    return "; ".join(
        f"--{name.replace('_', '-')} was {shown_option(was.get(name))}, is {shown_option(value)}"
        for name, value in is_now.items()
        if was.get(name) != value
        and (name.partition(".")[0] not in but or (was.get(name) is None) != (value is None))
    )


def flat_options(options: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Tables within tables under their names on the command line, as optimizer.lr."""
    values: dict[str, Any] = {}
    for name, value in options.items():
        path = f"{inside}{name}"
        values |= flat_options(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return values


def shown_option(value: Any) -> str:
    """The value of an option as it is given on the command line."""
    if value is None:
        return "not given"
    return " ".join(map(str, value)) or "not given" if isinstance(value, list | tuple) else str(value)


def _expand_seed_ranges(arguments: Sequence[str]) -> list[str]:
    """`--seeds 0-4` as `--seeds 0 1 2 3 4`; of at most 1,000 seeds, so that a slip is no endless list.

    Raises ConfigError for words that are no seeds.
    """
    expanded, of_seeds = list[str](), False
    for word in arguments:
        of_seeds = word == "--seeds" or (of_seeds and not re.match(r"-\D", word))
        if not of_seeds or word == "--seeds" or re.fullmatch(r"-?\d+", word):
            expanded.append(word)
            continue
        ends = re.fullmatch(r"(\d{1,9})-(\d{1,9})", word)
        seeds = range(int(ends[1]), int(ends[2]) + 1) if ends else range(0)
        if not 0 < len(seeds) <= 1000:
            raise ConfigError(
                f"--seeds takes whole numbers, as 0 1 2, or a range of at most 1,000, as 0-4; got '{word}'."
            )
        expanded += map(str, seeds)
    return expanded


def _take_suppressed_options(config_class: Any, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Takes options that a command sets itself and does not offer (tyro.conf.Suppress): its config class then
    explains what to give instead.

    Returns the other arguments, and the values.
    """
    kinds = typing.get_type_hints(config_class, include_extras=True)
    own = [name for name, kind in kinds.items() if tyro.conf.Suppress in getattr(kind, "__metadata__", ())]
    rest, values = list(arguments), dict[str, Any]()
    for name in own:
        option = f"--{name.replace('_', '-')}"
        if option in rest[:-1]:
            place = rest.index(option)
            values[name], rest = rest[place + 1], [*rest[:place], *rest[place + 2 :]]
    return rest, _checked(values, config_class, where="")


def _take_recipe(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    rest, recipe = list(arguments), None
    for position, argument in enumerate(arguments):
        if argument == "--recipe":
            if position + 1 >= len(arguments):
                raise ConfigError("--recipe needs a file or the name of a recipe (`evax recipes`).")
            recipe, rest = arguments[position + 1], [*arguments[:position], *arguments[position + 2 :]]
        elif argument.startswith("--recipe="):
            recipe, rest = (
                argument.partition("=")[2],
                [*arguments[:position], *arguments[position + 1 :]],
            )
    return rest, recipe


def _expand_environment(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _expand_environment(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand_environment(item) for item in value]
    if not isinstance(value, str):
        return value

    def from_environment(match: re.Match[str]) -> str:
        found = match["default"]
        if match["name"] in os.environ:
            found = name_of(os.environ[match["name"]])
        if found is None:
            raise ConfigError(
                f"{match[0]} is not set: export {match['name']} or write the value into the recipe."
            )
        return found

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", from_environment, value)


def _checked(values: Mapping[str, Any], config_class: Any, where: str) -> dict[str, Any]:
    """Each value converted to its field's type; nested configs stay dictionaries until the whole is built."""
    types = typing.get_type_hints(config_class)
    fields = [field.name for field in dataclasses.fields(config_class)]
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown_name(f"option of {where or 'this recipe'}", str(key), fields)
        checked[key] = _checked_value(value, types[key], f"{where}.{key}" if where else str(key))
    return checked


def _checked_value(value: Any, kind: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table of options, got {value!r}.")
        return _checked(value, kind, where)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is dict and dataclasses.is_dataclass(arguments[1]):
        entry: Any = arguments[1]
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table of named entries, got {value!r}.")
        # whole entries: they do not appear on the command line, so they are built here
        return {
            str(name): item
            if isinstance(item, entry)
            else build(entry, _checked_value(item, entry, f"{where}.{name}"), f"{where}.{name}")
            for name, item in value.items()
        }
    if isinstance(value, str | os.PathLike) and tuple in (
        typing.get_origin(kind),
        *map(typing.get_origin, arguments),
    ):
        value = (value,)  # one of several, as on the command line
    elif isinstance(value, os.PathLike) and str in (kind, *arguments):
        value = os.fspath(value)
    return _converted(value, kind, where)


def _converted(value: Any, kind: Any, where: str) -> Any:
    """The value as pydantic reads it. Raises ConfigError also where pydantic would guess."""
    from pydantic import ValidationError

    reason = ""
    if isinstance(value, AnySet):
        reason = "a set has no order, give a list or a tuple"
    elif isinstance(value, bool) and bool not in (kind, *typing.get_args(kind)):
        reason = "it is no number, path or word"
    else:
        try:
            return _adapter(kind).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            value, reason = first["input"], first["msg"]
            where += "".join(f"[{place}]" for place in first["loc"][:1] if isinstance(place, int))
    raise ConfigError(f"{where} = {value!r} is not valid: {reason}.")


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def _with_native_paths(value: Any) -> Any:
    """Paths as this machine has them: a recipe is UTF-8 in every locale."""
    if isinstance(value, Mapping):
        return {key: _with_native_paths(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_with_native_paths, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{name: _with_native_paths(getattr(value, name)) for name in _fields(value)}
        )
    return Path(path_of(str(value))) if isinstance(value, Path) else value


def build(config_class: type[C], values: Mapping[str, Any], where: str) -> C:
    """A config from checked dictionaries; ConfigError names the options that are missing."""
    _check_complete(config_class, values, where)
    return config_class(**values)


def _check_complete(config_class: Any, values: Mapping[str, Any], where: str) -> None:
    required = [
        name for name, field in _fields(config_class).items() if _default_of(field) is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise ConfigError(f"{where} lacks {', '.join(missing)}.")


def _built(kind: Any, field: dataclasses.Field[Any], value: Any) -> Any:
    """The value of a field; a nested config that is still a dictionary keeps the command's other defaults."""
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return kind(**(_inherited(field) | value))  # type: ignore[operator]
    return value


def _fields(config_class: Any) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(config_class)}


def _with_defaults(config_class: Any, values: Mapping[str, Any]) -> Any:
    """Carries defaults to tyro; made without __init__, so that no check sees half a config."""
    types = typing.get_type_hints(config_class)
    instance = object.__new__(config_class)
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(types[field.name]):
            nested = _inherited(field) | values.get(field.name, {})
            default: Any = _with_defaults(types[field.name], nested)
        elif field.name in values:
            default = values[field.name]
        else:
            default = _default_of(field)
            default = tyro.MISSING if default is dataclasses.MISSING else default
        object.__setattr__(instance, field.name, default)
    return instance


def _inherited(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """What a nested config starts from: the command's own defaults, which may differ from its class's."""
    if field.default_factory is dataclasses.MISSING:
        return {}
    config = field.default_factory()
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
