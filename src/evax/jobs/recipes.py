"""evax recipes: the experiments that come with evax."""

from __future__ import annotations

from evax.config import job, shipped_recipes
from evax.errors import unknown_name
from evax.files import read_text
from evax.options.results import RecipesConfig


@job(RecipesConfig)
def recipes(config: RecipesConfig) -> str:
    """The list, or the text of one recipe. Raises ConfigError for an unknown name."""
    shipped = shipped_recipes()
    if config.name is None:
        width = max(map(len, shipped))
        return "\n".join(f"{name:<{width}}  {header(name)[1]}" for name in shipped)
    if config.name not in shipped:
        raise unknown_name("recipe", config.name, shipped)
    return read_text(shipped[config.name]).rstrip()


def header(name: str) -> list[str]:
    """The comment at the head of a shipped recipe, line by line: the command, what it is, more."""
    lines = read_text(shipped_recipes()[name]).splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("# ") for line in lines[:end]]
