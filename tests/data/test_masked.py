"""Images and their masks: what is known of whom, and that a crop cuts both alike."""

import numpy as np
import pytest
from PIL import Image

from evax.data.augment import CropConfig, distorted, image_chance
from evax.data.building import build_store
from evax.data.masked import (
    UNKNOWN,
    MaskedData,
    findings_with_masks,
    findings_without_pixels,
    known_masks,
    masked_view,
)
from evax.data.sources import read_source
from evax.data.split import assign_splits
from evax.data.store import open_store
from evax.errors import ConfigError, DataError

SIZE = 64


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six images, bright where their mask is: 0 to 2 have A, 3 is labelled without it, 4 not labelled; 2 and 5
    have B.
    """
    raw = tmp_path_factory.mktemp("raw")
    for folder in ("images", "masks"):
        (raw / folder).mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        film, names = np.full((SIZE, SIZE), 20, np.uint8), {0: "A", 1: "A", 2: "AB", 5: "B"}.get(i, "")
        for name in names:
            x, y = rng.integers(4, 36, 2)
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[y : y + 20, x : x + 14] = 255
            film[mask > 0] = 230
            Image.fromarray(mask).save(raw / "masks" / f"{i}_{name}.png")
        Image.fromarray(film).save(raw / "images" / f"{i}.png")
    lines = ["image,patient,A,B", "0.png,a,1,0", "1.png,b,1,0", "2.png,c,1,1", "3.png,d,0,0", "4.png,e,,0",
             "5.png,f,0,1"]  # fmt: skip
    (raw / "labels.csv").write_text("\n".join(lines))
    out = tmp_path_factory.mktemp("stores") / "store"
    build_store(assign_splits(read_source("csv", raw, {}), validation=0.2, test=0.2, seed=0), out, size=SIZE)
    return open_store(out)


def films_of(store, findings=(), with_absent=True):
    names = findings_with_masks(store, findings)
    known = known_masks(store, names, with_absent)
    rows = np.arange(len(store))
    return MaskedData(store, names, known, rows, rows, rows, rows, rows)


def test_an_image_labelled_without_the_finding_lies_outside_and_an_unlabelled_one_is_unknown(store):
    films = films_of(store)
    assert films.findings == ("A", "B")
    assert films.known.tolist() == [[True, True]] * 4 + [[False, True]] + [[True, True]]
    assert films.truth(3).max() == 0
    assert (films.truth(4)[0] == UNKNOWN).all()
    assert (films.truth(4)[1] == 0).all()


def test_as_in_the_paper_only_images_with_a_mask_are_known(store):
    films = films_of(store, with_absent=False)
    assert films.known.astype(int).tolist() == [[1, 0], [1, 0], [1, 1], [0, 0], [0, 0], [0, 1]]


def test_findings_are_chosen_in_the_order_asked_for_and_others_are_refused(store):
    assert findings_with_masks(store, ("B", "A")) == ("B", "A")
    with pytest.raises(ConfigError, match="Known: A, B"):
        findings_with_masks(store, ("C",))
    with pytest.raises(ConfigError, match="different"):
        findings_with_masks(store, ("A", "A"))


def test_a_finding_that_a_split_has_no_mask_of_is_named_with_the_first_such_split(store):
    parts = {"train": np.arange(6), "val": np.array([0, 1]), "test": np.array([3])}
    assert findings_without_pixels(store, ("A", "B"), parts) == {"A": "test", "B": "val"}
    assert findings_without_pixels(store, ("A", "B"), {"train": np.arange(6)}) == {}


def test_a_store_without_masks_is_refused_with_what_would_have_some(tmp_path):
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    manifest = assign_splits(read_source("folders", tmp_path, {}), validation=0, test=0, seed=0)
    build_store(manifest, tmp_path / "store", size=32)
    with pytest.raises(DataError, match="no masks.*--source masks"):
        findings_with_masks(open_store(tmp_path / "store"), ())


@pytest.mark.parametrize("epoch", range(6))
def test_a_crop_shows_image_and_mask_at_the_same_place(store, epoch):
    films = films_of(store, ("A",), with_absent=False)
    view = masked_view(films, 32, CropConfig(area=(0.3, 1.0)), distort=False, seed=1)
    for number in (0, 1):
        seen = view(store.pixels(number), epoch, number)
        assert seen.shape == (2, 32, 32)
        assert np.mean((seen[0] > 125) == (seen[1] == 1)) > 0.96  # but for the smoothed edge


def test_whole_images_are_what_the_paper_trains_on_but_for_mirroring(store):
    films = films_of(store, ("A",), with_absent=False)
    view = masked_view(films, SIZE, CropConfig(area=(1, 1), aspect=(1, 1)), distort=False, seed=0)
    film, mask = store.pixels(0), films.truth(0)[0]
    mirrored = [np.array_equal(view(film, epoch, 0)[1], mask[:, ::-1]) for epoch in range(20)]
    plain = [np.array_equal(view(film, epoch, 0)[1], mask) for epoch in range(20)]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert 3 < sum(mirrored) < 17


def test_brightness_and_contrast_move_within_the_published_range_and_leave_the_mask(store):
    film = np.full((8, 8), 100, np.uint8)
    means = np.array([distorted(film, image_chance(0, epoch, 0, 3)).mean() for epoch in range(400)])
    assert 0.2 < np.mean(means == 100) < 0.3  # neither of two halves
    assert means.min() >= 0.5 * 68 - 1
    assert means.max() <= 1.5 * 132 + 1
    films = films_of(store, ("A",), with_absent=False)
    plain, changed = (masked_view(films, 32, CropConfig(), distort, 0) for distort in (False, True))
    pairs = [(plain(store.pixels(0), epoch, 0), changed(store.pixels(0), epoch, 0)) for epoch in range(5)]
    assert any((one[0] != other[0]).any() for one, other in pairs)
    assert all((one[1] == other[1]).all() for one, other in pairs)
