"""What jobs of many runs share: each run is done once, in a folder of its own.

A study that goes on keeps all it had: seeds, shares and counts are added to, other options must be as before.
No job: it has no command, and takes the job that makes a run as an argument.
"""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evax.config import build, changed_options, read_recipe, shown_option, to_plain, write_recipe
from evax.errors import ConfigError, DataError
from evax.evaluation.study_rows import RUNS, spread_in_words, summary_of, write_rows
from evax.options.adaptation import AdaptingConfig, LabelledConfig
from evax.options.training import Precision

if TYPE_CHECKING:
    import numpy as np

    from evax.runs.log import RunLog

logger = logging.getLogger("evax")
C = TypeVar("C", bound=LabelledConfig)

MAY_DIFFER = {  # where things lie, and how fast; data and weights have digests, folds are compared by film
    "out", "store", "split", "weights", "table", "sources", "workers",
    "name", "bundles", "resume",  # of the call, not of what is learned
}  # fmt: skip
RESULTS = ("report.json", "crossvalidate.json")  # of a run, whichever it is
ALONE: dict[str, Any] = {"seeds": (), "resume": False}  # what makes a fine-tuning a single run


def refuse_at_once(config: LabelledConfig, resume: bool | None) -> None:
    """What is wrong with the call itself, said within seconds: before torch is imported and anything timed,
    fetched, encoded or learned.

    resume: see start_run. Raises ConfigError for a run folder in use, unknown findings and unknown names of
    weights, DataError for a store that is none or has no labels, WeightsError for weights that are not there.
    """
    from evax.data.labelled import known_labels, with_findings
    from evax.data.store import open_store
    from evax.runs.log import refuse_used_folder

    refuse_used_folder(config.out, config, resume)
    store = with_findings(open_store(config.store), config.findings)
    known_labels(store, config.uncertain, config.blank, config.uncertain_ones)
    refuse_absent_weights(config)
    if store.manifest.exclusive and config.thresholds != "youden":
        logger.warning(
            "--thresholds %s has no effect: every image of %s has exactly one class, and the most probable "
            "one is predicted.", config.thresholds, store.path,
        )  # fmt: skip


def refuse_absent_weights(config: AdaptingConfig) -> None:
    """Raises ConfigError for unknown names of weights and WeightsError for weights that are not there."""
    from evax.weights.resolve import is_packaged, refuse_absent

    if config.weights is not None and not is_packaged(config.encoder, config.weights):
        refuse_absent(config.encoder, config.weights)


def refuse_one_sided(findings: Sequence[str], labels: np.ndarray[Any, Any], where: str) -> None:
    """Before anything is begun: films on which no finding is both present and absent cannot choose.

    labels: (S, K), 1, 0 or NaN, of these films. where: their name. Raises DataError.
    """
    present, absent = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    if not ((present > 0) & (absent > 0)).any():
        counts = ", ".join(
            f"{name} {some} and {none}" for name, some, none in zip(findings, present, absent, strict=True)
        )
        raise DataError(
            f"No finding has both present and absent films in the {where}: {counts}. Use more data, another "
            "split, or findings that have both (--findings)."
        )


def refuse_untaught_class(findings: Sequence[str], labels: np.ndarray[Any, Any], where: str) -> None:
    """Before anything is begun: an exclusive class without training films makes every film of it an error.

    findings, labels: of a store of exclusive classes, and (S, K) of all its training films; a small share of
    them may miss a class by chance. where: their name. Raises DataError.
    """
    present = (labels > 0.5).sum(axis=0)
    if missing := [name for name, films in zip(findings, present, strict=True) if not films]:
        counts = ", ".join(f"{name} {films}" for name, films in zip(findings, present, strict=True))
        raise DataError(
            f"No film of the {where} is {' or '.join(missing)} ({counts}), so that class cannot be learned "
            "and every film of it would be answered wrongly. Give a split with films of every class "
            "(--split), or prepare a store without that class."
        )


def warn_of_untaught(findings: Sequence[str], labels: np.ndarray[Any, Any], where: str) -> None:
    """Names at once what cannot be learned from these films, and the option that leaves it out.

    labels: (S, K), of training films. where: their name.
    """
    from evax.evaluation.checks import one_sided

    if missing := one_sided(findings, labels):
        said = ", ".join(f"{name} is {word}" for name, word in missing.items())
        others = [name for name in findings if name not in missing]
        way_out = f"--findings {shlex.join(others)} leaves it out" if others else "Use other training films"
        logger.warning(
            "%s on every one of the %d %s: nothing can be learned of it, and its scores will mean nothing. "
            "%s.", said, len(labels), where, way_out,
        )  # fmt: skip


def continued(config: C, resume: bool, grows: Sequence[str] = ()) -> C:
    """The config of the whole study: when it goes on, what its folder was begun with and what is new.

    grows: options of several values; new ones are put behind those of before, so what was first stays first.
    The precision of all runs is decided once: the timing behind "auto" depends on the machine's load.
    Raises ConfigError when the folder was begun with other options.
    """
    from evax.runs.device import bf16_is_faster

    begun = config.out / "config.yaml"
    if not (resume and begun.is_file()):  # without the file, start_run says that there is nothing to resume
        auto = config.precision == "auto"
        return replace(config, precision="bf16" if bf16_is_faster() else "fp32") if auto else config
    before = build(type(config), read_recipe(begun, type(config)), str(begun))
    if config.precision == "auto":
        config = replace(config, precision=before.precision)
    if grows and not any(getattr(before, name) for name in grows):
        raise ConfigError(f"{config.out} holds a single run, no study to go on with. Choose another --out.")
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
            logger.info("%s goes on with --%s %s.", config.out, name, shown_option(values))
    return replace(config, **whole)


