"""What a study that goes on keeps, and what it refuses, without a training."""

from dataclasses import replace

import pytest

from evax.adaptation.study import StudyRuns, check_finished_run, continue_study
from evax.config import to_plain, write_recipe
from evax.errors import ConfigError
from evax.files import read_json, write_json
from evax.jobs.finetune import FinetuneConfig
from evax.options.studies import FewshotConfig
from evax.options.training import OptimizerConfig
from finished_runs import write_run

GROWS = ("fractions", "counts", "seeds")


@pytest.fixture
def begun(tmp_path):
    config = FewshotConfig(
        store=tmp_path / "store", out=tmp_path / "run", fractions=(0.5, 1.0), seeds=(0, 1), precision="fp32"
    )
    config.out.mkdir()
    write_recipe(config, config.out / "config.yaml")
    return replace(config, resume=True)


def test_a_study_has_what_it_was_begun_with_and_what_is_asked_for_besides(begun, caplog):
    caplog.set_level("INFO")
    asked = replace(begun, fractions=(0.3,), counts=(9,), seeds=(2, 1), precision="auto", bundles=True)
    whole = continue_study(asked, True, GROWS)
    assert (whole.fractions, whole.counts, whole.seeds) == ((0.5, 1.0, 0.3), (9,), (0, 1, 2))
    assert (whole.precision, whole.bundles) == ("fp32", True)
    assert "continues with --seeds 0 1 2." in caplog.text
    assert continue_study(begun, True, GROWS) == begun


def test_other_options_are_refused_with_both_values_before_anything_is_trained(begun):
    changed = replace(begun, thresholds="f1", optimizer=replace(begun.optimizer, lr=0.1))
    with pytest.raises(
        ConfigError, match=r"--thresholds was youden, is f1; --optimizer\.lr was 0\.001, is 0\.1"
    ):
        continue_study(changed, True, GROWS)
    with pytest.raises(ConfigError, match="--lrs was not given, is 0.1 0.2"):
        continue_study(replace(begun, lrs=(0.1, 0.2)), True, GROWS)
    moved = replace(begun, store=begun.store.with_name("moved"), workers=1, name="other")
    assert continue_study(moved, True, GROWS) == moved


def test_a_single_run_is_not_taken_for_a_study_of_seeds(tmp_path):
    single = FinetuneConfig(store=tmp_path / "store", out=tmp_path, optimizer=OptimizerConfig(lr=0.1))
    write_recipe(single, tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="holds a single run, not a study to continue"):
        continue_study(replace(single, seeds=(0, 1), resume=True), True, ("seeds",))


def test_the_classifier_of_a_finished_run_is_never_deleted(tmp_path):
    run = FinetuneConfig(store=tmp_path / "store", out=write_run(tmp_path / "run", 1.0))
    (run.out / "bundle").mkdir()
    (run.out / "report.html").touch()

    def never(config):
        raise AssertionError(config)

    assert StudyRuns(never, 1, keep_bundles=False).report(run, "")["kind"] == "finetune"
    assert (run.out / "bundle").is_dir()


@pytest.fixture
def finished(tmp_path):
    """A finished run that started from weights with the digest "aa", and the config that made it."""
    out = write_run(tmp_path / "run", 1.0)
    report = read_json(out / "report.json")
    config = FinetuneConfig(store=tmp_path / "store", out=out, weights=tmp_path / "encoder")
    recipe = to_plain(config)
    write_json(
        report | {"recipe": recipe, "data_fingerprint": "ff", "weights_digest": "aa"}, out / "report.json"
    )
    return config


def test_a_run_knows_the_weights_it_started_from_wherever_they_lie(finished):
    moved = replace(finished, weights=finished.weights.with_name("moved"))
    for config in (finished, moved):
        check_finished_run(config, "ff", "aa", bundle=False)
        with pytest.raises(ConfigError, match=f"the weights were others than {config.weights} holds now"):
            check_finished_run(config, "ff", "bb", bundle=False)
    with pytest.raises(ConfigError, match=r"--weights was .*encoder, is not given"):
        check_finished_run(replace(finished, weights=None), "ff", None, bundle=False)


def test_a_run_of_an_evax_that_kept_no_digest_knows_its_weights_by_their_path(finished):
    path = finished.out / "report.json"
    report = read_json(path)
    del report["weights_digest"]
    write_json(report, path)
    check_finished_run(finished, "ff", "bb", bundle=False)
    with pytest.raises(ConfigError, match=r"--weights was .*encoder, is .*moved"):
        check_finished_run(
            replace(finished, weights=finished.weights.with_name("moved")), "ff", "bb", bundle=False
        )
