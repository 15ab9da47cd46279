"""Studies of many runs: each run is made once, in a folder of its own, and read when the study continues.

A continued study keeps all it had. Seeds, shares and counts may be added; other options must be as before.
Imports no torch at its top, so that a job can check its call first.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from evax.adaptation.protocol import study_card
from evax.config import build, changed_options, read_recipe, shown_option, to_plain, write_recipe
from evax.errors import ConfigError
from evax.evaluation.study_rows import RUNS, run_rows, spread_in_words, summary_of, write_rows
from evax.files import read_json, write_json
from evax.options.adaptation import LabelledConfig
from evax.options.training import PLACES, Precision
from evax.runs.files import agreed, read_facts
from evax.runs.log import RunLog, run_folder

logger = logging.getLogger("evax")
C = TypeVar("C", bound=LabelledConfig)
Report = dict[str, Any]

# of a finished run: images, labels and weights have digests, and the rest changes nothing that is learned
MAY_DIFFER = PLACES | {"workers", "name", "bundles", "resume"}
SINGLE: dict[str, Any] = {"seeds": (), "resume": False}  # options of a fine-tuning that is a single run


def continue_study(config: C, resume: bool, grows: Sequence[str] = ()) -> C:
    """The options of the whole study: those its folder was begun with, and what is new.

    grows: options of several values. New values go behind those of before, so the first one stays first.
    The precision of all runs is decided once: the timing behind "auto" depends on the load of the machine.
    Raises ConfigError if the folder was begun with other options.
    """
    begun = config.out / "config.yaml"
    if not (resume and begun.is_file()):  # without the file, start_run says that there is nothing to resume
        if config.precision != "auto":
            return config
        from evax.runs.device import bf16_is_faster

        return replace(config, precision="bf16" if bf16_is_faster() else "fp32")
    before = build(type(config), read_recipe(begun, type(config)), str(begun))
    if config.precision == "auto":
        config = replace(config, precision=before.precision)
    if grows and not any(getattr(before, name) for name in grows):
        raise ConfigError(f"{config.out} holds a single run, not a study to continue. Choose another --out.")
    if changes := changed_options(to_plain(before), to_plain(config), MAY_DIFFER.union(grows)):
        raise ConfigError(
            f"{config.out} was begun with other options: {changes}. Choose another --out, or the options of "
            "before."
        )
    whole: dict[str, Any] = {
        name: tuple(dict.fromkeys((*getattr(before, name), *getattr(config, name)))) for name in grows
    }
    for name, values in whole.items():
        if values != getattr(config, name):
            logger.info("%s continues with --%s %s.", config.out, name, shown_option(values))
    return replace(config, **whole)


@contextmanager
def study_folder(config: LabelledConfig, resume: bool) -> Iterator[RunLog]:
    """run_folder; config.yaml of a continued study becomes that of the whole study."""
    kept: dict[str, Any] = {"resume": False}  # a recipe that starts the study again
    with run_folder(config.out, config, resume) as log:
        if resume:
            write_recipe(replace(config, **kept), config.out / "config.yaml")
        yield log


def run_config(kind: type[C], study: LabelledConfig, **own: Any) -> C:
    """The options of one run: those of the study, except for its own."""
    return kind(**({item.name: getattr(study, item.name) for item in fields(kind)} | own))


def check_finished_run(run: LabelledConfig, fingerprint: str, weights: str | None, bundle: bool) -> None:
    """Before anything is trained: a run that is finished must be the one that is asked for.

    fingerprint: see data_fingerprint. weights: see digest_of_weights. bundle: whether its classifier must be
    there. Raises ConfigError.
    """
    path = run.out / "report.json"
    if not path.is_file():
        return
    report = read_facts(path)
    # a run from before an option existed had what is now its default
    made = to_plain(type(run)(store=run.store, out=run.out)) | report["recipe"]
    known = report["weights_digest"]
    # a run without this digest is known by the path of its weights
    changes = changed_options(made, to_plain(run), MAY_DIFFER - ({"weights"} if known is None else set()))
    if not changes and report["data_fingerprint"] != fingerprint:
        changes = "the images, labels or split of its store were others"
    if not changes and known not in (None, weights):
        changes = f"the weights were others than {run.weights} holds now"
    if changes:
        raise ConfigError(
            f"{run.out} was made with other options or data: {changes}. Choose another --out, or delete that "
            "folder."
        )
    if bundle and not (run.out / "bundle").is_dir():
        raise ConfigError(
            f"{run.out} is finished and its classifier was not kept. Leave --bundles out, or delete that "
            "folder and the run is made again."
        )


class StudyRuns(Generic[C]):
    """Makes the runs of a study that are not finished, and reads the reports of all.

    make: makes one run. total: number of runs. keep_bundles: else a classifier is deleted once it is tested.
    """

    def __init__(self, make: Callable[[C], Path], total: int, keep_bundles: bool) -> None:
        self._make, self._total, self._keep_bundles = make, total, keep_bundles
        self._numbers: dict[Path, int] = {}

    def log_finished(self, study: LabelledConfig, runs: Sequence[LabelledConfig]) -> None:
        """How many of the runs of a continued study are finished."""
        finished = sum((run.out / "report.json").is_file() for run in runs)
        logger.info("%s: %d of %d runs are finished already.", study.out, finished, self._total)

    def report(self, run: C, description: str) -> Report:
        """The report of a run, which is made unless it is finished; an interrupted one starts again.

        description: of the run within the study. Raises whatever making it raises.
        """
        from evax.pages.run import write_run_page

        path = run.out / "report.json"
        number = self._numbers.setdefault(run.out, len(self._numbers) + 1)
        if not path.is_file():
            if run.out.exists():
                shutil.rmtree(run.out)
            logger.info("run %d of %d: %s", number, self._total, description)
            self._make(run)
            if not self._keep_bundles:
                shutil.rmtree(run.out / "bundle")
        elif not (run.out / "report.html").is_file():  # killed between the report and its page
            write_run_page(run.out)
        report: Report = read_json(path)
        return report


def seed_runs(study: C) -> list[C]:
    """The options of the study's single runs, or smaller studies, one per seed."""
    seeds: Sequence[int] = getattr(study, "seeds")  # noqa: B009  # not every LabelledConfig has them
    return [
        run_config(type(study), study, out=study.out / RUNS / f"seed-{seed}", seed=seed, **SINGLE)
        for seed in seeds
    ]


