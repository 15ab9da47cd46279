"""Which images train, choose and are tested, whose labels are used, and of which findings."""

import numpy as np
import pandas as pd
import pytest

from evax.data.labelled import (
    LabelShare,
    column_of,
    data_fingerprint,
    in_drawn_order,
    known_labels,
    redrawn_epochs,
    split_rows,
    with_findings,
)
from evax.data.store import open_store
from evax.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def store(phantom_store):
    return open_store(phantom_store)


@pytest.fixture
def doubtful(phantom_store):
    """A store of its own, to be changed, with uncertain effusions."""
    store = open_store(phantom_store)
    store.manifest.table.loc[:5, "Effusion"] = -1.0
    return store


@pytest.fixture
def table(store):
    return store.manifest.table[["image", "patient", "split"]].copy()


def written(table, path, **options):
    table.to_csv(path, index=False, **options)
    return path


def test_a_table_takes_the_place_of_the_store_s_split_and_what_it_does_not_name_is_left_out(
    store, table, tmp_path
):
    swapped = table.assign(split=table["split"].map({"train": "test", "val": "val", "test": "train"}))
    path = written(swapped.iloc[1:], tmp_path / "split.csv")
    train, val, test = split_rows(store, path)
    own = split_rows(store)
    assert set(train) == set(own[2]) - {0}
    assert set(val) == set(own[1]) - {0}
    assert set(test) == set(own[0]) - {0}
    assert data_fingerprint(store, None) == store.fingerprint
    assert data_fingerprint(store, path).startswith(f"{store.fingerprint}+")
    assert data_fingerprint(store, path) != data_fingerprint(store, written(table, tmp_path / "other.csv"))


def test_a_table_may_name_patients_or_images_and_write_images_in_another_case(store, table, tmp_path):
    path = written(table.assign(image=table["image"].str.upper()), tmp_path / "split.csv")
    assert column_of(store, path, "split") == table["split"].tolist()
    patients = table[["patient", "split"]].drop_duplicates()
    path = written(patients, tmp_path / "patients.csv")
    assert column_of(store, path, "split") == table["split"].tolist()
    written(patients.assign(patient=patients["patient"].str.swapcase()), path)
    with pytest.raises(DataError, match="are of no patient in"):
        column_of(store, path, "split")


def test_a_table_may_call_the_splits_as_people_do(store, table, tmp_path):
    words = {"train": "Training", "val": "validation", "test": "TEST"}
    path = written(table.assign(split=table["split"].map(words)), tmp_path / "split.csv")
    for rows, as_written in zip(split_rows(store, path), split_rows(store), strict=True):
        np.testing.assert_array_equal(rows, as_written)


def test_a_table_that_does_not_fit_says_what_is_wrong(store, table, tmp_path):
    path = written(table, tmp_path / "split.csv", sep=";")
    with pytest.raises(DataError, match="separates its columns by semicolons"):
        column_of(store, path, "split")
    for change, message in (
        (table.drop(columns="split"), "lacks the column split; it has image, patient"),
        (table.assign(split="tests"), "has the split 'tests'; known: train, val, test"),
        (table.assign(split="train"), "names no val images: name some"),
        (pd.concat([table, table[:1].assign(image="else.png")]), "1 of the 49 rows .* are of no image"),
        (pd.concat([table, table[:1]]), "names .* twice"),
    ):
        written(change, path)
        with pytest.raises(DataError, match=message):
            split_rows(store, path)
    with pytest.raises(DataError, match="There is no table"):
        split_rows(store, tmp_path / "missing.csv")


def test_a_table_that_splits_patients_is_refused_unless_images_were_to_be_split(store, table, tmp_path):
    several = table["patient"].value_counts().index[0]
    films = table.index[table["patient"] == several]
    assert len(films) > 1
    table.loc[films, "split"] = ["train", *["test"] * (len(films) - 1)]
    path = written(table, tmp_path / "split.csv")
    with pytest.raises(DataError, match="puts images of 1 patients into more than one split"):
        split_rows(store, path)
    assert set(films) <= {*split_rows(store, path, "film")[0], *split_rows(store, path, "film")[2]}


def test_a_number_of_patients_is_drawn_within_a_larger_one_and_too_many_are_refused(store):
    train = split_rows(store)[0]
    patients = store.manifest.table["patient"].to_numpy()
    few, more = (LabelShare(count=count).draw(store, train, seed=2) for count in (3, 6))
    assert (len(set(patients[few])), len(set(patients[more]))) == (3, 6)
    assert set(few) < set(more)
    with pytest.raises(DataError, match=r"There are \d+ training patients, 999 were asked for"):
        LabelShare(count=999).draw(store, train, seed=2)


