"""A labelled store, narrowed to some findings, and its labels for training."""

import numpy as np
import pytest

from evax.data.labelled import known_labels, split_rows, with_findings
from evax.data.store import open_store
from evax.errors import ConfigError, DataError


@pytest.fixture
def store(phantom_store):
    store = open_store(phantom_store)
    store.manifest.table.loc[:5, "Effusion"] = -1.0
    return store


def test_chosen_findings_come_in_the_order_asked_for_and_the_store_stays_as_it_is(store):
    before = store.manifest.findings
    chosen = (before[2], before[0])
    narrow = with_findings(store, [name.lower() for name in chosen])
    assert narrow.manifest.findings == chosen
    np.testing.assert_array_equal(narrow.manifest.labels(), store.manifest.labels()[:, [2, 0]])
    assert (store.manifest.findings, narrow.fingerprint) == (before, store.fingerprint)
    assert with_findings(store, ()) is store


def test_findings_that_cannot_be_chosen_are_refused(store):
    with pytest.raises(ConfigError, match="No finding of .* is called 'Efusion'. Did you mean 'Effusion'"):
        with_findings(store, ("Efusion",))
    with pytest.raises(ConfigError, match="findings must be different ones"):
        with_findings(store, ("Effusion", "effusion"))
    object.__setattr__(store.manifest, "exclusive", True)
    with pytest.raises(ConfigError, match="has exactly one of its findings: use all of them"):
        with_findings(store, ("Effusion",))


def test_soft_labels_of_a_store_depend_on_the_seed_alone(store):
    column = store.manifest.findings.index("Effusion")
    soft = known_labels(store, "smooth", None, seed=3)[:6, column]
    assert np.all((soft > 0.2) & (soft < 0.3))  # an effusion that is uncertain is taken for absent
    np.testing.assert_array_equal(soft, known_labels(store, "smooth", None, seed=3)[:6, column])
    assert (soft != known_labels(store, "smooth", None, seed=4)[:6, column]).all()
    assert np.isnan(known_labels(store, "ignore", None)[:6, column]).all()


def test_only_who_chooses_on_validation_films_needs_them(store):
    store.manifest.table["split"] = store.manifest.table["split"].replace("val", "train")
    train, val, test = split_rows(store, needs_validation=False)
    assert (len(val), len(train) + len(test)) == (0, len(store))
    with pytest.raises(DataError, match="has no val films"):
        split_rows(store)
