"""Synthetic films: repeatable, and truthful about what they show. Their looks may change, these rules not."""

from __future__ import annotations

import csv
from itertools import groupby, pairwise

import numpy as np
import pytest
from PIL import Image

from evax.data.phantom import FINDINGS, PREVALENCE, image_owner, make_phantom
from evax.data.phantom_release import write_phantoms
from evax.data.pictures import read_image
from evax.errors import ConfigError


@pytest.fixture(scope="module")
def films():
    return [make_phantom(11, index) for index in range(60)]


def test_the_same_seed_and_index_give_the_same_image(films):
    for index in (0, 7):
        again = make_phantom(11, index)
        np.testing.assert_array_equal(again.pixels, films[index].pixels)
        assert (again.boxes, again.labels) == (films[index].boxes, films[index].labels)
        assert all((again.masks[finding] == films[index].masks[finding]).all() for finding in FINDINGS)


def test_another_seed_or_index_gives_another_image(films):
    others = [make_phantom(12, 0), films[1]]
    for other in others:
        assert other.pixels.shape != films[0].pixels.shape or (other.pixels != films[0].pixels).any()


def test_pixels_lie_in_0_to_1_and_use_the_range(films):
    for film in films:
        assert film.pixels.dtype == np.float32
        assert (film.pixels.min(), film.pixels.max()) == (0, 1)
        assert 0.0005 < (film.pixels == 0).mean() + (film.pixels == 1).mean() < 0.1
        assert film.pixels.std() > 0.1


def test_labels_agree_with_boxes_and_masks(films):
    for film in films:
        assert tuple(film.labels) == FINDINGS
        boxed = {finding for finding, *_ in film.boxes}
        for finding, present in film.labels.items():
            assert film.masks[finding].shape == film.pixels.shape
            assert present == film.masks[finding].any() == (finding in boxed)


def test_boxes_enclose_their_masks_tightly(films):
    for film in films:
        height, width = film.pixels.shape
        covered = {finding: np.zeros(film.pixels.shape, bool) for finding in FINDINGS}
        for finding, *box in film.boxes:
            x, y, across, down = np.array(box) * (width, height, width, height)
            left, top, right, bottom = (round(edge) for edge in (x, y, x + across, y + down))
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            inside = film.masks[finding][top:bottom, left:right]
            borders = inside[0], inside[-1], inside[:, 0], inside[:, -1]
            assert all(border.any() for border in borders)
            covered[finding][top:bottom, left:right] = True
        assert all(not (film.masks[finding] & ~covered[finding]).any() for finding in FINDINGS)


def test_images_of_a_patient_share_the_heart_and_follow_each_other(films):
    shared = 0
    for _, group in groupby(films, lambda film: film.patient):
        of_patient = list(group)
        assert [film.film for film in of_patient] == list(range(len(of_patient)))
        facts = {(film.heart_ratio, film.labels["Cardiomegaly"], film.sex, film.age) for film in of_patient}
        assert len(facts) == 1
        shared += len(of_patient) > 1
    assert shared > 5
    assert len({film.patient for film in films}) == 30  # twelve consecutive images are of six patients


def test_images_of_a_patient_differ_in_more_than_their_number(films):
    pairs = [(a, b) for a, b in pairwise(films) if a.patient == b.patient]
    assert all(
        a.pixels.shape != b.pixels.shape or np.abs(a.pixels - b.pixels).mean() > 0.01 for a, b in pairs
    )
    assert any(a.labels != b.labels for a, b in pairs)


def test_an_enlarged_heart_is_wide_and_only_that(films):
    for film in films:
        assert film.heart_ratio > 0.55 if film.labels["Cardiomegaly"] else film.heart_ratio < 0.5


def test_every_finding_is_about_as_frequent_as_prevalence_says(films):
    labels = np.array([[film.labels[finding] for finding in FINDINGS] for film in films])
    assert labels.mean() == pytest.approx(PREVALENCE, abs=0.1)
    np.testing.assert_allclose(labels.mean(axis=0), PREVALENCE, atol=0.22)


def test_a_finding_changes_the_pixels_where_its_mask_lies(films):
    """Fluid, consolidation, nodules and a large heart are denser than the lungs of images without them."""
    parts = [film.pixels[tuple(slice(s // 3, s // 2) for s in film.pixels.shape)] for film in films]
    lung = np.mean([np.median(part) for part in parts])
    for finding in ("Effusion", "Consolidation", "Cardiomegaly"):
        dense = np.mean([film.pixels[film.masks[finding]].mean() for film in films if film.labels[finding]])
        assert dense > lung, finding


def test_views_sexes_ages_and_spacings_are_those_of_people(films):
    assert {film.view for film in films} == {"PA", "AP"}
    assert {film.sex for film in films} == {"F", "M"}
    assert all(18 <= film.age <= 100 and 0.3 < film.spacing_mm < 1.2 for film in films)


@pytest.mark.parametrize("arguments", [(-1, 0), (0, -1)])
def test_negative_seeds_and_indices_are_refused(arguments):
    with pytest.raises(ConfigError, match="seed and index of a phantom must be at least 0"):
        image_owner(*arguments)


# --- as files ---------------------------------------------------------------------------------------


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_release_is_the_same_byte_for_byte_whatever_the_processes_and_grows_at_its_end(tmp_path):
    for name, count, workers in (("one", 6, 1), ("two", 6, 2), ("more", 8, 1)):
        write_phantoms(tmp_path / name, films=count, seed=3, workers=workers)
    one, more = contents(tmp_path / "one"), contents(tmp_path / "more")
    assert contents(tmp_path / "two") == one
    assert all(more[path] == content for path, content in one.items() if path.suffix != ".csv")
    assert all(more[path].startswith(content) for path, content in one.items() if path.suffix == ".csv")


def test_the_files_of_a_release_show_the_image_and_tell_the_truth_about_it(phantoms):
    with (phantoms / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"][-4:] for row in rows} == {".dcm", ".png"}
    films = [make_phantom(5, index) for index in range(12)]
    for film, row in zip(films, rows, strict=False):
        read = read_image(phantoms / row["image"])
        np.testing.assert_allclose(read.pixels, film.pixels, atol=0.51 / 255)
        assert {finding: int(row[finding]) for finding in FINDINGS} == film.labels
        assert (row["view"], row["sex"], int(row["age"])) == (film.view, film.sex, film.age)
        if row["image"].endswith(".dcm"):
            assert read.view == film.view
            assert read.spacing_mm == pytest.approx((film.spacing_mm, film.spacing_mm), abs=1e-3)
        stem = row["image"].removeprefix("images/")[:-4]
        for finding, mask in film.masks.items():
            path = phantoms / "masks" / f"{stem}_{finding}.png"
            assert path.is_file() == mask.any()
            if mask.any():
                np.testing.assert_array_equal(np.asarray(Image.open(path)) > 127, mask)
    with (phantoms / "boxes.csv").open(newline="") as file:
        boxes = list(csv.DictReader(file))
    expected = [box for film in films for box in film.boxes]
    for (finding, *place), box in zip(expected, boxes, strict=False):
        assert box["finding"] == finding
        found = [float(box[side]) for side in ("x", "y", "width", "height")]
        np.testing.assert_allclose(found, place, atol=1e-5)
    assert len(boxes) >= len(expected)
