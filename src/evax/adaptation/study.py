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

from evax.adaptation.protocol import CLEAN
from evax.config import (
    build,
    changed_options,
    command_line,
    read_recipe,
    shown_option,
    to_plain,
    write_recipe,
)
from evax.data.labelled import data_fingerprint
from evax.data.store import ImageStore
from evax.errors import ConfigError
from evax.evaluation.study_rows import RUNS, describe_spread, run_rows, summarize_runs, write_rows
from evax.files import read_json, write_json
from evax.options.adaptation import FinetuneConfig, LabelledConfig
from evax.options.studies import ProbeConfig
from evax.options.training import PLACES, Precision
from evax.runs.files import FORMAT, agreed, read_facts
from evax.runs.log import RunLog, run_folder

logger = logging.getLogger("evax")
C = TypeVar("C", bound=FinetuneConfig | ProbeConfig)
Report = dict[str, Any]

# of a finished run: images, labels and weights have digests, and the rest changes nothing that is learned
MAY_DIFFER = PLACES | {"workers", "name", "bundles", "resume"}
RESULTS = ("report.json", "crossvalidate.json")  # of a finished run, which may be a study itself
SINGLE: dict[str, Any] = {"seeds": (), "resume": False}  # options of a fine-tuning that is a single run


def continue_study(config: C, grows: Sequence[str] = ()) -> C:
    """The options of the whole study: if it is resumed, those its folder was begun with, and what is new.

    grows: options of several values. New values go behind those of before, so the first one stays first.
    The precision of all runs is decided once: the timing behind "auto" depends on the load of the machine.
    Raises ConfigError if the folder was begun with other options.
    """
    begun = config.out / "config.yaml"
    if not (config.resume and begun.is_file()):  # start_run raises if there is nothing to resume
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
def study_folder(study: FinetuneConfig | ProbeConfig) -> Iterator[RunLog]:
    """run_folder; config.yaml of a continued study becomes that of the whole study."""
    with run_folder(study.out, study, study.resume) as log:
        if study.resume:
            write_recipe(replace(study, resume=False), study.out / "config.yaml")
        yield log


def run_config(kind: type[C], study: LabelledConfig, **own: Any) -> C:
    """The options of one run: those of the study, except for its own."""
    return kind(**({item.name: getattr(study, item.name) for item in fields(kind)} | own))


def check_finished_runs(
    runs: Sequence[C], store: ImageStore, weights: str | None, bundle: bool = False
) -> None:
    """Before anything is trained: raises ConfigError as check_finished_run does, for any of the runs."""
    for run in runs:
        check_finished_run(run, data_fingerprint(store, run.split), weights, bundle)


def check_finished_run(run: LabelledConfig, fingerprint: str, weights: str | None, bundle: bool) -> None:
    """Raises ConfigError if the run is finished and was made with other options or data.

    fingerprint: see data_fingerprint. weights: see digest_of_weights. bundle: its classifier must be there.
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
    """The runs of a study, each of which is made once.

    runs: all that the study may need. report_of: returns the report of a run and makes the run unless it is
    finished. total: number of runs to make, if fewer than all.
    """

    def __init__(
        self,
        study: FinetuneConfig | ProbeConfig,
        runs: Sequence[C],
        report_of: Callable[[C], Report],
        total: int | None = None,
    ) -> None:
        self._report_of, self._total = report_of, total or len(runs)
        self._numbers: dict[Path, int] = {}
        if study.resume:
            finished = sum(map(run_is_finished, runs))
            logger.info("%s: %d of %d runs are finished already.", study.out, finished, self._total)

    def report(self, run: C, description: str) -> Report:
        """The report of a run. description: of the run within the study, for the log."""
        number = self._numbers.setdefault(run.out, len(self._numbers) + 1)
        if not run_is_finished(run):
            logger.info("run %d of %d: %s", number, self._total, description)
        return self._report_of(run)


def run_is_finished(run: LabelledConfig) -> bool:
    """Whether the run has its result."""
    return any((run.out / name).is_file() for name in RESULTS)


def make_once(run: C, make: Callable[[C], Path], keep_bundle: bool = True) -> Report:
    """The report of a run, which is made unless it is finished; an interrupted one starts again.

    keep_bundle: else the classifier of a run that is made here is deleted once it is tested.
    """
    from evax.pages.run import write_run_page

    path = run.out / "report.json"
    if not path.is_file():
        if run.out.exists():
            shutil.rmtree(run.out)
        make(run)
        if not keep_bundle:
            shutil.rmtree(run.out / "bundle")
    elif not (run.out / "report.html").is_file():  # killed between the report and its page
        write_run_page(run.out)
    report: Report = read_json(path)
    return report


def run_seeds(
    study: C,
    asked: Precision,
    *,
    check: Callable[[Sequence[C]], None],
    report_of: Callable[[C], Report],
    row_of: Callable[[Report], Report],
    **protocol: str,
) -> Path:
    """The same run, or smaller study, with each seed, OUT/runs/seed-*; returns the path of seeds.json.

    check: raises ConfigError before the first run is made, if finished runs do not fit. report_of: see
    StudyRuns. row_of: what is kept of a report. asked, protocol: see study_card.
    """
    runs = [
        run_config(type(study), study, out=study.out / RUNS / f"seed-{seed}", seed=seed, **SINGLE)
        for seed in study.seeds
    ]
    reports, rows = [], []
    with study_folder(study) as log:
        check(runs)
        making = StudyRuns(study, runs, report_of)
        for run in runs:
            reports.append(making.report(run, f"seed {run.seed}"))
            rows.append(row_of(reports[-1]))
            log.write("seed", seed=run.seed, mauc=rows[-1]["mauc"])
    protocol = {"spread": describe_spread(len(runs), "seeds")} | protocol
    card = study_card(study, "seeds", asked, reports, **protocol)
    return save_study(study.out, {"seeds": card | summarize_runs(rows) | {"runs": rows}})[0]


def study_card(
    study: FinetuneConfig | ProbeConfig,
    kind: str,
    asked: Precision,
    reports: Sequence[Report],
    **protocol: Any,
) -> Report:
    """What every number of a study must carry.

    asked: the precision that was asked for, as in the command; that of the study was decided for all runs.
    protocol: entries besides those that all reports agree on, or in place of them.
    """
    start = "/".join(study.weights.parts[-2:]) if study.weights else "random weights"
    return {
        "format": FORMAT,
        "kind": kind,
        "name": getattr(study, "name", "") or f"{study.encoder}, {start}",
        "encoder": study.encoder,
        "weights": str(study.weights) if study.weights else None,
        "data_fingerprint": reports[0]["data_fingerprint"],
        "protocol": CLEAN | agreed([report["protocol"] for report in reports]) | protocol,
        "recipe": to_plain(study),
        # command and config class share a name, whatever the kind of the study
        "command": command_line(
            type(study).__name__.removesuffix("Config").lower(),
            replace(study, precision=asked, resume=False),
        ),
    }


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
