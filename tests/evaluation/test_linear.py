import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from evax.errors import ConfigError, DataError
from evax.evaluation.classification import mean_auroc
from evax.evaluation.linear import fit_linear_probe


@pytest.fixture
def cases():
    chance = np.random.default_rng(0)
    features = chance.normal(size=(300, 12)) * np.linspace(0.1, 50, 12)
    signal = features @ chance.normal(size=(12, 2)) / 50 + chance.normal(size=(300, 2))
    return features, (signal > 0).astype(np.float64)


def split(values):
    return values[:150], values[150:220], values[220:]


def test_it_is_scikit_learn_s_regression_at_the_strength_that_validation_liked_best(cases):
    (train, val, test), (train_labels, val_labels, _) = map(split, cases)
    probe = fit_linear_probe(train, train_labels, val, val_labels, exclusive=False, strengths=(1e-3, 1.0))
    scaler = StandardScaler().fit(train)
    expected, scores = {}, {}
    for strength in (1e-3, 1.0):
        models = [LogisticRegression(C=strength).fit(scaler.transform(train), y) for y in train_labels.T]

        def answer(films, models=models):
            return np.stack([model.predict_proba(scaler.transform(films))[:, 1] for model in models], axis=1)

        scores[strength] = mean_auroc(answer(val), val_labels).value
        expected[strength] = answer(test)
    assert probe.validation_mauc == pytest.approx(scores, abs=2e-3)
    assert probe.strength == max(scores, key=scores.get)
    assert probe.probabilities(test) == pytest.approx(expected[probe.strength], abs=1e-3)


def test_unknown_labels_are_left_out_and_what_no_training_film_knows_is_undefined(cases):
    (train, val, test), (train_labels, val_labels, _) = map(split, cases)
    half = train_labels.copy()
    half[75:, 0] = np.nan
    half[:, 1] = np.nan
    probe = fit_linear_probe(train, half, val, val_labels, exclusive=False, strengths=(0.1,))
    alone = fit_linear_probe(
        train[:75], half[:75, :1], val, val_labels[:, :1], exclusive=False, strengths=(0.1,)
    )
    assert probe.probabilities(test)[:, 0] == pytest.approx(alone.probabilities(test)[:, 0])
    assert np.isnan(probe.probabilities(test)[:, 1]).all()


def test_a_finding_with_one_side_only_gets_the_same_answer_for_every_film(cases):
    (train, val, test), (train_labels, val_labels, _) = map(split, cases)
    train_labels[:, 1] = 0
    probe = fit_linear_probe(train, train_labels, val, val_labels, exclusive=False, strengths=(0.1,))
    assert (probe.probabilities(test)[:, 1] == 0).all()
    train_labels[:, 1] = 1
    probe = fit_linear_probe(train, train_labels, val, val_labels, exclusive=False, strengths=(0.1,))
    assert (probe.probabilities(test)[:, 1] == 1).all()


def test_exclusive_findings_share_one_softmax_and_an_unseen_one_gets_nothing(cases):
    (train, val, test), (train_labels, val_labels, _) = map(split, cases)
    one_hot = np.eye(3)
    three, three_val = one_hot[train_labels[:, 0].astype(int)], one_hot[val_labels[:, 0].astype(int)]
    answers = fit_linear_probe(train, three, val, three_val, exclusive=True).probabilities(test)
    assert answers.sum(axis=1) == pytest.approx(1)
    assert (answers[:, 2] == 0).all()
    assert answers[:, 0].std() > 0


def test_strengths_and_labels_that_make_no_sense_are_refused(cases):
    (train, val, _), (train_labels, val_labels, _) = map(split, cases)
    with pytest.raises(ConfigError, match="strengths of a linear probe are above 0"):
        fit_linear_probe(train, train_labels, val, val_labels, exclusive=False, strengths=(0.0,))
    with pytest.raises(DataError, match="No finding has both present and absent films in the validation"):
        fit_linear_probe(train, train_labels, val, np.zeros_like(val_labels), exclusive=False)
    train_labels[0, 0] = -1
    with pytest.raises(DataError, match="labelled -1"):
        fit_linear_probe(train, train_labels, val, val_labels, exclusive=False)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("findings", [2, 3])
def test_as_a_layer_it_answers_the_same(exclusive, findings):
    chance = np.random.default_rng(findings)
    features = chance.normal(3, 2, (60, 5))
    labels = np.eye(findings)[chance.integers(0, findings, 60)]
    probe = fit_linear_probe(features, labels, features, labels, exclusive)
    weights, bias = probe.as_layer(5, 60)
    logits = torch.from_numpy(features @ weights.T + bias)
    answers = torch.softmax(logits, 1) if exclusive else torch.sigmoid(logits)
    assert answers.numpy() == pytest.approx(probe.probabilities(features), abs=1e-9)


def test_as_a_layer_a_finding_that_no_training_film_has_is_rare_and_one_that_nobody_knows_is_open():
    chance = np.random.default_rng(0)
    features = chance.normal(size=(20, 4))
    labels = np.stack([np.arange(20) % 2, np.zeros(20), np.full(20, np.nan), np.ones(20)], axis=1)
    probe = fit_linear_probe(features, labels, features, labels, exclusive=False)
    weights, bias = probe.as_layer(4, 20)
    assert not weights[1:].any()
    odds = np.exp(bias[1:])
    assert odds == pytest.approx([1 / 21, 1, 21])
    classes = np.eye(3)[np.arange(20) % 2]  # nobody is of the third class
    probe = fit_linear_probe(features, classes, features, classes, exclusive=True)
    weights, bias = probe.as_layer(4, 20)
    assert bias[2] == pytest.approx(-np.log(21))
    assert not weights[2].any()
