"""What all studies have in common: their options, what is kept when they are resumed, what is refused."""

from dataclasses import replace

import pytest

from evax.adaptation.study import check_finished_run, continue_study, make_once
from evax.config import to_plain, write_recipe
from evax.errors import ConfigError
from evax.files import read_json, write_json
from evax.jobs.crossvalidate import crossvalidate
from evax.jobs.fewshot import fewshot
from evax.jobs.finetune import FinetuneConfig
from evax.jobs.probe import probe
from evax.options.studies import CrossvalidateConfig, FewshotConfig, ProbeConfig
from evax.options.training import OptimizerConfig
from finished_runs import write_run

GROWS = ("fractions", "counts", "seeds")


@pytest.mark.parametrize(
    ("study", "config"),
    [
        (fewshot, FewshotConfig),
        (crossvalidate, CrossvalidateConfig),
        (probe, ProbeConfig),
        (probe, lambda **options: ProbeConfig(**options, fractions=(1.0,))),
    ],
)
def test_a_study_that_cannot_start_leaves_no_folder(study, config, phantom_store, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="called 'nothing'"):
        study(config(store=phantom_store, out=out, encoder="nothing", image_size=64, precision="fp32"))
    assert not out.exists()


@pytest.fixture
def begun(tmp_path):
    config = FewshotConfig(
        store=tmp_path / "store", out=tmp_path / "run", fractions=(0.5, 1.0), seeds=(0, 1), precision="fp32"
    )
    config.out.mkdir()
    write_recipe(config, config.out / "config.yaml")
    return replace(config, resume=True)


def test_a_resumed_study_has_its_earlier_values_and_the_new_ones(begun, caplog):
    caplog.set_level("INFO")
    asked = replace(begun, fractions=(0.3,), counts=(9,), seeds=(2, 1), precision="auto", bundles=True)
    whole = continue_study(asked, GROWS)
    assert (whole.fractions, whole.counts, whole.seeds) == ((0.5, 1.0, 0.3), (9,), (0, 1, 2))
    assert (whole.precision, whole.bundles) == ("fp32", True)
    assert "with --seeds 0 1 2." in caplog.text
    assert continue_study(begun, GROWS) == begun


def test_one_precision_is_decided_for_all_runs_and_kept_when_the_study_is_resumed(begun):
    asked = replace(begun, precision="auto")
    assert continue_study(replace(asked, resume=False)).precision in ("fp32", "bf16")
    write_recipe(replace(begun, precision="bf16"), begun.out / "config.yaml")
    assert continue_study(asked).precision == "bf16"


def test_other_options_are_refused_with_both_values(begun):
    changed = replace(begun, thresholds="f1", optimizer=replace(begun.optimizer, lr=0.1))
    with pytest.raises(
        ConfigError, match=r"--thresholds was youden, is f1; --optimizer\.lr was 0\.001, is 0\.1"
    ):
        continue_study(changed, GROWS)
    with pytest.raises(ConfigError, match="--lrs was not given, is 0.1 0.2"):
        continue_study(replace(begun, lrs=(0.1, 0.2)), GROWS)
    moved = replace(begun, store=begun.store.with_name("moved"), workers=1, name="other")
    assert continue_study(moved, GROWS) == moved


def test_a_single_run_is_not_resumed_as_a_study_of_seeds(tmp_path):
    single = FinetuneConfig(store=tmp_path / "store", out=tmp_path, optimizer=OptimizerConfig(lr=0.1))
    write_recipe(single, tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="holds a single run"):
        continue_study(replace(single, seeds=(0, 1), resume=True), ("seeds",))


def forget(run, *keys):
    """Deletes an entry of the run's report."""
    report = place = read_json(run.out / "report.json")
    for key in keys[:-1]:
        place = place[key]
    del place[keys[-1]]
    write_json(report, run.out / "report.json")


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


def test_the_classifier_of_a_finished_run_is_never_deleted(finished):
    (finished.out / "bundle").mkdir()
    (finished.out / "report.html").touch()

    def never(config):
        raise AssertionError(config)

    assert make_once(finished, never, keep_bundle=False)["kind"] == "finetune"
    assert (finished.out / "bundle").is_dir()


def test_a_finished_run_is_identified_by_the_content_of_its_weights(finished):
    moved = replace(finished, weights=finished.weights.with_name("moved"))
    for config in (finished, moved):
        check_finished_run(config, "ff", "aa", False)
        with pytest.raises(ConfigError, match=f"the weights were others than {config.weights} holds now"):
            check_finished_run(config, "ff", "bb", False)
    with pytest.raises(ConfigError, match=r"--weights was .*encoder, is not given"):
        check_finished_run(replace(finished, weights=None), "ff", None, False)
    forget(finished, "weights_digest")  # an evax of before kept none
    check_finished_run(finished, "ff", "bb", False)
    with pytest.raises(ConfigError, match=r"--weights was .*encoder, is .*moved"):
        check_finished_run(moved, "ff", "bb", False)


def test_a_finished_run_from_before_an_option_existed_had_its_default(finished):
    forget(finished, "recipe", "thresholds")
    check_finished_run(finished, "ff", "aa", False)
    with pytest.raises(ConfigError, match="--thresholds was youden, is f1"):
        check_finished_run(replace(finished, thresholds="f1"), "ff", "aa", False)