def save_seeds(
    study: LabelledConfig,
    asked: Precision,
    reports: Sequence[Report],
    rows: Sequence[Report],
    **protocol: str,
) -> Path:
    """Mean, sd and interval over the seeds, and their rows; returns the path of seeds.json.

    asked: see study_card. protocol: entries in place of those that all reports agree on.
    """
    same, first = agreed([report["protocol"] for report in reports]), reports[0]
    card = study_card(
        study, "seeds", first["data_fingerprint"], name=first.get("name", ""), leaks="leak" in same,
        asked=asked,
    )  # fmt: skip
    card["protocol"] |= same | {"spread": spread_in_words(len(rows), "seeds")} | protocol
    return save_study(study.out, {"seeds": card | summary_of(rows) | {"runs": list(rows)}})[0]


def save_study(out: Path, contents: Mapping[str, Report], log_result: bool = True) -> list[Path]:
    """NAME.json and NAME.csv of each result, figure and page; returns the paths of the JSON files.

    contents: name -> result, as write_study_page reads it.
    """
    from evax.pages.result_line import log_test_scores
    from evax.pages.study import write_study_page
    from evax.pages.study_figures import draw_study

    results = [out / f"{name}.json" for name in contents]
    for path, content in zip(results, contents.values(), strict=True):
        write_json(content, path)
        write_rows(run_rows(content), path.with_suffix(".csv"))
    draw_study(results)
    write_study_page(results)
    if log_result:
        log_test_scores(results)
    return results
