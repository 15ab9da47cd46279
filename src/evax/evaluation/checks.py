"""What is worth shouting about before anybody believes a number: leaks, turned columns, doubtful labels.

Every check says what it looked at, whether it passed, and what to do; one that had nothing to look at did not
pass. Images are named by their row in the store, never by patient or file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evax.evaluation.classification import FEW, Integers, Reals, learned_findings
from evax.evaluation.subgroups import ENOUGH
from evax.evaluation.suspicion import ClearEnd

INVERTED = 0.4  # an AUROC below it on validation and on test is hardly chance
SAME, MOST = (
    1e-3,
    0.9,
)  # log odds that do not tell two images apart; share of images of which that is too much
PREDICTED = "Predicted classes"  # name of the check
ONE_CLASS = 0.95  # share of the images of all other classes that are taken for one class
NAMED = 6  # rows or findings that a sentence names before it says how many more there are


@dataclass(frozen=True)
class Check:
    """The answer of one check, as it stands in report.json."""

    name: str
    passed: bool | None
    """None: it could not be judged."""
    message: str
    """What was found, and where."""
    action: str
    """What to do about it; empty when it passed or could not be judged."""

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of the fields."""
        return asdict(self)


def check_patients(splits: Mapping[str, Integers], patients: NDArray[Any]) -> Check:
    """Whether every patient is in one split only.

    splits: rows of each split. patients: (store,), of every image of the store.
    """
    name = "Patients and splits"
    owners = {split: set(patients[rows].tolist()) for split, rows in splits.items()}
    pairs, rows_of_them = [], list[int]()
    names = list(splits)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            if both := owners[one] & owners[other]:
                pairs.append(f"{len(both)} in {one} and {other}")
                rows = np.concatenate([splits[one], splits[other]])
                rows_of_them += rows[np.isin(patients[rows], sorted(both))].tolist()
    if not pairs:
        return Check(name, True, f"{len(set().union(*owners.values()))} patients, none in two splits.", "")
    return Check(
        name, False,
        f"Patients are in two splits: {', '.join(pairs)} (image rows {_some(sorted(set(rows_of_them)))}). "
        "The test knows patients that the model has learned from, so its numbers are too good.",
        "Prepare the store again with evax prepare, which divides by patient, or mend the lists given to "
        "--lists; do not use these numbers.",
    )  # fmt: skip


def check_direction(findings: Sequence[str], validation: Sequence[float], test: Sequence[float]) -> Check:
    """Whether no finding is ranked the wrong way round on validation and on test.

    validation, test: AUROC of each finding, NaN where it is not defined.
    """
    name = "Direction of the scores"
    wrong = [
        f"{finding} ({seen:.2f} on validation, {tested:.2f} on test)"
        for finding, seen, tested in zip(findings, validation, test, strict=True)
        if max(seen, tested) < INVERTED and not math.isnan(seen + tested)
    ]
    if all(math.isnan(seen + tested) for seen, tested in zip(validation, test, strict=True)):
        return Check(name, None, "No finding has an AUROC on validation and on test.", "")
    if not wrong:
        return Check(name, True, f"No AUROC is below {INVERTED} on validation and on test.", "")
    return Check(
        name, False,
        f"AUROC below {INVERTED} on validation and on test: {_some(wrong)}.",
        "Look at a few images of that finding: is 1 written for absent in some of the tables, or is the label "
        "of another column? With few positive images it may be chance: see the number of them.",
    )  # fmt: skip


