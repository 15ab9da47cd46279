"""The whole journey through the real command line, on a few phantoms."""

import html
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import evax
from evax.config import RECIPES, command_line, read_recipe
from evax.data.phantom import FINDINGS
from evax.jobs.demo import steps_of
from evax.options.results import DemoConfig

RECIPE, OF_TESTS = RECIPES / "demo_quick.yaml", Path(__file__).parents[1] / "recipes"


def evax_command(*arguments, cwd):
    command = [sys.executable, "-c", "import evax.cli; evax.cli.main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    folder = tmp_path_factory.mktemp("journey")
    done = evax_command("demo", "--recipe", "demo_quick", "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_demo_prints_the_path_of_one_self_contained_page(journey):
    folder, done = journey
    assert done.stdout.strip() == "run/report.html"
    page = (folder / "run/report.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"']?https?:", page)
    for finding in FINDINGS:
        assert finding in page


def test_the_page_shows_the_commands_that_repeat_each_step_and_they_do(journey):
    folder, _ = journey
    run = json.loads((folder / "run/run.json").read_text())
    assert [step["kind"] for step in run["steps"]] == [
        "fetch",
        "store",
        "pretrain",
        "finetune",
        "localize",
        "predict",
    ]
    *_, pretrain, finetune, _, _ = run["steps"]
    report = json.loads((folder / "run" / pretrain["folder"] / "report.json").read_text())
    assert pretrain["seconds"] == report["seconds"]  # of all parts, where it was resumed
    program, *arguments = shlex.split(finetune["command"])
    assert program == "evax"
    arguments[arguments.index("--out") + 1] = "again"
    done = evax_command(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    first, again = (
        json.loads((folder / name / "report.json").read_text()) for name in ("run/finetune", "again")
    )
    assert first["test_metrics"] == again["test_metrics"]


def test_the_bundle_predicts_dicom_and_png_films_and_draws_maps(journey):
    folder, _ = journey
    films = sorted((folder / "run/raw/phantoms/images").iterdir())
    assert {film.suffix for film in films} == {".dcm", ".png"}
    table = (folder / "run/predictions.csv").read_text().splitlines()
    assert len(table) == len(films) + 1
    assert table[0].startswith("file," + ",".join(FINDINGS))


def test_a_finished_demo_is_not_run_again_and_can_be_resumed(journey):
    folder, _ = journey
    done = evax_command("demo", "--recipe", "demo_quick", "--out", "run", cwd=folder)
    assert done.returncode == 1
    assert "run exists" in done.stderr
    before = (folder / "run/pretrain/log.jsonl").read_text()
    again = ["demo", "--recipe", "demo_quick", "--out", "run", "--resume", "--title", "Another title"]
    assert evax_command(*again, cwd=folder).returncode == 0
    assert "Another title" in (folder / "run/report.html").read_text()
    assert (folder / "run/pretrain/log.jsonl").read_text() == before


def test_every_step_of_a_journey_writes_into_the_run_folder_and_none_over_a_finished_one(journey, tmp_path):
    folder, _ = journey
    recipe = tmp_path / "outside.yaml"
    recipe.write_text(f"prepare: {{films: {{raw: films, out: {tmp_path / 'elsewhere'}}}}}")
    done = evax_command("demo", "--recipe", str(recipe), "--out", str(tmp_path / "run"), cwd=folder)
    assert done.returncode == 1
    assert "prepare.films.out is" in done.stderr
    assert "it must start with RUN/" in done.stderr
    changed = RECIPE.read_text().replace("steps: 10", "steps: 11")
    recipe.write_text(changed)
    done = evax_command("demo", "--recipe", str(recipe), "--out", "run", "--resume", cwd=folder)
    assert done.returncode == 1
    assert "finetune.phantoms was finished in run/finetune with other options" in done.stderr


def test_a_finished_run_s_config_is_a_recipe(journey):
    folder, _ = journey
    done = evax_command(
        "finetune", "--recipe", "run/finetune/config.yaml", "--out", "from-config", "--steps", "2", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((folder / "from-config/config.yaml").read_text())["steps"] == 2


def test_every_step_that_learns_or_scores_has_a_page_of_its_own_and_checks_reach_the_terminal(journey):
    folder, done = journey
    for step, section in (
        ("pretrain", "pretraining"),
        ("finetune", "subgroups"),
        ("localize", "localisation"),
    ):
        assert f'id="{section}"' in (folder / "run" / step / "report.html").read_text()
    checks = json.loads((folder / "run/finetune/report.json").read_text())["checks"]
    failed = [check["message"] for check in checks if not check["passed"]]
    assert any("Fewer than 10 patients" in message for message in failed)  # of 40 films
    page = html.unescape((folder / "run/report.html").read_text())
    assert all(f"CHECK: {message}" in done.stderr and message in page for message in failed)
    table = (folder / "run/finetune/suspicious.csv").read_text()
    assert table.startswith("film_row,split,finding,label,score")


def test_no_patient_identifier_is_in_the_report(journey):
    folder, _ = journey
    pages = [folder / "run/report.html", *(folder / "run").glob("*/report.html")]
    page = "".join(path.read_text() for path in pages)
    for film in (folder / "run/raw/phantoms/images").iterdir():  # named after their patients
        assert film.stem not in page
    assert not re.search(r"PH\d{5}", page)


@pytest.mark.parametrize(
    "path", [*RECIPES.glob("*.yaml"), *OF_TESTS.glob("*.yaml")], ids=lambda path: path.stem
)
def test_every_recipe_is_understood(path):
    config = DemoConfig(out=Path("run"), **read_recipe(path, DemoConfig))
    assert [command_line(kind, step) for kind, _, step in steps_of(config)]
    assert "RUN" not in " ".join(command_line(kind, step) for kind, _, step in steps_of(config))
    assert evax.DemoConfig is DemoConfig
