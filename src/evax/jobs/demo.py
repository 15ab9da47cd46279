"""evax demo: every step of a recipe in order, each a command of its own, then one report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from evax.config import command_line, job
from evax.errors import ConfigError
from evax.files import FolderLock, make_folder, read_json, write_json
from evax.jobs.export import export
from evax.jobs.fetch import fetch
from evax.jobs.finetune import finetune
from evax.jobs.localize import localize
from evax.jobs.predict import predict
from evax.jobs.prepare import prepare
from evax.jobs.pretrain import pretrain
from evax.jobs.probe import probe
from evax.options.data import PrepareConfig
from evax.options.pretraining import PretrainConfig
from evax.options.results import DemoConfig, ExportConfig, PredictConfig
from evax.runs.environment import environment

RUN_FOLDER = "RUN"  # first part of a path in a recipe that stands for --out
STEPS: dict[str, Any] = {  # in the order of the journey
    "fetch": fetch,
    "prepare": prepare,
    "pretrain": pretrain,
    "probe": probe,
    "finetune": finetune,
    "localize": localize,
    "predict": predict,
    "export": export,
}


@job(DemoConfig)
def demo(config: DemoConfig) -> Path:
    """Runs the steps and returns the path of report.html.

    Raises ConfigError for a run folder that exists, DataError for one that another run is writing into, and
    whatever a step raises.
    """
    if config.out.is_dir() and any(config.out.iterdir()) and not config.resume:
        raise ConfigError(
            f"The run folder {config.out} exists. Choose another --out, continue with --resume, or delete it."
        )
    with FolderLock(make_folder(config.out)):  # a step that was interrupted is deleted and begun anew
        return run_steps(config)


def run_steps(config: DemoConfig) -> Path:
    """Those that are not finished yet; returns the path of report.html."""
    journal, here = config.out / "run.json", environment()
    run: dict[str, Any] = read_json(journal) if journal.is_file() else {"environment": here, "steps": []}
    run["title"] = config.title
    finished = {(step["folder"], step["command"]) for step in run["steps"]}
    steps = [(kind, name, step, command_line(kind, step)) for kind, name, step in steps_of(config)]
    check_same_places(steps, config.out, finished)
    for kind, name, step, command in steps:
        if command in {done for _, done in finished}:
            continue
        start = time.perf_counter()
        STEPS[kind](ready_to_continue(step, config.out))
        run["environment"] = here
        run["steps"].append(
            {
                "kind": "store" if kind == "prepare" else kind,
                "name": name,
                "command": command,
                "seconds": seconds_of_step(step, time.perf_counter() - start),
                "folder": str(place_of(step).relative_to(config.out)),
            }
        )
        write_json(run, journal)
    write_json(run, journal)  # also when every step was finished before: the title may be another
    from evax.pages.run import write_demo_page  # matplotlib

    return write_demo_page(config.out)


def seconds_of_step(step: Any, spent: float) -> float:
    """Of the whole step. spent: now; a pre-training that went on knows its earlier parts, too."""
    whole = read_json(step.out / "report.json")["seconds"] if isinstance(step, PretrainConfig) else spent
    return round(float(whole), 1)


def place_of(step: Any) -> Path:
    """What a step writes; an export is part of its bundle."""
    return step.bundle / "onnx.json" if isinstance(step, ExportConfig) else Path(step.out)


def check_same_places(
    steps: list[tuple[str, str, Any, str]], out: Path, finished: set[tuple[str, str]]
) -> None:
    """Before anything runs: every step writes into the run folder, and none over a finished one."""
    for kind, name, step, command in steps:
        place = place_of(step)
        if out not in place.parents:
            raise ConfigError(f"{kind}.{name}.out is {place}; it must start with {RUN_FOLDER}/.")
        folder = str(place.relative_to(out))
        if any(folder == other and command != done for other, done in finished):
            raise ConfigError(
                f"{kind}.{name} was finished in {place} with other options. Give it another out, or "
                "choose another --out for the whole run."
            )


def steps_of(config: DemoConfig) -> Iterator[tuple[str, str, Any]]:
    """(command, name, its config with RUN replaced by the run folder), in order."""
    for kind in STEPS:
        for name, step in getattr(config, kind).items():
            yield kind, name, in_run_folder(step, config.out)


def in_run_folder(step: Any, out: Path) -> Any:
    """The config with RUN at the start of its paths replaced."""

    def placed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(placed(item) for item in value)
        if isinstance(value, Path) and value.parts and value.parts[0] == RUN_FOLDER:
            return out.joinpath(*value.parts[1:])
        return value

    return replace(step, **{item.name: placed(getattr(step, item.name)) for item in fields(step)})


def ready_to_continue(step: Any, out: Path) -> Any:
    """An interrupted step resumes where it can (pretrain, prepare, predict), else it starts anew."""
    if isinstance(step, PretrainConfig):
        return replace(step, resume=(step.out / "config.yaml").is_file())
    if isinstance(step, PredictConfig):
        step.out.unlink(missing_ok=True)  # finished, but not yet in the journal
        return replace(step, resume=True)
    if not isinstance(step, PrepareConfig | ExportConfig) and step.out.is_dir() and out in step.out.parents:
        shutil.rmtree(step.out)
    return step