def check_spread(findings: Sequence[str], scores: Mapping[str, Reals]) -> Check:
    """Whether the scores of every finding tell images apart; after a training that diverged they do not.

    scores: probabilities of each split, (S, K), NaN where there is none.
    """
    name = "Scores that do not differ"
    alike, judged = [], False
    for split, table in scores.items():
        for finding, column in zip(findings, table.T, strict=True):
            known = np.clip(column[~np.isnan(column)].astype(np.float64), 1e-12, 1 - 1e-12)
            log_odds = np.log(known / (1 - known))
            near = np.abs(log_odds - np.median(log_odds)) < SAME if len(known) > 1 else np.zeros(0)
            judged |= len(near) > 0
            if len(near) and near.mean() >= MOST:
                alike.append(f"{finding} ({int(near.sum())} of {len(near)} images in {split})")
    if not judged:
        return Check(name, None, "No split has two images with scores.", "")
    if not alike:
        return Check(name, True, "The scores of every finding differ from image to image.", "")
    return Check(
        name, False,
        f"Images have the same score, whatever they show: {_some(alike)}. Their AUROC says nothing.",
        "The training diverged or has hardly begun: look at its loss. Start again with a tenth of "
        "--optimizer.lr where the loss jumped, with more steps where it has not moved yet.",
    )  # fmt: skip


def check_classes(classes: Sequence[str], scored: Mapping[str, tuple[Reals, Reals]], of: str = "") -> Check:
    """Whether the most probable class depends on the image, and every class is predicted for some images.

    scored: probabilities and labels of each split, (S, K), exactly one 1 per row of the labels. of: the
    classifier, where a report has several.
    """
    name = f"{PREDICTED}{of and f', {of}'}"
    wrong, judged = [], False
    for split, (probabilities, labels) in scored.items():
        predicted, truth = probabilities.argmax(axis=1), labels.argmax(axis=1)
        counts = np.bincount(predicted, minlength=len(classes))
        top = int(counts.argmax())
        others = truth != top
        if not others.any():
            continue  # only one class to predict, or too few images
        judged = True
        if (predicted[others] == top).mean() >= ONE_CLASS:
            wrong.append(
                f"{classes[top]} is predicted for {counts[top]} of {len(truth)} {split} images, "
                f"of which {int((~others).sum())} are {classes[top]}"
            )
            continue
        films = np.bincount(truth, minlength=len(classes))
        wrong += [
            f"{classes[k]} is predicted for none of the {split} images, of which {films[k]} are {classes[k]}"
            for k in range(len(classes))
            if counts[k] == 0 and films[k] >= FEW
        ]
    if not judged:
        return Check(name, None, "The images of every split are of one class.", "")
    if not wrong:
        return Check(name, True, "The predicted class differs from image to image.", "")
    return Check(
        name, False,
        f"{'; '.join(wrong)}. Accuracy hides this where one class is frequent.",
        "Read balanced accuracy and the confusion matrix, and do not use the predicted class. The training "
        "has too few images of the other classes, or was too short: use more labels or more steps.",
    )  # fmt: skip


def check_strength(strength: float, tried: Mapping[float, float]) -> Check:
    """Whether the strength of a linear probe lies inside the range of those that were tried.

    tried: strength -> its score on the validation images, NaN where there is none.
    """
    name = "Strength of the linear probe"
    lowest, highest = min(tried), max(tried)
    if math.isnan(tried[strength]):
        return Check(name, None, "No finding has a score on the validation images.", "")
    if lowest < strength < highest:
        return Check(
            name,
            True,
            f"{strength:g} is best, inside the range that was tried, {lowest:g} to {highest:g}.",
            "",
        )
    advice = (
        "The features say little about these labels, or there are too few labelled images. Use more labels "
        "or another encoder, and do not read the probabilities: they hardly differ from image to image."
        if strength == lowest
        else "The probe is hardly regularised: its probabilities are too sure. Use more labelled images."
    )
    return Check(
        name, False,
        f"{strength:g} is best, an end of the range that was tried, {lowest:g} to {highest:g}: the best "
        "strength may lie beyond it.", advice,
    )  # fmt: skip


