from __future__ import annotations

import math

import numpy as np
import pytest

from evax.errors import ConfigError, DataError
from evax.evaluation.embedding import knn_auroc, knn_scores, rank_me


def clusters(seed: int, cases: int, width: int = 16):
    """Features that point along one axis when the first finding is present; the second finding is noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((cases, 2)) < 0.4).astype(np.float32)
    features = rng.standard_normal((cases, width))
    features[:, 0] += 6 * labels[:, 0]
    return features.astype(np.float32), labels


def test_a_finding_in_the_features_is_found_and_noise_is_not():
    train, test = clusters(0, 400), clusters(1, 300)
    assert knn_auroc(train[0], train[1][:, :1], test[0], test[1][:, :1]).value > 0.95
    assert 0.4 < knn_auroc(train[0], train[1][:, 1:], test[0], test[1][:, 1:]).value < 0.6


def test_the_nearest_neighbour_alone_gives_its_own_labels():
    features, labels = clusters(0, 50)
    np.testing.assert_array_equal(knn_scores(features, labels, features, 1, 0.07), labels)


def test_a_unanimous_vote_is_exactly_one_at_most():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 8)).astype(np.float32)
    votes = knn_scores(features, np.ones((200, 3), np.float32), features, 25, 0.07)
    assert votes.max() <= 1
    assert votes.min() > 1 - 1e-12


def test_the_length_of_a_feature_does_not_matter():
    (features, labels), (test, _) = clusters(0, 60), clusters(1, 20)
    stretched = features * np.linspace(1, 9, 60, dtype=np.float32)[:, None]
    np.testing.assert_allclose(
        knn_scores(stretched, labels, test, 5, 0.07), knn_scores(features, labels, test, 5, 0.07), atol=1e-5
    )


def test_a_small_temperature_listens_to_the_nearest_and_a_large_one_to_all_alike():
    (features, labels), (test, _) = clusters(0, 60), clusters(1, 20)
    nearest = knn_scores(features, labels, test, 1, 0.07)
    np.testing.assert_allclose(knn_scores(features, labels, test, 60, 1e-6), nearest, atol=1e-6)
    everybody = np.broadcast_to(labels.mean(axis=0), nearest.shape)
    np.testing.assert_allclose(knn_scores(features, labels, test, 60, 1e6), everybody, atol=1e-4)


def test_images_on_which_a_finding_is_unknown_do_not_vote_for_it():
    (features, labels), (test, _) = clusters(0, 60), clusters(1, 300)
    holes = labels.copy()
    holes[:20, 1] = np.nan
    scores = knn_scores(features, holes, test, 7, 0.07)
    np.testing.assert_allclose(scores[:, 0], knn_scores(features, labels, test, 7, 0.07)[:, 0])
    np.testing.assert_allclose(
        scores[:, 1], knn_scores(features[20:], labels[20:], test, 7, 0.07)[:, 1], atol=1e-9
    )


def test_a_finding_nobody_knows_is_undefined_and_counted():
    (features, labels), (test, truth) = clusters(0, 60), clusters(1, 40)
    labels[:, 1] = np.nan
    macro = knn_auroc(features, labels, test, truth)
    assert (macro.entered, macro.of) == (1, 2)
    assert macro.value == knn_auroc(features, labels[:, :1], test, truth[:, :1]).value


def test_rank_of_an_even_cloud_is_its_number_of_directions():
    cloud = np.random.default_rng(0).standard_normal((4000, 12))
    assert rank_me(cloud) == pytest.approx(12, rel=0.01)
    assert rank_me(np.concatenate([cloud, np.zeros((4000, 5))], axis=1)) == pytest.approx(rank_me(cloud))


def test_rank_of_features_on_one_line_is_one_and_scale_does_not_matter():
    line = np.outer(np.arange(1.0, 30), [1.0, -2.0, 0.5])
    assert rank_me(line) == pytest.approx(1)
    assert rank_me(np.eye(5) * 1e-6) == pytest.approx(5)
    assert math.isnan(rank_me(np.zeros((3, 2))))


def test_features_with_nan_or_without_direction_are_refused():
    features, labels = clusters(0, 10)
    zero, broken = features.copy(), features.copy()
    zero[3] = 0
    broken[2, 1] = np.nan
    with pytest.raises(DataError, match="1 of 10 features are all zero"):
        knn_scores(zero, labels, features, 3, 0.07)
    with pytest.raises(DataError, match=r"\(10, 16\) with 1 NaN"):
        rank_me(broken)


def test_features_that_do_not_fit_are_refused():
    features, labels = clusters(0, 10)
    with pytest.raises(DataError, match=r"\(10, 16\), their labels \(9, 2\) and test features \(10, 16\)"):
        knn_scores(features, labels[:9], features, 3, 0.07)
    with pytest.raises(DataError, match=r"Scores have shape \(10, 2\) and labels \(10, 1\)"):
        knn_auroc(features, labels, features, labels[:, :1])


def test_uncertain_training_labels_are_refused():
    features, labels = clusters(0, 10)
    labels[0, 0] = -1
    with pytest.raises(DataError, match="labelled -1"):
        knn_scores(features, labels, features, 3, 0.07)


@pytest.mark.parametrize(("neighbours", "temperature"), [(0, 0.07), (20, 0.0)])
def test_impossible_votes_are_refused(neighbours, temperature):
    features, labels = clusters(0, 10)
    with pytest.raises(ConfigError, match=f"got {neighbours} and {temperature}"):
        knn_scores(features, labels, features, neighbours, temperature)
