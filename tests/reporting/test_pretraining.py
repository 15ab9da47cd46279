import json

import pytest
import yaml

from evax.errors import DataError
from evax.reporting.pretraining import draw_pretraining_runs


def run_folder(folder, probe_store="stores/a", lift=0.0, probes=4):
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"probe_store": probe_store}))
    lines = [
        {"event": "step", "step": step, "images": 64 * step, "cosine": lift + step / 400}
        for step in range(1, 201)
    ] + [
        {"event": "probe", "step": 50 * n, "images": 3200 * n, "knn_auc": 0.5 + lift + n / 20}
        for n in range(probes)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_stand_beside_each_other_by_their_names_over_the_images_they_saw(tmp_path):
    runs = [run_folder(tmp_path / name, lift=lift) for name, lift in (("mgca", 0.1), ("imagenet", 0.0))]
    draw_pretraining_runs(runs, tmp_path / "figure", names=["MGCA ViT-B/16", "efficientnet-lite0"])
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
    draw_pretraining_runs(runs, tmp_path / "unnamed")
    assert "imagenet" in (tmp_path / "unnamed.svg").read_text()


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    first = run_folder(tmp_path / "first")
    other = run_folder(tmp_path / "other", probe_store="stores/b")
    with pytest.raises(
        DataError, match="was probed on stores/a, .*other on stores/b: draw them in two figures"
    ):
        draw_pretraining_runs([first, other], tmp_path / "figure")
    blind = run_folder(tmp_path / "blind", probes=0)
    with pytest.raises(DataError, match="holds no probed pre-training: run evax pretrain with --probe-store"):
        draw_pretraining_runs([first, blind], tmp_path / "figure")
    with pytest.raises(DataError, match="1 runs were given with 2 names"):
        draw_pretraining_runs([first], tmp_path / "figure", names=["a", "b"])
    assert not list(tmp_path.glob("figure*"))