def check_sizes(
    findings: Sequence[str],
    splits: Mapping[str, Integers],
    labels: Reals,
    patients: NDArray[Any],
) -> Check:
    """Whether every finding has ENOUGH patients with it and without it in every split.

    splits: rows of each split. labels: (store, K), 1, 0 or NaN. patients: (store,).
    """
    name = "Size of the splits"
    few = []
    for split, rows in splits.items():
        for k, finding in enumerate(findings):
            for side, word in ((1, "with"), (0, "without")):
                people = len(np.unique(patients[rows[labels[rows, k] == side]]))
                if people < ENOUGH:
                    few.append(f"{finding}: {people} {word} it in {split}")
    if not few:
        return Check(
            name, True, f"At least {ENOUGH} patients with and without every finding in every split.", ""
        )
    return Check(
        name, False,
        f"Fewer than {ENOUGH} patients: {_some(few)}.",
        "Take their AUROC, interval and threshold as anecdotes: use more images, move patients into the split "
        "(evax prepare --validation, --test), or leave the finding out.",
    )  # fmt: skip


def check_columns(findings: Sequence[str], labels: Reals) -> Check:
    """Whether every finding is present on some training images and absent on others.

    labels: (N, K), of the training films: 1, 0 or NaN.
    """
    name = "Constant columns"
    constant = one_sided(findings, labels)
    if not constant:
        return Check(name, True, "Every finding is present on some training images and absent on others.", "")
    said = [f"{finding} is {word} on every training image" for finding, word in constant.items()]
    return Check(
        name, False,
        f"Nothing can be learned: {_some(said)}.",
        "Leave the finding out: name the others in --findings. If an empty cell means absent there, say so "
        "with --blank zeros.",
    )  # fmt: skip


def one_sided(findings: Sequence[str], labels: Reals) -> dict[str, str]:
    """Findings that are the same on all these images, and what they are: present, absent or unknown.

    labels: (N, K), see `learned_findings`, whose others these are.
    """
    constant = {}
    for finding, column, learned in zip(findings, labels.T, learned_findings(labels), strict=True):
        if not learned:
            known = column[~np.isnan(column)]
            constant[finding] = "unknown" if not len(known) else "present" if known.max() > 0.5 else "absent"
    return constant


def check_labels(
    findings: Sequence[str],
    ends: Sequence[tuple[ClearEnd, ClearEnd] | None],
    judged: int,
    of: int,
    exclusive: bool,
) -> Check:
    """Whether the labels agree with held-out probes where these are surest.

    ends: one pair per finding, see `clear_ends`. judged, of: training images that were looked at, and all.
    exclusive: exactly one finding is true per image; they may then look alike with every label right.
    """
    name = "Doubtful labels"
    known = [(finding, pair) for finding, pair in zip(findings, ends, strict=True) if pair is not None]
    doubtful = [
        f"{finding}, {end.contradicted} of the {end.films} images that most clearly {verb} it are labelled "
        f"{opposite}, where its difficulty explains {end.expected * end.films:.0f}"
        for finding, pair in known
        for end, verb, opposite in zip(pair, ("lack", "show"), ("present", "absent"), strict=True)
        if end.is_doubtful()
    ]
    if not known:
        return Check(
            name, None,
            f"Held-out probes on {judged} of {of} training images know none of the {len(findings)} findings "
            "well enough to say whether the labels agree.", "",
        )  # fmt: skip
    if not doubtful:
        return Check(
            name, True,
            f"Labels agree where held-out probes on {judged} of {of} training images are surest; they know "
            f"{len(known)} of {len(findings)} findings well enough to say.", "",
        )  # fmt: skip
    return Check(
        name, False,
        f"Labels are contradicted by probes that have not seen them: {'; '.join(doubtful)}.",
        "Look at the images at the top of suspicious.csv. "
        + (
            "It is either the labels or a real overlap of these findings: mend only labels that the image "
            "itself shows to be wrong."
            if exclusive
            else "Where a label is wrong, mend the table it came from."
        ),
    )  # fmt: skip


def _some(items: Sequence[Any]) -> str:
    """The first of them, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:NAMED])
    return shown + (f" and {len(items) - NAMED} more" if len(items) > NAMED else "")
