import json

import pytest
import yaml

from evax.comparison.pretrainings import points_of, pretraining_figure, read_curves
from evax.data.store import open_store
from evax.errors import DataError
from evax.pages.drawing import save_figure


def run_folder(folder, probe_stores=("aaaa",) * 4, lift=0.0, path="stores/a"):
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"probe_store": path}))
    lines = [
        {"event": "step", "step": step, "images": 64 * step, "cosine": lift + step / 400}
        for step in range(1, 201)
    ] + [
        {"event": "probe", "step": 50 * n, "images": 3200 * n, "knn_auc": 0.5 + lift + n / 20}
        | ({"probe_store": store} if store else {})
        for n, store in enumerate(probe_stores)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_stand_beside_each_other_by_their_names_over_the_images_they_saw(tmp_path):
    runs = [run_folder(tmp_path / name, lift=lift) for name, lift in (("mgca", 0.1), ("imagenet", 0.0))]
    curves = read_curves(runs, ["MGCA ViT-B/16", "efficientnet-lite0"])
    save_figure(pretraining_figure(curves), tmp_path / "figure")
    text = (tmp_path / "figure.svg").read_text()
    for words in (
        "MGCA ViT-B/16",
        "efficientnet-lite0",
        "kNN mean AUC",
        "cosine with its tokenizer",
        "images seen",
    ):
        assert text.count(words) >= 1, words
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    points = points_of(curves)
    assert points[0] == {"name": "MGCA ViT-B/16", "of": "knn_auc", "images": 0.0, "value": 0.6}
    assert len(points) == 2 * 4 + 2 * 60  # every probe, and the steps as means of stretches


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    first = run_folder(tmp_path / "first")
    other = run_folder(tmp_path / "other", probe_stores=["bbbb"])  # another store under the same path
    with pytest.raises(
        DataError, match=r"fingerprint aaaa, .*other on that with bbbb: .* compare them apart"
    ):
        read_curves([first, other], ["a", "b"])
    glued = run_folder(tmp_path / "glued", probe_stores=["aaaa", "bbbb"])
    with pytest.raises(DataError, match=r"glued was probed on several stores, .* aaaa, bbbb: .* no curve"):
        read_curves([first, glued], ["a", "b"])
    blind = run_folder(tmp_path / "blind", probe_stores=())
    with pytest.raises(DataError, match="holds no probed pre-training: run evax pretrain with --probe-store"):
        read_curves([first, blind], ["a", "b"])


def test_the_store_counts_that_runs_were_probed_on_and_not_its_path(tmp_path, phantom_store):
    fingerprint = open_store(phantom_store).fingerprint
    there = run_folder(tmp_path / "there", [fingerprint], path="somewhere/else")
    early = run_folder(tmp_path / "early", [None], path=str(phantom_store))  # probes did not name their store
    assert {curve.run for curve in read_curves([there, early], ["a", "b"])} == {"a", "b"}
