import numpy as np
import pytest

from evax.options.pretraining import hidden_count
from evax.pretraining.hidden_patches import hidden_positions


def positions(films, epochs, seed=0):
    return hidden_positions(np.array(films), np.array(epochs), patches=196, ratio=0.3, seed=seed)


def test_exactly_59_of_196_different_patches_are_hidden_in_every_image():
    assert hidden_count(196, 0.3) == 59
    hidden = positions(range(50), [0] * 50)
    assert hidden.shape == (50, 59)
    assert all(len(set(row)) == 59 for row in hidden)
    assert hidden.min() >= 0
    assert hidden.max() < 196


def test_an_image_s_mask_depends_on_seed_epoch_and_image_and_not_on_its_neighbours_in_the_batch():
    alone, together = positions([7], [3]), positions([1, 7, 9], [3, 3, 3])
    assert np.array_equal(alone[0], together[1])
    for other in (positions([8], [3]), positions([7], [4]), positions([7], [3], seed=1)):
        assert set(other[0]) != set(alone[0])


def test_every_patch_is_hidden_equally_often():
    counts = np.bincount(positions(range(2000), [0] * 2000).ravel(), minlength=196)
    assert counts.mean() == pytest.approx(2000 * 59 / 196)
    deviation = (2000 * 59 / 196 * (1 - 59 / 196)) ** 0.5
    assert abs(counts - counts.mean()).max() < 5 * deviation


@pytest.mark.parametrize(("patches", "ratio"), [(196, 0.3), (64, 0.5), (16, 0.3), (4, 0.5)])
def test_blocks_hide_exactly_as_many_patches_in_every_image(patches, ratio):
    hidden = hidden_positions(
        np.arange(60), np.zeros(60, int), patches=patches, ratio=ratio, seed=0, pattern="block"
    )
    assert hidden.shape == (60, hidden_count(patches, ratio))
    assert all(len(set(row)) == hidden.shape[1] for row in hidden)
    assert hidden.min() >= 0
    assert hidden.max() < patches


def test_blocks_are_rectangles_and_not_scattered_patches_and_lie_everywhere():
    def grids(pattern):
        films = np.arange(300)
        hidden = hidden_positions(films, films * 0, patches=196, ratio=0.3, seed=0, pattern=pattern)
        grid = np.zeros((300, 196), bool)
        np.put_along_axis(grid, hidden, True, axis=1)
        return grid.reshape(300, 14, 14)

    def neighbours(grid):
        """Chance that the patch to the right of a hidden one is hidden, too."""
        return (grid[:, :, 1:] & grid[:, :, :-1]).sum() / grid[:, :, :-1].sum()

    assert neighbours(grids("uniform")) == pytest.approx(0.3, abs=0.02)
    assert neighbours(grids("block")) > 0.7
    assert grids("block").any(axis=0).all()
