import numpy as np
import pytest

from evax.training.masking import hidden_count, hidden_positions


def positions(films, epochs, seed=0):
    return hidden_positions(np.array(films), np.array(epochs), patches=196, ratio=0.3, seed=seed)


def test_exactly_59_of_196_different_patches_are_hidden_in_every_film():
    assert hidden_count(196, 0.3) == 59
    hidden = positions(range(50), [0] * 50)
    assert hidden.shape == (50, 59)
    assert all(len(set(row)) == 59 for row in hidden)
    assert hidden.min() >= 0
    assert hidden.max() < 196


def test_a_film_s_mask_depends_on_seed_epoch_and_film_and_not_on_its_neighbours_in_the_batch():
    alone, together = positions([7], [3]), positions([1, 7, 9], [3, 3, 3])
    assert np.array_equal(alone[0], together[1])
    for other in (positions([8], [3]), positions([7], [4]), positions([7], [3], seed=1)):
        assert set(other[0]) != set(alone[0])


def test_every_patch_is_hidden_equally_often():
    counts = np.bincount(positions(range(2000), [0] * 2000).ravel(), minlength=196)
    assert counts.mean() == pytest.approx(2000 * 59 / 196)
    deviation = (2000 * 59 / 196 * (1 - 59 / 196)) ** 0.5
    assert abs(counts - counts.mean()).max() < 5 * deviation
