import numpy as np

from evax.explain.overlay import BOX_COLOUR, edge_of, overlay


def test_the_outline_of_a_mask_is_its_pixels_with_a_neighbour_outside():
    mask = np.zeros((7, 8), bool)
    mask[1:6, 2:7] = True
    expected = mask.copy()
    expected[2:5, 3:6] = False
    assert (edge_of(mask) == expected).all()
    assert edge_of(np.ones((3, 3), bool)).sum() == 8  # the border of the image is an edge, too


def test_a_mask_is_outlined_on_the_image_and_on_the_map():
    film = np.full((32, 32), 0.5)
    mask = np.zeros((32, 32), bool)
    mask[10:20, 5:15] = True
    sheet = np.asarray(overlay(film, film, mask=mask))
    drawn = (sheet == np.array(BOX_COLOUR)).all(axis=2)
    assert (drawn[:, :32] == edge_of(mask)).all()
    assert (drawn[:, 32:] == edge_of(mask)).all()
