"""Every recipe of an experiment is read by its command and makes one real step on images of its release."""

import csv
import json
import math
import re
import shlex

import numpy as np
import pytest
from safetensors.numpy import load_file

from evax.adaptation.protocol import paper_entries
from evax.config import parse_command_line, recipe_path, shipped_recipes
from evax.data.building import build_store
from evax.data.sources import read_source
from evax.data.split import assign_splits
from evax.errors import ConfigError
from evax.findings import CHESTXRAY14, CHEXPERT5
from evax.jobs.finetune import FinetuneConfig, finetune
from evax.jobs.predict import predict
from evax.jobs.recipes import header, recipes
from evax.options.data import PrepareConfig
from evax.options.results import PredictConfig, RecipesConfig
from evax.options.studies import FewshotConfig
from releases import CHEXPERT_LABELS, film

EXPERIMENTS = [name for name in shipped_recipes() if name.startswith("finetune/")]
SHORT = [
    "--epochs", "0.01", "--warmup-epochs", "0", "--batch-size", "4", "--image-size", "32",
    "--resize-size", "36", "--weights", "None", "--precision", "fp32", "--compile", "off",
    "--resamples", "20", "--workers", "1",
]  # fmt: skip
CONFIGS = {"prepare": PrepareConfig, "finetune": FinetuneConfig, "fewshot": FewshotConfig}


def source_of(name):
    return name.removeprefix("finetune/").rsplit("-", 1)[0].replace("-vit", "").replace("-", "_")


def weights_of(name):
    """Recipes of the paper's baselines leave the weights to the user."""
    baseline = any(encoder in name for encoder in ("densenet121", "resnet50", "vit-small"))
    return ("--weights", "none") if baseline else ()


def parsed(name, *options):
    words = ["STORE", "--recipe", name, "--out", "RUN", *weights_of(name), *options]
    return parse_command_line(FinetuneConfig, words, "evax")


# --- small releases in the official layouts -----------------------------------------------------------


def chestxray14(raw):
    films = [f"{number:08d}_000.png" for number in range(24)]
    findings = [CHESTXRAY14[number % 14] + "|" + CHESTXRAY14[(5 * number + 3) % 14] for number in range(24)]
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    rows = [f"{name},{of},0,{n},50,F,PA" for n, (name, of) in enumerate(zip(films, findings, strict=True))]
    for seed, name in enumerate(films):
        film(raw / "images" / name, seed)
    (raw / "Data_Entry_2017.csv").write_text("\n".join([header, *rows]) + "\n")
    (raw / "train_val_list.txt").write_text("\n".join(films[:16]))
    (raw / "test_list.txt").write_text("\n".join(films[16:]))


def chexpert(raw):
    for split, count in (("train", 20), ("valid", 8)):
        lines = [f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT_LABELS}"]
        for number in range(count):
            path = f"{split}/patient{number + 100 * count:05d}/study1/view1_frontal.jpg"
            film(raw / path, number)
            marks = ["1.0", "0.0", "-1.0" if split == "train" else "0.0", ""]
            labels = ",".join(marks[(number + column) % 4] for column in range(14))
            lines.append(f"CheXpert-v1.0-small/{path},Male,60,Frontal,AP,{labels}")
        (raw / f"{split}.csv").write_text("\n".join(lines) + "\n")


def covidx(raw, lists, classes):
    for name, split, count in lists:
        lines = []
        for number in range(count):
            film(raw / split / f"{split}{number}.png", number)
            lines.append(f"{split}{number} {split}{number}.png {classes[number % len(classes)]} cohen")
        (raw / name).write_text("\n".join(lines) + "\n")


def covidx9a(raw):
    lists = [("train_COVIDx9A.txt", "train", 24), ("test_COVIDx9A.txt", "test", 9)]
    covidx(raw, lists, ["normal", "pneumonia", "COVID-19"])


