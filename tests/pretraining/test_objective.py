import pytest
import torch

from evax.adaptation.classify import classification_loss
from evax.adaptation.segment import segmentation_loss
from evax.pretraining.objective import masked_cosine_loss


def test_hidden_patches_alone_decide_the_loss():
    targets = torch.randn(2, 9, 5)
    positions = torch.tensor([[0, 4], [8, 1]])
    predicted = torch.stack([targets[row, positions[row]] for row in range(2)])
    targets_elsewhere = targets.clone()
    targets_elsewhere[0, 2] = 99.0
    assert masked_cosine_loss(predicted, targets, positions).item() == pytest.approx(-1.0)
    assert masked_cosine_loss(predicted, targets_elsewhere, positions).item() == pytest.approx(-1.0)
    assert masked_cosine_loss(-predicted, targets, positions).item() == pytest.approx(1.0)


def test_the_loss_is_the_plain_mean_of_the_cosines_and_is_computed_in_float32():
    predicted, targets = torch.randn(1, 2, 4).bfloat16(), torch.randn(1, 2, 4).bfloat16()
    positions = torch.tensor([[1, 0]])
    a, b = predicted[0].double(), targets[0, [1, 0]].double()
    by_hand = -((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean()
    loss = masked_cosine_loss(predicted, targets, positions)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-6)


def test_unknown_labels_do_not_move_the_classifier():
    logits = torch.zeros(2, 2, requires_grad=True)
    labels = torch.tensor([[1.0, float("nan")], [0.0, float("nan")]])
    classification_loss(logits, labels, exclusive=False).backward()
    assert logits.grad[:, 0].abs().min() > 0
    assert torch.equal(logits.grad[:, 1], torch.zeros(2))


def test_losses_agree_with_torch_s_own():
    logits = torch.randn(6, 3)
    labels = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 2, 1, 0]), 3).float()
    assert classification_loss(logits, labels, exclusive=True).item() == pytest.approx(
        torch.nn.CrossEntropyLoss()(logits, labels.argmax(1)).item()
    )
    assert classification_loss(logits, labels, exclusive=False).item() == pytest.approx(
        torch.nn.BCEWithLogitsLoss()(logits, labels).item()
    )


def test_pixels_of_which_nothing_is_known_move_no_mask():
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    truth = torch.randint(0, 2, (2, 2, 4, 4), dtype=torch.uint8)
    truth[0, 1] = 255
    loss = segmentation_loss(logits, truth)
    known = truth != 255
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], truth[known].float())
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-6)
    loss.backward()
    assert logits.grad[0, 1].abs().max() == 0
    assert logits.grad[1].abs().min() > 0