def test_a_stratified_draw_holds_a_rare_finding_in_its_share_more_steadily_than_chance():
    patients = np.array([f"p{number}" for number in range(400)])
    rare = np.arange(400) % 20 == 0  # 20 of 400
    strata = np.where(rare, 0, 1)

    def positives(seed, strata):
        return sum(rare[int(patient[1:])] for patient in in_drawn_order(patients, seed, strata)[:100])

    stratified = [positives(seed, strata) for seed in range(20)]
    assert set(stratified) <= {4, 5, 6}  # a quarter of 20
    assert np.std(stratified) < np.std([positives(seed, None) for seed in range(20)]) / 2


def test_redrawn_epochs_show_other_patients_each_time_beginning_with_the_fixed_draw(store):
    train = split_rows(store)[0]
    share = LabelShare(count=3)
    shown, epochs = redrawn_epochs(store, train, share, seed=1, films=40)
    drawn = [shown[part] for part in epochs]
    assert drawn[0].tolist() == share.draw(store, train, seed=1).tolist()
    assert len({tuple(rows) for rows in drawn}) > 1
    assert sum(map(len, drawn)) >= 40 > sum(map(len, drawn[:-1]))
    patients = store.manifest.table["patient"].to_numpy()
    assert all(len(set(patients[rows])) == 3 for rows in drawn)
    assert len(set(patients[shown])) > 3
    assert set(shown) <= set(train)


def test_chosen_findings_come_in_the_order_asked_for_and_the_store_stays_as_it_is(doubtful):
    before = doubtful.manifest.findings
    chosen = (before[2], before[0])
    narrow = with_findings(doubtful, [name.lower() for name in chosen])
    assert narrow.manifest.findings == chosen
    np.testing.assert_array_equal(narrow.manifest.labels(), doubtful.manifest.labels()[:, [2, 0]])
    assert (doubtful.manifest.findings, narrow.fingerprint) == (before, doubtful.fingerprint)
    assert with_findings(doubtful, ()) is doubtful


def test_findings_that_cannot_be_chosen_are_refused(doubtful):
    with pytest.raises(ConfigError, match="No finding of .* is called 'Efusion'. Did you mean 'Effusion'"):
        with_findings(doubtful, ("Efusion",))
    with pytest.raises(ConfigError, match="findings must be different ones"):
        with_findings(doubtful, ("Effusion", "effusion"))
    object.__setattr__(doubtful.manifest, "exclusive", True)
    with pytest.raises(ConfigError, match="has exactly one of its findings: use all of them"):
        with_findings(doubtful, ("Effusion",))


def test_uncertain_labels_of_single_findings_can_count_as_present(doubtful):
    findings = doubtful.manifest.findings
    labels = known_labels(doubtful, "zeros", None, ones=("effusion",))[:6]
    assert (labels[:, findings.index("Effusion")] == 1).all()
    assert not (known_labels(doubtful, "zeros", None)[:6, findings.index("Effusion")] == 1).any()
    with pytest.raises(ConfigError, match="Efusion"):
        known_labels(doubtful, "zeros", None, ones=("Efusion",))


def test_soft_labels_of_a_store_depend_on_the_seed_alone(doubtful):
    column = doubtful.manifest.findings.index("Effusion")
    soft = known_labels(doubtful, "smooth", None, seed=3)[:6, column]
    assert np.all((soft > 0.2) & (soft < 0.3))  # an effusion that is uncertain is taken for absent
    np.testing.assert_array_equal(soft, known_labels(doubtful, "smooth", None, seed=3)[:6, column])
    assert (soft != known_labels(doubtful, "smooth", None, seed=4)[:6, column]).all()
    assert np.isnan(known_labels(doubtful, "ignore", None)[:6, column]).all()


def test_only_who_chooses_on_validation_images_needs_them(doubtful):
    doubtful.manifest.table["split"] = doubtful.manifest.table["split"].replace("val", "train")
    train, val, test = split_rows(doubtful, needs_validation=False)
    assert (len(val), len(train) + len(test)) == (0, len(doubtful))
    with pytest.raises(DataError, match="has no val images"):
        split_rows(doubtful)


@pytest.mark.parametrize("hundredths", range(1, 101))
def test_hundredths_of_the_patients_are_rounded_up_in_exact_arithmetic(hundredths):
    share = LabelShare(hundredths / 100)
    for patients in range(401):
        assert share.patients(patients) == -(-hundredths * patients // 100)
    assert LabelShare(hundredths / 1000).patients(7000) == 7 * hundredths