def covidx_cxr4(raw):
    covidx(raw, [(f"{split}.txt", split, 8) for split in ("train", "val", "test")], ["negative", "positive"])


@pytest.fixture(scope="module")
def store_of(tmp_path_factory):
    """A function of a source: a store of its small release."""
    made = {}

    def store(source, validation=0.4):
        if (source, validation) not in made:
            folder = tmp_path_factory.mktemp(source)
            globals()[source](folder / "raw")
            manifest = assign_splits(read_source(source, folder / "raw", {}), validation, test=0.2, seed=0)
            build_store(manifest, folder / "store", size=40)
            made[source, validation] = folder / "store"
        return made[source, validation]

    return store


def run(name, store, out, *options):
    config = parse_command_line(
        FinetuneConfig, [str(store), "--recipe", name, "--out", str(out), *SHORT, *options], "evax finetune"
    )
    bundle = finetune(config)
    report = json.loads((out / "report.json").read_text())
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return config, bundle, report, log


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if "base" in name else []) for name in EXPERIMENTS],
)
def test_every_recipe_makes_one_step_on_images_of_its_release(name, store_of, tmp_path):
    config, bundle, report, log = run(name, store_of(source_of(name)), tmp_path / "run")
    steps = [line for line in log if line["event"] == "step"]
    assert len(steps) == report["steps"] == 1
    assert np.isfinite(steps[0]["loss"])
    assert steps[0]["lr"] == config.optimizer.lr
    assert report["protocol"]["name"] == "clean"
    card = json.loads((bundle / "card.json").read_text())
    assert card["encoder"] == config.encoder
    assert card["preprocess"]["resize_size"] == 36
    assert len(card["findings"]) == {"chestxray14": 14, "chexpert": 5, "covidx9a": 3}.get(source_of(name), 2)


def test_chexpert_learns_its_five_findings_in_the_paper_s_order(store_of, tmp_path):
    store = store_of("chexpert")
    _, soft, report, _ = run("finetune/chexpert-tiny", store, tmp_path / "run")
    assert tuple(row["name"] for row in report["test_metrics"]["findings"]) == CHEXPERT5
    assert report["protocol"]["uncertain_in_training"] == "smooth"
    assert report["protocol"]["uncertain"] == "ignore"  # of the images that choose and test
    _, hard, *_ = run("finetune/chexpert-tiny", store, tmp_path / "b", "--train-uncertain", "ones")
    heads = [load_file(bundle / "model.safetensors")["head.weight"] for bundle in (soft, hard)]
    assert (heads[0] != heads[1]).any()


# --- protocol paper ------------------------------------------------------------------------------------


