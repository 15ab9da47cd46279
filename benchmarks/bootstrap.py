"""Question: how long do 2 000 patient-clustered resamples of 14 findings on 25 596 images take?

The shape of ChestX-ray14's official test split: 2 797 patients, the published prevalences (facts 3.2), scores
as distinct as a network's. Each resample gives AUROC and average precision of every finding, which is one
network's share of `evax compare`. Against it: DeLong's test of all findings, and one resample with
scikit-learn's weighted metrics, what a plain loop would repeat 2 000 times. One thread.
"""

from __future__ import annotations

import resource
import time

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from circumstances import keep
from evax.evaluation.comparison import delong
from evax.evaluation.intervals import ranking_draws

FILMS, PATIENTS, RESAMPLES = 25_596, 2_797, 2_000
POSITIVES = (3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86)


def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.stack([rng.permutation(np.arange(FILMS) < count) for count in POSITIVES], axis=1)
    noise = rng.standard_normal((2, *labels.shape))
    first, second = 1 / (1 + np.exp(-noise - labels))
    share = rng.dirichlet(np.ones(PATIENTS))  # some patients have many images, as there
    patients = rng.choice(PATIENTS, size=FILMS, p=share).astype(str)
    return first.astype(np.float32), second.astype(np.float32), labels.astype(np.float32), patients


def seconds(work) -> tuple[float, float]:
    """Of the clock, and of the processor: what it takes on a machine that does nothing else."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return round(time.perf_counter() - clock, 2), round(time.process_time() - processor, 2)


def one_resample(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> None:
    for column, truth in zip(scores.T, labels.T, strict=True):
        roc_auc_score(truth, column, sample_weight=weights)
        average_precision_score(truth, column, sample_weight=weights)


def main() -> None:
    first, second, labels, patients = problem()
    bootstrap = seconds(lambda: ranking_draws(first, labels, patients, RESAMPLES))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    test = seconds(
        lambda: [delong(a, b, c == 1) for a, b, c in zip(first.T, second.T, labels.T, strict=True)]
    )
    drawn = np.random.default_rng(1).integers(PATIENTS, size=PATIENTS)
    weights = np.bincount(drawn, minlength=PATIENTS)[patients.astype(int)]
    loop = seconds(lambda: one_resample(first, labels, weights))
    keep(
        "bootstrap",
        __doc__.split("\n")[0].removeprefix("Question: "),
        {
            "films": FILMS, "patients": PATIENTS, "findings": len(POSITIVES), "resamples": RESAMPLES,
            "bootstrap_s": bootstrap[0], "bootstrap_processor_s": bootstrap[1],
            "peak_memory_mb": round(peak),
            "delong_all_findings_s": test[0],
            "scikit_learn_one_resample_s": loop[0], "scikit_learn_one_resample_processor_s": loop[1],
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
