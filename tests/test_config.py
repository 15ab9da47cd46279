from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import evax
from evax.config import build, command_line, parse_command_line, read_recipe, to_plain, write_recipe
from evax.data.augment import CropConfig
from evax.errors import ConfigError
from evax.jobs.finetune import FinetuneConfig
from evax.jobs.pretrain import PretrainConfig
from evax.options.results import DemoConfig
from evax.options.studies import CrossvalidateConfig, FewshotConfig


def parse(config_class, *arguments):
    return parse_command_line(config_class, list(arguments), "evax test")


def recipe(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_range_of_seeds_is_spelled_out_and_nothing_else_is():
    def seeds_of(*words):
        return parse_command_line(FewshotConfig, ["s", "--out", "o", *words], "evax fewshot").seeds

    assert seeds_of("--seeds", "0-4") == (0, 1, 2, 3, 4)
    assert seeds_of("--seeds", "7", "1-2", "--name", "3-4") == (7, 1, 2)
    assert parse_command_line(FewshotConfig, ["0-4", "--out", "1-2"], "evax fewshot").store == Path("0-4")
    for slip in ("4-0", "0-999999999", "nonsense"):
        with pytest.raises(ConfigError, match=f"takes whole numbers, as 0 1 2, or a range.*got '{slip}'"):
            seeds_of("--seeds", slip)


@pytest.mark.parametrize(
    ("config_class", "words", "sentence"),
    [
        (CrossvalidateConfig, "--protocol paper", "clean protocol only.*give --by film"),
        (CrossvalidateConfig, "--split-by film", "give folds or by"),
        (FewshotConfig, "--label-fraction 0.5", "give fractions, counts and seeds"),
        (FewshotConfig, "--seed 3", "give fractions, counts and seeds"),
    ],
)
def test_an_option_that_a_command_sets_itself_is_refused_with_what_to_give_instead(
    config_class, words, sentence
):
    with pytest.raises(ConfigError, match=sentence):
        parse(config_class, "store", "--out", "run", *words.split())


def test_the_command_line_beats_the_recipe_and_the_recipe_beats_the_defaults(tmp_path):
    path = recipe(tmp_path, "stores: [a]\nmask_ratio: 0.4\nseed: 3\noptimizer: {lr: 0.01}\n")
    config = parse(PretrainConfig, "--recipe", str(path), "--out", "run", "--seed", "7")
    assert (config.mask_ratio, config.seed, config.batch_size) == (0.4, 7, 128)
    assert config.stores == (Path("a"),)
    assert config.optimizer.lr == 0.01


def test_a_recipe_that_sets_one_nested_option_keeps_the_command_s_other_defaults(tmp_path):
    path = recipe(tmp_path, "store: s\nout: o\noptimizer: {lr: 0.01}\n")
    assert parse(FinetuneConfig, f"--recipe={path}").optimizer.betas == (
        0.9,
        0.999,
    )  # pretrain's are (0.9, 0.98)


def test_an_entry_of_a_journey_that_sets_one_nested_option_keeps_the_command_s_other_defaults(tmp_path):
    path = recipe(tmp_path, "finetune: {a: {store: s, out: o, optimizer: {lr: 0.01}}}")
    optimizer = read_recipe(path, DemoConfig)["finetune"]["a"].optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.clip_norm) == (0.01, (0.9, 0.999), 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "stores: [a]\nmask_ration: 0.3",
            r"No option of this recipe is called 'mask_ration'. Did you mean 'mask_ratio'\?",
        ),
        (
            "optimizer: {weight_decy: 0}",
            r"No option of optimizer is called 'weight_decy'. Did you mean 'weight_decay'\?",
        ),
        ("optimizer: 3", "optimizer must be a table of options, got 3"),
        ("mask_ratio: lots", "mask_ratio = 'lots' is not valid"),
        ("[1, 2]", "must be a table of options, got list"),
        ("a: [", "is not valid YAML"),
        ("stores: ['${EVAX_NO_SUCH_NAME}']", "is not set: export EVAX_NO_SUCH_NAME"),
    ],
)
def test_a_faulty_recipe_is_refused_with_the_key_and_the_nearest_name(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(recipe(tmp_path, text), PretrainConfig)
    assert "recipe.yaml" in str(caught.value)


def test_an_unknown_key_is_refused_at_any_depth_of_a_journey(tmp_path):
    text = "finetune: {a: {store: s, out: o, optimizer: {lrate: 1}}}"
    with pytest.raises(ConfigError, match=r"No option of finetune.a.optimizer is called 'lrate'"):
        read_recipe(recipe(tmp_path, text), DemoConfig)
    with pytest.raises(ConfigError, match=r"finetune.a lacks out"):
        read_recipe(recipe(tmp_path, "finetune: {a: {store: s}}"), DemoConfig)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.yaml cannot be read: No such file"):
        read_recipe(tmp_path / "absent.yaml", PretrainConfig)


def test_values_out_of_range_are_refused_once_recipe_and_command_line_are_merged(tmp_path):
    path = recipe(tmp_path, "stores: [a]\nout: b\nmask_ratio: 7\n")
    with pytest.raises(ConfigError, match="mask_ratio must lie between 0 and 1, got 7"):
        parse(PretrainConfig, "--recipe", str(path))
    assert parse(PretrainConfig, "--recipe", str(path), "--mask-ratio", "0.5").mask_ratio == 0.5


def test_the_environment_fills_places_in_a_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAX_FILMS", "/films")
    path = recipe(tmp_path, "stores: ['${EVAX_FILMS}/a', '${EVAX_OTHER:-/elsewhere}/b']\nout: o")
    assert parse(PretrainConfig, "--recipe", str(path)).stores == (Path("/films/a"), Path("/elsewhere/b"))


def test_a_written_config_is_a_recipe_of_the_same_command(tmp_path):
    config = PretrainConfig(stores=(Path("a"), Path("b")), out=Path("o"), probe_store=Path("p"), epochs=2.5)
    write_recipe(config, tmp_path / "config.yaml")
    assert parse(PretrainConfig, "--recipe", str(tmp_path / "config.yaml")) == config
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == to_plain(config)


@pytest.mark.parametrize(
    "config",
    [
        PretrainConfig(stores=(Path("a b"), Path("c")), out=Path("o"), resume=True, precision="fp32"),
        FinetuneConfig(store=Path("s"), out=Path("o"), weights=Path("w"), label_fraction=0.01),
    ],
)
def test_the_printed_command_repeats_the_config(config):
    import shlex

    program, command, *arguments = shlex.split(command_line("job", config))
    assert (program, command) == ("evax", "job")
    assert parse(type(config), *arguments) == config


@dataclass(frozen=True, kw_only=True)
class Nested:
    lr: float = 1.0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Whole:
    out: Path
    nested: Nested = field(default_factory=lambda: Nested(lr=2.0))


def test_a_command_shows_only_what_differs_from_the_defaults():
    assert command_line("x", Whole(out=Path("o"))) == "evax x --out o"
    changed = Whole(out=Path("o"), nested=Nested(lr=2.0, names=("a", "b c")))
    assert command_line("x", changed) == "evax x --out o --nested.names a 'b c'"


EVERY_CONFIG = {  # with options that it cannot do without
    "AuditConfig": {"stores": ("a", "b"), "out": "o"},
    "CompareConfig": {"runs": ("a", "b"), "out": "o"},
    "CrossvalidateConfig": {"store": "s", "out": "o", "folds": 3},
    "DemoConfig": {"out": "o"},
    "DescribeConfig": {"stores": ["a"], "out": "o"},
    "EmbedConfig": {"films": ("png50",), "out": "f.parquet", "bundle": "b"},
    "ExportConfig": {"bundle": "b"},
    "FetchConfig": {"name": "phantoms", "out": "o"},
    "FewshotConfig": {"store": "s", "out": "o"},
    "FinetuneConfig": {"store": "s", "out": "o"},
    "LocalizeConfig": {"bundle": "b", "store": "s", "out": "o"},
    "PredictConfig": {"bundle": "b", "films": ["f"], "out": "o"},
    "PrepareConfig": {"source": "csv", "raw": "r", "out": "o"},
    "PretrainConfig": {"stores": ["a"], "out": "o"},
    "ProbeConfig": {"store": "s", "out": "o"},
    "RecipesConfig": {},
    "SegmentConfig": {"store": "s", "out": "o"},
    "ZooConfig": {"action": "list"},
}
every_config = pytest.mark.parametrize("name", EVERY_CONFIG)


TINY = "eva_x_tiny_patch16_224"
MASK_VALUE = "mask_value is a number from 0 to 65535, or three for red"
OF_A_SWEEP = "seeds and name are those of a sweep: give fractions or counts"
SENSELESS = [
    ("AuditConfig", {"stores": ()}, "audit needs stores"),
    ("AuditConfig", {"pictures": -1}, "pictures must be at least 0"),
    ("CompareConfig", {"runs": ()}, "compare needs runs"),
    ("CompareConfig", {"prevalence": 2.0}, r"prevalence is a share of the patients in \[0, 1\], got 2.0"),
    ("CompareConfig", {"resamples": 0}, "resamples must be at least 1"),
    ("CompareConfig", {"repeats": -1}, "repeats must be at least 0"),
    ("CompareConfig", {"threads": 0}, "threads must be at least 1"),
    ("CrossvalidateConfig", {"folds": 1}, "folds must be at least 2"),
    ("CrossvalidateConfig", {"validation": 1.0}, "validation is a share in"),
    ("CrossvalidateConfig", {"protocol": "paper"}, "leave protocol out. For the paper's folds .* --by film"),
    ("CrossvalidateConfig", {"table": "sites.csv"}, "give --by, as --by site"),
    ("CrossvalidateConfig", {"by": "site"}, "No way to divide images is called 'site'.* --table sites.csv"),
    ("CrossvalidateConfig", {"by": "split"}, "Known: film, patient, sex, view"),
    ("CrossvalidateConfig", {"seeds": (1, 1)}, "seeds must be different values"),
    ("CrossvalidateConfig", {"seeds": (1, 2), "seed": 3}, "seeds take the place of seed, which is 3"),
    ("CrossvalidateConfig", {"split": "s.csv"}, "makes its own splits"),
    ("CrossvalidateConfig", {"label_count": 3, "label_fraction": 0.5}, "Give label_count, 3, or "),
    ("DescribeConfig", {"stores": ()}, "describe needs stores: evax describe STORE"),
    ("EmbedConfig", {"films": ()}, "embed needs images"),
    ("EmbedConfig", {"encoder": TINY}, "Give either bundle"),
    ("EmbedConfig", {"bundle": None, "encoder": TINY}, "Give either bundle"),
    ("EmbedConfig", {"image_size": 50}, "multiple of 16"),
    ("EmbedConfig", {"batch_size": 0}, "batch_size must be above 0"),
    ("ExportConfig", {"most_films": 0}, "most_films must be above 0, got 0"),
    ("ExportConfig", {"runtimes": ()}, "runtimes must name at least one"),
    ("FetchConfig", {"out": None}, "fetch phantoms needs --out, the folder to fill"),
    ("FetchConfig", {"name": "shenzhen", "out": None}, "fetch shenzhen needs --out, the folder to fill"),
    (
        "FetchConfig", {"name": "shenzhen", "films": 3, "seed": 1},
        "fetch shenzhen does not take films, seed: phantoms do",
    ),
    ("FewshotConfig", {"fractions": (0.0, 1.0)}, "fractions must lie in"),
    ("FewshotConfig", {"fractions": (0.1, 0.1)}, "fractions must be different values"),
    ("FewshotConfig", {"counts": (0, 5)}, "counts must be above 0"),
    ("FewshotConfig", {"label_count": 5}, "give fractions, counts and seeds"),
    ("FewshotConfig", {"label_fraction": 0.5}, "give fractions, counts and seeds"),
    ("FewshotConfig", {"seed": 2}, "give fractions, counts and seeds"),
    ("FewshotConfig", {"seeds": (1, 1)}, "seeds must be different values"),
    ("FewshotConfig", {"lrs": (0.0,)}, "lrs must be above 0"),
    ("FewshotConfig", {"validation_cap": 0}, "validation_cap must be above 0"),
    ("FewshotConfig", {"protocol": "paper"}, "fewshot has the clean protocol only"),
    ("FinetuneConfig", {"label_fraction": 0.0}, "label_fraction must lie in"),
    ("FinetuneConfig", {"drop_path": 1.0}, "drop_path must lie in"),
    ("FinetuneConfig", {"steps": 0}, "steps must be above 0"),
    ("FinetuneConfig", {"seeds": (1, 1)}, "seeds must be different values"),
    ("FinetuneConfig", {"seeds": (1, 2), "seed": 3}, "seeds take the place of seed, which is 3"),
    ("FinetuneConfig", {"label_count": 0}, "label_count must be above 0"),
    ("FinetuneConfig", {"thresholds": "f2"}, "'f2' chooses no threshold; give youden, f1"),
    (
        "FinetuneConfig", {"head": "probe", "protocol": "paper"},
        "head probe is no part of the paper's protocol",
    ),
    (
        "FinetuneConfig", {"warmup_epochs": 1.0},
        r"warmup_epochs must lie in \[0, epochs\), got 1.0 of None epochs",
    ),
    ("FinetuneConfig", {"warmup_epochs": 3.0, "epochs": 2.0}, r"got 3.0 of 2.0 epochs"),
    ("FinetuneConfig", {"epochs": 0.0}, "epochs must be above 0, got 0.0"),
    (
        "FinetuneConfig", {"epochs": 2.0, "steps": 500},
        r"Give steps, 500, or epochs, 2, not both \(--epochs None",
    ),
    (
        "FinetuneConfig", {"image_size": 32, "resize_size": 31},
        "resize_size must be at least image_size, 32, got 31",
    ),
    (
        "LocalizeConfig", {"protocol": "paper", "truth": "masks"},
        "scores boxes one by one, got truth masks: leave --truth out",
    ),
    ("PredictConfig", {"films": ()}, r"predict needs images: evax predict BUNDLE FILES\|FOLDER --out x.csv"),
    ("PredictConfig", {"batch_size": 0}, "batch_size must be above 0, got 0"),
    ("PrepareConfig", {"size": 8}, "size must lie between 16 and 4096 pixels, got 8"),
    ("PrepareConfig", {"workers": -1}, "workers must be at least 0, got -1"),
    (
        "PrepareConfig", {"validation": 0.9},
        "validation and test are shares with a sum up to 1, got 0.9 and 0.2",
    ),
    ("PrepareConfig", {"test": -0.1}, "got 0.1 and -0.1"),
    *(
        ("PrepareConfig", {"source": "masks", "mask_value": value}, MASK_VALUE)
        for value in ((), (1, 2), (-1,), (65536,), (0, 0, 70000))
    ),
    ("PretrainConfig", {"mask_ratio": 1.0}, "mask_ratio must lie between 0 and 1"),
    (
        "PretrainConfig", {"mask_ratio": 0.001},
        "hides 0 of 196 patches at image_size 224: some must be hidden",
    ),
    ("PretrainConfig", {"seed": -1}, "seed must be at least 0, got -1"),
    ("PretrainConfig", {"image_size": 100}, "image_size must be a multiple of 16"),
    ("PretrainConfig", {"store_shares": (1.0, 2.0)}, "store_shares are 1 numbers, one per store"),
    ("PretrainConfig", {"epochs": 0}, "epochs must be above 0"),
    ("PretrainConfig", {"stores": ()}, "pretrain needs at least one store"),
    ("PretrainConfig", {"tokenizer_view": 7}, "tokenizer_view must lie between 32 and 2048 pixels, got 7"),
    ("ProbeConfig", {"neighbours": 0}, "neighbours must be above 0"),
    ("ProbeConfig", {"label_fraction": 0.0}, "label_fraction must lie in"),
    ("ProbeConfig", {"image_size": 50}, "image_size must be a multiple of 16"),
    ("ProbeConfig", {"resamples": 0}, "resamples must be above 0"),
    (
        "ProbeConfig", {"fractions": (0.5,), "label_fraction": 0.5},
        "Give label_fraction or label_count for one",
    ),
    ("ProbeConfig", {"split_by": "film"}, "split_by film needs a split"),
    ("ProbeConfig", {"seeds": (3, 4)}, OF_A_SWEEP),
    ("ProbeConfig", {"name": "hello"}, OF_A_SWEEP),
    ("ProbeConfig", {"fractions": (0.5,), "seed": 3}, "A sweep has seeds in place of seed, which is 3"),
    ("SegmentConfig", {"batch_size": 1}, "batch_size must be at least 2"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message"), SENSELESS)
def test_values_that_make_no_sense_are_refused(name, change, message):
    with pytest.raises(ConfigError, match=message):
        getattr(evax, name)(**EVERY_CONFIG[name] | change)


def test_no_config_is_missing_from_these_tests():
    assert sorted(EVERY_CONFIG) == sorted(name for name in evax.__all__ if name.endswith("Config"))


def in_every_spelling(config):
    """The options of a config as a Python caller may write them: paths as strings, tuples as lists, nested
    configs as dictionaries.
    """
    return {key: value for key, value in to_plain(config).items() if value is not None}


@every_config
def test_a_python_caller_gets_the_config_that_the_recipe_gives(name, tmp_path):
    config_class = getattr(evax, name)
    config = config_class(**EVERY_CONFIG[name])
    write_recipe(config, tmp_path / "config.yaml")
    assert config_class(**in_every_spelling(config)) == config
    assert build(config_class, read_recipe(tmp_path / "config.yaml", config_class), "recipe") == config
    for field_ in fields(config):
        value = getattr(config, field_.name)
        if field_.name in ("out", "store", "raw", "bundle") and value is not None:
            assert isinstance(value, Path)


@every_config
def test_an_unknown_option_is_refused_with_the_nearest_name_and_a_missing_one_by_name(name):
    config_class, options = getattr(evax, name), EVERY_CONFIG[name]
    known = fields(config_class)[0].name
    with pytest.raises(ConfigError, match=rf"No option of {name} is called '{known}x'. Did you mean"):
        config_class(**options, **{f"{known}x": 1})
    required = [each.name for each in fields(config_class) if each.default is each.default_factory]
    for missing in required:
        with pytest.raises(ConfigError, match=f"{name} lacks {missing}"):
            config_class(**{key: value for key, value in options.items() if key != missing})
    with pytest.raises(ConfigError, match=f"{name} takes its options by name"):
        config_class("o")


@every_config
def test_every_option_of_a_wrong_type_is_refused_by_name(name):
    config_class, options = getattr(evax, name), EVERY_CONFIG[name]
    for each in fields(config_class):
        with pytest.raises(ConfigError, match=rf"{name}\.{each.name} .*<object"):
            config_class(**options | {each.name: object()})


@every_config
def test_a_job_refuses_what_is_no_config_of_its_own_with_how_to_call_it(name):
    job = getattr(evax, name.removesuffix("Config").lower())
    for wrong in ("png50", None, {"out": "o"}, getattr(evax, name)):
        with pytest.raises(ConfigError, match=rf"Call it as {job.__name__}\({name}\(\.\.\.\)\)"):
            job(wrong)


def test_one_path_stands_for_several_and_numbers_of_numpy_for_numbers():
    config = evax.PretrainConfig(stores="a", out=Path("o"), epochs=np.float32(2), batch_size=np.int64(8))
    assert config.stores == (Path("a"),)
    assert (type(config.batch_size), type(config.epochs), config.epochs) == (int, float, 2.0)
    assert evax.FinetuneConfig(store="s", out="o", findings="Mass").findings == ("Mass",)
    assert evax.FinetuneConfig(store="s", out="o", seeds=range(3)).seeds == (0, 1, 2)
    assert evax.ZooConfig(action="convert", source=Path("x"), to="timm", out="o").source == "x"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"findings": {"Mass", "Edema"}}, "findings = .* a set has no order"),
        ({"steps": True}, "steps = True is not valid"),
        ({"layer_decay": float("nan")}, "layer_decay = nan is not valid"),
        ({"epochs": "inf"}, "epochs = 'inf' is not valid"),
        ({"batch_size": 2.5}, "batch_size = 2.5 is not valid"),
        ({"seeds": 5}, "seeds = 5 is not valid"),
        ({"seeds": (0, "one")}, r"seeds\[1\] = 'one' is not valid"),
        ({"precision": "fp64"}, "precision = 'fp64' is not valid: Input should be 'auto', 'fp32'"),
        ({"weights": {"a": 1}}, "weights = .* is not valid"),
        ({"optimizer": 0.1}, "optimizer must be a table of options, got 0.1"),
        ({"optimizer": {"lrate": 0.1}}, r"No option of FinetuneConfig.optimizer is called 'lrate'"),
        ({"optimizer": CropConfig()}, "optimizer must be a table of options, got CropConfig"),
    ],
)
def test_what_would_be_read_as_something_else_than_was_meant_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig(store="s", out="o", **options)


def test_a_nested_config_given_as_a_dictionary_keeps_the_command_s_other_defaults():
    optimizer = FinetuneConfig(store="s", out="o", optimizer={"lr": 0.01}).optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.clip_norm) == (0.01, (0.9, 0.999), 0.0)
    assert replace(optimizer, betas=[0.5, 0.6]).betas == (0.5, 0.6)


def test_a_journey_takes_whole_configs_and_dictionaries():
    whole = FinetuneConfig(store="s", out="o")
    demo = DemoConfig(out="run", finetune={"a": whole, "b": {"store": "s", "out": "o"}})
    assert demo.finetune == {"a": whole, "b": whole}
    with pytest.raises(ConfigError, match="DemoConfig.finetune.a lacks out"):
        DemoConfig(out="run", finetune={"a": {"store": "s"}})
