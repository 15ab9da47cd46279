import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.preprocessing import StandardScaler

from evax.errors import ConfigError, DataError
from evax.evaluation.classification import mean_auroc
from evax.evaluation.embedding import fit_linear_probe


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


def test_unknown_labels_are_left_out_and_what_no_training_image_knows_is_undefined(cases):
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


def test_a_finding_with_one_side_only_gets_the_same_answer_for_every_image(cases):
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
    with pytest.raises(DataError, match="No finding has both present and absent images in the validation"):
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


def test_as_a_layer_a_finding_that_no_training_image_has_is_rare_and_one_that_nobody_knows_is_open():
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


def classes_of(shares, films, width, seed, signal=0.35):
    """Features in which weak signal hides in noise, and classes that are not equally frequent, one-hot."""
    chance = np.random.default_rng(seed)
    truth = chance.choice(len(shares), films, p=shares)
    centres = np.random.default_rng(99).normal(size=(len(shares), width)) * signal
    return centres[truth] + chance.normal(size=(films, width)), np.eye(len(shares))[truth]


@pytest.mark.parametrize(
    "shares", [(0.6, 0.2, 0.2), (0.15, 0.7, 0.15), (0.85, 0.15), (0.4, 0.2, 0.2, 0.1, 0.1)]
)
def test_unequal_exclusive_classes_do_not_collapse_to_the_most_frequent_one(shares):
    (train, three), (val, three_val), (test, three_test) = (
        classes_of(shares, films, 60, seed) for seed, films in enumerate((60, 60, 300))
    )
    probe = fit_linear_probe(train, three, val, three_val, exclusive=True)
    answer, truth = probe.probabilities(test).argmax(axis=1), three_test.argmax(axis=1)
    assert set(answer) == set(range(len(shares)))
    assert min(probe.validation_mauc) < probe.strength < max(probe.validation_mauc)
    scaler = StandardScaler().fit(train)
    oracle = max(
        balanced_accuracy_score(
            truth,
            LogisticRegression(C=strength, max_iter=500)
            .fit(scaler.transform(train), three.argmax(axis=1))
            .predict(scaler.transform(test)),
        )
        for strength in (1e-3, 1e-2, 1e-1, 1.0)
    )
    assert balanced_accuracy_score(truth, answer) > oracle - 0.05  # the oracle chose on test


def test_exclusive_classes_are_scikit_learn_s_balanced_regression_at_the_lowest_log_loss():
    (train, three), (val, three_val) = (classes_of((0.6, 0.3, 0.1), 90, 20, seed) for seed in (5, 6))
    probe = fit_linear_probe(train, three, val, three_val, exclusive=True, strengths=(1e-3, 1e-2, 1.0))
    scaler, truth = StandardScaler().fit(train), three_val.argmax(axis=1)
    weights = 1 / three_val.sum(axis=0)[truth]  # every class alike
    for strength in (1e-3, 1e-2, 1.0):
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=500)
        model.fit(scaler.transform(train), three.argmax(axis=1))
        answers = model.predict_proba(scaler.transform(val))
        expected = log_loss(truth, answers, sample_weight=weights)
        assert probe.validation_log_loss[strength] == pytest.approx(expected, abs=1e-3)
        if strength == probe.strength:
            assert probe.probabilities(val) == pytest.approx(answers, abs=1e-3)
    assert probe.strength == min(probe.validation_log_loss, key=probe.validation_log_loss.get)


def test_the_search_goes_on_beyond_an_end_until_the_best_strength_lies_inside():
    chance = np.random.default_rng(0)
    noise = chance.normal(size=(400, 1))
    signal = chance.normal(size=(400, 1))
    features = np.concatenate([noise + 0.02 * signal, noise], axis=1)  # their difference tells all
    labels = (signal + 0.3 * chance.normal(size=(400, 1)) > 0).astype(np.float64)
    probe = fit_linear_probe(features[:200], labels[:200], features[200:], labels[200:], exclusive=False)
    assert probe.strength > 1
    assert probe.strength < max(probe.validation_mauc) or max(probe.validation_mauc) == 1e3
    chosen = probe.validation_mauc[probe.strength]
    assert chosen == max(probe.validation_mauc.values()) > probe.validation_mauc[1.0]


def test_the_search_ends_where_every_strength_is_as_good():
    features = np.concatenate([np.arange(-20, 0), np.arange(1, 21)]).astype(np.float64)[:, np.newaxis]
    labels = (features > 0).astype(np.float64)
    probe = fit_linear_probe(features, labels, features, labels, exclusive=False)
    assert (probe.strength, len(probe.validation_mauc)) == (1e-2, 6)


def test_features_without_any_signal_end_the_search_at_its_bound():
    chance = np.random.default_rng(3)
    features, labels = chance.normal(size=(80, 40)), np.eye(3)[chance.integers(0, 3, 80)]
    probe = fit_linear_probe(features[:40], labels[:40], features[40:], labels[40:], exclusive=True)
    assert min(probe.validation_mauc) >= 1e-8
    assert max(probe.validation_mauc) <= 1e3
