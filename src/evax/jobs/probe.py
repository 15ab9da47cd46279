"""evax probe: how good are frozen features? A linear probe and a vote of neighbours, tested once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evax.errors import ConfigError
from evax.training.options import LabelledConfig

if TYPE_CHECKING:
    import numpy as np

    from evax.data.store import ImageStore


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(LabelledConfig):
    """Score an encoder as it is: logistic regression and a vote of neighbours on the mean of its patches.

    Every film is seen once; validation chooses strength and thresholds, test is scored once.
    """

    neighbours: int = 20
    """Training films that vote on each film."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours <= 0:
            raise ConfigError(f"neighbours must be above 0, got {self.neighbours}.")


def probe(config: ProbeConfig) -> Path:
    """Returns the path of report.json.

    Raises DataError for a store without labels or an empty split, or test films that the encoder was
    pre-trained on, WeightsError for weights that do not fit.
    """
    import numpy as np

    from evax.data.labelled import known_labels, split_rows
    from evax.data.store import open_store
    from evax.deploy.bundle import refuse_seen_films, starting_preprocess
    from evax.evaluation.embedding import TEMPERATURE, knn_scores
    from evax.evaluation.linear import fit_linear_probe
    from evax.files import write_json
    from evax.reporting.protocol import protocol_card
    from evax.training.probes import film_features
    from evax.training.runtime import seeded, start_fabric
    from evax.training.tracking import progress_bar, start_run
    from evax.weights.encoders import create_encoder

    store = open_store(config.store)
    labels = known_labels(store, config.uncertain, config.blank)
    train, val, test = split_rows(store, config.label_fraction, config.seed)
    refuse_seen_films(config.weights, store, test)
    preprocess = starting_preprocess(config.encoder, config.weights, store, config.image_size)
    with seeded(config.seed):
        encoder = create_encoder(config.encoder, config.weights, img_size=config.image_size)

    log = start_run(config.out, config, resume=False)
    fabric = start_fabric(config.precision)
    films = np.concatenate([train, val, test])
    with progress_bar("features", len(films)) as advance:
        features = film_features(
            fabric.to_device(encoder), store, films, preprocess, fabric, on_film=lambda: advance("")
        )
    log.write("features", films=len(films), width=features.shape[1])
    seen, choosing, tested = np.split(features, np.cumsum([len(train), len(val)]))
    linear = fit_linear_probe(seen, labels[train], choosing, labels[val], store.manifest.exclusive)

    def vote(asked: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return knn_scores(seen, labels[train], asked, config.neighbours, TEMPERATURE)

    protocol = protocol_card(
        config, store, train=train, validation=val, test=test,
        features="mean of the last block's patches, encoder frozen, whole films",
        strength_chosen_on="validation mAUC, one for all findings",
    )  # fmt: skip
    report = {
        "kind": "probe",
        **protocol,
        "width": features.shape[1],
        "linear": {
            "strength": linear.strength,
            "validation_mauc": {f"{strength:g}": value for strength, value in linear.validation_mauc.items()},
            "test_metrics": score(
                "linear", config, store, labels, (val, linear.probabilities(choosing)),
                (test, linear.probabilities(tested)),
            ),
        },
        "knn": {
            "neighbours": config.neighbours,
            "temperature": TEMPERATURE,
            "test_metrics": score("knn", config, store, labels, (val, vote(choosing)), (test, vote(tested))),
        },
    }  # fmt: skip
    write_json(report, config.out / "report.json")
    return config.out / "report.json"


def score(
    name: str,
    config: ProbeConfig,
    store: ImageStore,
    labels: np.ndarray[Any, Any],
    validation: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
    test: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
) -> dict[str, Any]:
    """Thresholds from validation, every number of test, and predictions-NAME-test.csv.

    validation, test: (rows, probabilities). A finding known on no training film is undefined.
    """
    from evax.evaluation.classification import choose_thresholds
    from evax.evaluation.embedding import answered
    from evax.evaluation.report import evaluate_classifier
    from evax.evaluation.thresholds import ThresholdRule
    from evax.reporting.protocol import write_predictions

    rule = ThresholdRule.of(config.thresholds)
    thresholds = choose_thresholds(*answered(validation[1], labels[validation[0]]), rule)
    rows = test[0]
    probabilities, truth = answered(test[1], labels[rows])
    patients = store.manifest.table["patient"].to_numpy(dtype=str)[rows]
    write_predictions(config.out / f"predictions-{name}-test.csv", store, rows, truth, probabilities)
    return evaluate_classifier(
        probabilities, truth, store.manifest.findings, patients, thresholds, store.manifest.exclusive,
        resamples=config.resamples, seed=config.seed,
    ).to_json()  # fmt: skip