@contextmanager
def study_folder(config: LabelledConfig, resume: bool) -> Iterator[RunLog]:
    """run_folder; the config.yaml of a study that goes on is that of the whole study."""
    from evax.runs.log import run_folder

    kept: dict[str, Any] = {"resume": False}  # a recipe that starts the study again
    with run_folder(config.out, config, resume) as log:
        if resume:
            write_recipe(replace(config, **kept), config.out / "config.yaml")
        yield log


def run_of(kind: type[C], study: LabelledConfig, **own: Any) -> C:
    """The config of one run: the options of the study, but for its own."""
    return kind(**({item.name: getattr(study, item.name) for item in fields(kind)} | own))


def refuse_other_run(run: LabelledConfig, fingerprint: str, weights: str | None, needs_bundle: bool) -> None:
    """Before anything is trained: a run that is finished must be the one that is asked for.

    fingerprint: see data_fingerprint. weights: see digest_of_weights. needs_bundle: its classifier must have
    been kept.
    Raises ConfigError when the run was made with other options or data, or kept no classifier.
    """
    from evax.runs.files import read_facts

    path = run.out / "report.json"
    if not path.is_file():
        return
    report = read_facts(path)
    # a run made before an option existed had what is now its default
    made = to_plain(type(run)(store=run.store, out=run.out)) | report["recipe"]
    known = report["weights_digest"]
    # an evax that kept no digest knew weights by their path
    changes = changed_options(made, to_plain(run), MAY_DIFFER - ({"weights"} if known is None else set()))
    if not changes and report["data_fingerprint"] != fingerprint:
        changes = "the films, labels or split of its store were others"
    if not changes and known not in (None, weights):
        changes = f"the weights were others than {run.weights} holds now"
    if changes:
        raise ConfigError(
            f"{run.out} was made otherwise: {changes}. Choose another --out, or delete that folder."
        )
    if needs_bundle and not (run.out / "bundle").is_dir():
        raise ConfigError(
            f"{run.out} is finished and its classifier was not kept. Leave --bundles out, or delete that "
            "folder and the run is made again."
        )


def tell_finished(out: Path, finished: int, total: int) -> None:
    """How many runs of a study that goes on are there."""
    logger.info("%s: %d of %d runs are finished already.", out, finished, total)


def finished_of(runs: Sequence[LabelledConfig]) -> int:
    """How many of these runs have their report."""
    return sum((run.out / "report.json").is_file() for run in runs)


def report_of(run: C, job: Callable[[C], Path], keep_bundle: bool, place: str = "") -> dict[str, Any]:
    """The report of one run, which is made unless it is there; an interrupted run starts anew.

    place: which run of the study it is, for the terminal. keep_bundle: else the classifier of a run that is
    made here is deleted once it is tested.
    Raises whatever the job raises.
    """
    from evax.files import read_json
    from evax.pages.run import write_run_page

    path = run.out / "report.json"
    if not path.is_file():
        if run.out.exists():
            shutil.rmtree(run.out)
        if place:
            logger.info("%s", place)
        job(run)
        if not keep_bundle:
            shutil.rmtree(run.out / "bundle")
    elif not (run.out / "report.html").is_file():  # killed between the report and its page
        write_run_page(run.out)
    report: dict[str, Any] = read_json(path)
    return report


def over_seeds(
    config: C,
    seeds: Sequence[int],
    resume: bool,
    *,
    asked: Precision,
    refuse: Callable[[C], None],
    made: Callable[[C], dict[str, Any]],
    row: Callable[[dict[str, Any]], dict[str, Any]],
    **protocol: str,
) -> Path:
    """The same run, or study, with each seed, OUT/runs/seed-*; returns the path of OUT/seeds.json.

    config, seeds: of the whole study, see continued. asked: the precision that was asked for. refuse: called
    for all before anything is made; raises
    ConfigError when a finished run was made otherwise. made: the report of one, which is made unless it is
    there. row: what is kept of a report. protocol: entries in place of those that all reports agree on.
    """
    from evax.adaptation.protocol import study_card
    from evax.files import write_json
    from evax.pages.result_line import tell_result
    from evax.pages.study import write_study_page
    from evax.runs.files import agreed

    runs = [
        run_of(type(config), config, out=config.out / RUNS / f"seed-{seed}", seed=seed, **ALONE)
        for seed in seeds
    ]
    reports, rows = [], []
    with study_folder(config, resume) as log:
        for run in runs:
            refuse(run)
        finished = {run.seed for run in runs for name in RESULTS if (run.out / name).is_file()}
        if resume:
            tell_finished(config.out, len(finished), len(runs))
        for number, run in enumerate(runs, start=1):
            if run.seed not in finished:
                logger.info("run %d of %d: seed %d", number, len(runs), run.seed)
            reports.append(made(run))
            rows.append(row(reports[-1]))
            log.write("seed", seed=run.seed, mauc=rows[-1]["mauc"])
    same, first = agreed([report["protocol"] for report in reports]), reports[0]
    card = study_card(
        config, "seeds", first["data_fingerprint"], name=first.get("name", ""), leaks="leak" in same,
        asked=asked,
    )  # fmt: skip
    card["protocol"] |= same | {"spread": spread_in_words(len(seeds), "seeds")} | protocol
    write_json(card | summary_of(rows) | {"runs": rows}, config.out / "seeds.json")
    write_rows(rows, config.out / "seeds.csv")
    write_study_page([config.out / "seeds.json"])
    tell_result([config.out / "seeds.json"])
    return config.out / "seeds.json"