def test_the_paper_s_protocol_chooses_on_test_and_says_so_everywhere(store_of, tmp_path, caplog):
    """A softmax task without validation images, as the released script trains on all others."""
    out = tmp_path / "run"
    options = ["--protocol", "paper", "--epochs", "0.5", "--validate-every", "1"]
    options += ["--encoder", "eva_x_tiny_patch16_224"]
    store = store_of("covidx9a", validation=0.0)
    with pytest.raises(Exception, match="has no val images"):
        run("finetune/covidx9a-small", store, tmp_path / "clean", *options, "--protocol", "clean")
    _, bundle, report, log = run("finetune/covidx9a-small", store, out, *options)

    looks = [line for line in log if line["event"] == "test"]
    assert not [line for line in log if line["event"] == "validation"]
    assert len(looks) == report["paper_protocol"]["looks"] == 3
    best = max(looks, key=lambda line: line["mauc"])
    assert report["best_step"] == best["step"]
    assert report["test_metrics"]["mauc"]["value"] == pytest.approx(best["mauc"], abs=1e-6)
    assert report["paper_protocol"]["mauc"] == {"value": best["mauc"], "step": best["step"]}
    highest = max(line["top1"] for line in looks)  # of any look, not of the best mAUC
    assert report["paper_protocol"]["top1_macc"]["value"] == highest

    with (out / "predictions-test.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["protocol"] for row in table} == {"paper"}
    sums = [sum(float(row[key]) for key in row if key.startswith("probability:")) for row in table]
    assert max(abs(total - 1) for total in sums) > 0.05  # sigmoids, not a softmax

    protocol = report["protocol"]
    card = json.loads((bundle / "card.json").read_text())
    assert protocol["name"] == card["training"]["protocol"]["name"] == "paper"
    assert "optimistic" in protocol["warning"]
    assert set(card["thresholds"].values()) == {None}
    assert {key for key in protocol if key.startswith("quirk_")} == {
        "quirk_selection_on_test", "quirk_validation_unused", "quirk_sigmoid_scores",
        "quirk_top1_as_macc", "quirk_constant_lr", "quirk_new_final_norm",
        "quirk_positions_without_antialias", "quirk_central_crop",
    }  # fmt: skip

    film(tmp_path / "film.png")
    predict(PredictConfig(bundle=bundle, films=(tmp_path / "film.png",), out=tmp_path / "scores.csv"))
    assert "has optimistic test results: the test images chose the checkpoint" in caplog.text


def test_a_quirk_is_named_only_where_it_acted(store_of, tmp_path):
    options = ["--protocol", "paper", "--optimizer.schedule", "cosine"]
    _, _, report, _ = run("finetune/chexpert-tiny", store_of("chexpert"), tmp_path / "run", *options)
    quirks = {key for key in report["protocol"] if key.startswith("quirk_")}
    assert "quirk_guessed_labels" in quirks
    assert not quirks & {"quirk_sigmoid_scores", "quirk_constant_lr", "quirk_positions_without_antialias"}
    assert report["test_metrics"]["macc"]["value"] is None  # the released code has no thresholds
    assert "top1_macc" not in report["paper_protocol"]


# what the released script of each recipe does besides choosing on test and leaving validation unused
EVA_X = {"constant_lr", "new_final_norm"}
COVIDX = EVA_X | {"positions_without_antialias", "sigmoid_scores", "top1_as_macc"}
QUIRKS = {
    "chestxray14-tiny": EVA_X | {"central_crop"},
    "chestxray14-small": EVA_X | {"central_crop"},
    "chestxray14-base": EVA_X | {"central_crop"},
    "chexpert-tiny": EVA_X | {"guessed_labels"},  # 224 of 224 pixels
    "chexpert-small": EVA_X | {"guessed_labels", "central_crop"},
    "covidx9a-small": COVIDX,
    "covidx-cxr4-small": COVIDX,
    "chestxray14-densenet121": {"central_crop"},
    "chestxray14-resnet50": {"central_crop"},
    "chestxray14-vit-small": {"new_final_norm", "central_crop"},
}


def prepared_for_the_paper(name):
    """Share of the training images that validate, in the store that the head of a recipe asks for."""
    return 0.0 if "--validation 0" in " ".join(header(name)) else 0.4


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_recipe_makes_one_step_in_the_paper_s_protocol(name, store_of, tmp_path):
    store = store_of(source_of(name), prepared_for_the_paper(name))
    options = ["--protocol", "paper", "--precision", "fp16"]
    config, bundle, report, log = run(name, store, tmp_path / "run", *options)
    steps = [line for line in log if line["event"] == "step"]
    assert len(steps) == report["steps"] == report["best_step"] == 1
    of_chance = len(report["test_metrics"]["findings"]) if "covidx" in name else 2  # softmax, or sigmoids
    assert steps[0]["loss"] == pytest.approx(math.log(of_chance), abs=0.01)
    assert 0 < steps[0]["grad_norm"] < math.inf
    assert steps[0]["lr"] == config.optimizer.lr
    (look,) = [line for line in log if line["event"] == "test"]  # and none at validation images
    assert not [line for line in log if line["event"] == "validation"]
    assert report["paper_protocol"]["looks"] == 1
    assert report["paper_protocol"]["mauc"] == {"value": look["mauc"], "step": 1}
    assert report["test_metrics"]["mauc"]["value"] == pytest.approx(look["mauc"], abs=1e-6)
    assert report["trained_in"] == "fp16"
    assert (bundle / "model.safetensors").is_file()
    named = {key.removeprefix("quirk_") for key in report["protocol"] if key.startswith("quirk_")}
    # the images of this test are cut, whatever the recipe's are
    quirks = QUIRKS[name.removeprefix("finetune/")] | {"central_crop"}
    assert named == quirks | {"selection_on_test", "validation_unused"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_paper_s_protocol_of_every_recipe_names_its_quirks_one_by_one(name):
    config = parsed(name, "--protocol", "paper", "--precision", "fp16")
    entries = paper_entries(config, exclusive="covidx" in name)
    assert (entries["name"], entries["checkpoint_chosen_on"]) == ("paper", "test mAUC")
    named = {key.removeprefix("quirk_") for key in entries if key.startswith("quirk_")}
    assert named == QUIRKS[name.removeprefix("finetune/")] | {"selection_on_test", "validation_unused"}


def test_steps_beside_the_epochs_of_a_recipe_are_refused_and_may_take_their_place():
    with pytest.raises(ConfigError, match="Give steps, 500, or epochs, 45, not both"):
        parsed("finetune/chestxray14-tiny", "--steps", "500")
    instead = ["--steps", "500", "--epochs", "None", "--warmup-epochs", "None"]
    assert parsed("finetune/chestxray14-tiny", *instead).in_steps(75_312)[0] == 500


# --- the list ------------------------------------------------------------------------------------------


def test_there_is_a_recipe_for_every_classification_experiment_of_the_paper():
    assert {name.removeprefix("finetune/") for name in EXPERIMENTS} == {
        "chestxray14-tiny", "chestxray14-small", "chestxray14-base", "chexpert-tiny", "chexpert-small",
        "covidx9a-small", "covidx-cxr4-small", "chestxray14-densenet121", "chestxray14-resnet50",
        "chestxray14-vit-small",
    }  # fmt: skip


# facts 4.1: epochs, total batch, lr, schedule, warm-up epochs, layer decay (None: one rate), drop path, size
FACTS = {
    "chestxray14-tiny": (45, 1024, 1e-3, "constant", 5, 0.55, 0.2, 224),
    "chestxray14-small": (30, 1024, 1e-3, "constant", 5, 0.55, 0.2, 224),
    "chestxray14-base": (10, 512, 1e-3, "constant", 5, 0.55, 0.2, 224),
    "chexpert-tiny": (5, 1024, 1e-3, "constant", 0, 0.55, 0.2, 224),
    "chexpert-small": (3, 1024, 1e-3, "constant", 0, 0.55, 0.15, 224),
    "covidx9a-small": (10, 512, 1e-3, "constant", 1, 0.55, 0.2, 480),
    "covidx-cxr4-small": (10, 512, 1e-3, "constant", 1, 0.55, 0.2, 480),
    "chestxray14-densenet121": (75, 1024, 2.5e-4, "cosine", 5, None, 0.0, 224),
    "chestxray14-resnet50": (75, 1024, 2.5e-4, "cosine", 5, None, 0.0, 224),
    "chestxray14-vit-small": (75, 1024, 2.5e-4, "cosine", 5, 0.55, 0.2, 224),
}


# facts 4.1: train images of a pass, and after how many of them the test images are looked at
LOOKS = {
    "chestxray14": (75_312, 5),
    "chexpert": (191_027, 1 / 20),
    "covidx9a": (30_130, 1),
    "covidx_cxr4": (67_863, 1),
}
BASELINES = ("densenet121", "resnet50", "vit-small")  # looked at half as often


@pytest.mark.parametrize("name", FACTS)
def test_a_recipe_looks_and_starts_as_the_released_script(name):
    config = parsed(f"finetune/{name}")
    films, passes = LOOKS[source_of(f"finetune/{name}")]
    passes *= 2 if name.endswith(BASELINES) else 1
    assert config.validate_every == round(passes * films / config.batch_size)
    assert config.fc_norm == ("pretrained" if name.endswith(BASELINES[:2]) else "new")
    assert config.freeze_patch_embed == (name == "chexpert-tiny")
    assert config.train_uncertain == {"chexpert-tiny": "smooth", "chexpert-small": "mixed"}.get(name)
    assert config.position_antialias == ("covidx" not in name)
    assert (config.crop.aspect, config.crop.flip) == ((3 / 4, 4 / 3), 0.5)


@pytest.mark.parametrize("name", FACTS)
def test_a_recipe_holds_the_settings_of_the_released_script(name):
    config = parsed(f"finetune/{name}")
    optimizer = config.optimizer
    decay = FACTS[name][5] or config.layer_decay
    assert (
        config.epochs, config.batch_size, optimizer.lr, optimizer.schedule, config.warmup_epochs,
        config.layer_decay, config.drop_path, config.image_size,
    ) == (*FACTS[name][:5], decay, *FACTS[name][6:])  # fmt: skip
    assert (optimizer.betas, optimizer.eps, optimizer.weight_decay) == ((0.9, 0.999), 1e-8, 0.05)
    assert optimizer.clip_norm == 0
    assert optimizer.schedule == "constant" or optimizer.final_lr == 1e-5
    assert config.augmentation == ("randaugment" if "chestxray14" in name else "none")
    assert config.augmentation == "none" or config.crop.area == (0.08, 1.0)
    assert config.resize_size == {"chexpert-tiny": 224}.get(name, 480 if "covidx" in name else 256)
    assert (config.protocol, config.seed) == ("clean", 14 if name == "chexpert-small" else 0)


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_head_of_a_recipe_says_what_to_type_and_what_to_expect(name):
    lines = header(name)
    assert re.match(r"(torchrun .* -m )?evax \w+", lines[0])
    assert "/" not in name or f"--recipe {name}" in lines[0]
    if name in EXPERIMENTS:
        facts = dict(line.split(": ", 1) for line in lines if re.match(r"[a-z]+: ", line))
        assert {"store", "paper", "machine", "expected"} <= set(facts)
        assert any("not re-run here" in line for line in lines)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_commands_at_the_head_of_a_recipe_are_understood(name):
    text = " ".join(header(name))
    lists = re.search(r"STORE prepared with (--[^;]*?) machine:", text)
    commands = re.findall(r"evax (?:prepare|finetune|fewshot) [^:.;]*?--out [A-Z]+", text)
    assert commands
    for command in [*commands, *([f"{commands[1]} {lists[1]}"] if lists else [])]:
        _, job, *arguments = shlex.split(command)
        parse_command_line(CONFIGS[job], arguments, f"evax {job}")
    assert name in text


def test_recipes_are_listed_shown_and_found_by_name():
    listing = recipes(RecipesConfig())
    assert all(name in listing for name in shipped_recipes())
    assert {name.split("/")[0] for name in shipped_recipes()} == {
        "corpora", "demo", "demo_quick", "finetune", "pretrain", "segment", "tokenizers"
    }  # fmt: skip
    shown = recipes(RecipesConfig(name="finetune/chexpert-tiny"))
    assert shown == recipe_path("finetune/chexpert-tiny").read_text().rstrip()
    with pytest.raises(ConfigError, match="No recipe is called 'finetune/chexpert-tny'. Did you mean"):
        recipes(RecipesConfig(name="finetune/chexpert-tny"))
    with pytest.raises(ConfigError, match="Did you mean 'finetune/covidx9a-small'"):
        parsed("finetune/covidx9-small")


def test_a_file_goes_before_a_shipped_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("seed: 3\n")
    assert parsed("demo").seed == 3
