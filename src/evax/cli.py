"""The evax command: the table of commands, and how errors end."""

from __future__ import annotations

import hashlib
import importlib
import io
import logging
import os
import sys
from pathlib import Path
from typing import TextIO

from evax.config import parse_command_line
from evax.errors import EvaxError, Interrupted, install_command, unknown_name, work_not_shared
from evax.options import config_class

COMMANDS = {  # name: what it does; module, function and config class (evax.options) share the name
    "demo": "the whole journey on synthetic images, or on the images of a recipe, with a report",
    "fetch": "public images or synthetic ones, or how to ask for them",
    "prepare": "images -> store",
    "audit": "stores -> patients and duplicate images across splits and stores; what leaks",
    "describe": "stores -> what they are made of, side by side, and whether they differ",
    "pretrain": "unlabelled stores -> encoder",
    "finetune": "labelled store + encoder -> classifier, tested once",
    "embed": "encoder + images or store -> table of features",
    "probe": "labelled store + encoder as it is -> linear probe and nearest neighbours, tested once",
    "fewshot": "finetune on shares of the labels, with several seeds: how many labels are needed?",
    "compare": "runs tested on the same images -> table, figures and page with paired differences",
    "crossvalidate": "finetune on folds of the patients, or with each hospital left out",
    "segment": "store with masks + encoder -> segmenter, tested once",
    "localize": "does Grad-CAM find the boxes or masks of a store?",
    "export": "bundle -> ONNX for machines without torch, compared with torch first",
    "predict": "classifier + images -> table",
    "zoo": "published weights: list, fetch, convert",
    "recipes": "the paper's experiments: list, show",
}
SHARES_ITS_WORK = {"pretrain"}  # among the processes that torchrun starts
INTERRUPTED = 130


def main() -> None:
    """Entry point: runs one command and exits with its status. Letters a terminal lacks are escaped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Exit status: 0 done; 1 the user's data or recipe; 2 wrong usage; 130 or 143 interrupted."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0
    if arguments[0] == "--version":
        from evax import __version__

        sys.stdout.write(f"evax {__version__}\n")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        sys.stderr.write(f"evax: {unknown_name('command', name, COMMANDS)}\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("lightning_fabric", "lightning.fabric", "torch", "PIL", "matplotlib", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        check_not_distributed(name)
        config = parse_command_line(config_class(name), rest, f"evax {name}")
        result = getattr(importlib.import_module(f"evax.jobs.{name}"), name)(config)
    except EvaxError as error:
        _write_error(f"evax {name}: {error}\n")
        return 1
    except ModuleNotFoundError as error:  # the base installation reads and scores images, no more
        if str(error.name).startswith("evax"):
            raise
        _write_error(f"evax {name}: this needs the package {error.name}: {install_command('train')}\n")
        return 1
    except Interrupted as stop:
        _write(sys.stderr, f"evax {name}: {stop}\n")
        return stop.status
    except KeyboardInterrupt:
        sys.stderr.write(f"evax {name}: interrupted.\n")
        return INTERRUPTED
    _write(sys.stdout, f"{result}\n")
    return 0


def _write(stream: TextIO, text: str) -> None:
    """Writes once: of the processes that torchrun starts, only the first does."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK") == "0":
        stream.write(text)


def _write_error(text: str) -> None:
    """Writes an error once per machine, although every process of torchrun may raise it."""
    if error_file := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # in a folder of each process
        marker = Path(error_file).parents[1] / f"evax-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            return
        except OSError:
            pass  # several times rather than never
    sys.stderr.write(text)


def check_not_distributed(command: str) -> None:
    """Raises ConfigError if torchrun started several processes for a command that does not share its work."""
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if started > 1 and command not in SHARES_ITS_WORK:
        raise work_not_shared(started)


def usage() -> str:
    """The page of `evax --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return (
        "usage: evax COMMAND [THINGS...] [--recipe FILE_OR_NAME] [--option value]\n\ncommands:\n"
        + "\n".join(lines)
        + "\n\n`evax COMMAND --help` lists the options of a command; a finished run's config.yaml "
        "is a recipe for it.\n"
    )
