"""The steps of fine-tuning in their order, with looks at the films that choose the checkpoint."""

from __future__ import annotations

import math

import torch
from lightning_fabric import Fabric

from evax.data.labelled import LearningFilms
from evax.data.loader import Films, training_batches
from evax.data.order import DrawnOrder
from evax.data.preprocess import Preprocess
from evax.data.randaugment import training_view
from evax.evaluation.classification import mean_auroc, top1_accuracy
from evax.evaluation.learned import learned_findings, only_learned
from evax.models.classifier import Classifier
from evax.training.optim import create_optimizer, lr_at_step
from evax.training.runtime import maybe_compile, seeded
from evax.training.scoring import predict_rows
from evax.training.steps import classification_step
from evax.training.supervised_options import SupervisedConfig
from evax.training.tracking import RunLog, progress_bar


def fit(
    model: Classifier,
    films: LearningFilms,
    preprocess: Preprocess,
    config: SupervisedConfig,
    fabric: Fabric,
    log: RunLog,
) -> int:
    """Trains; leaves the weights with the best mAUC on films.choosing in the model and returns their step."""
    steps, schedule = config.in_steps(len(films.pool))
    optimizer = create_optimizer(model, schedule, model.encoder.depth, config.layer_decay)
    tokens = steps * config.batch_size * (config.image_size // model.encoder.stride) ** 2
    network, optimizer = fabric.setup(maybe_compile(model, config.compile, tokens, fabric.device), optimizer)
    train_labels = torch.from_numpy(films.taught[films.train]).float()
    store, choosing, truth = films.store, films.choosing, films.labels[films.choosing]
    learnable = only_learned(truth, learned_findings(films.taught[films.train]))
    exclusive, as_paper = films.exclusive, config.protocol == "paper"
    split = "test" if as_paper else "validation"
    best_score, best_step = -math.inf, 0
    best_weights: dict[str, torch.Tensor] = {}
    batches = training_batches(
        Films([(store, films.train)]),
        batch_size=config.batch_size,
        size=config.image_size,
        crop=training_view(config.augmentation, config.crop, preprocess, config.seed),
        seed=config.seed,
        steps=range(steps),
        workers=config.workers,
        order=DrawnOrder(films.epochs, config.seed) if films.epochs else None,
    )
    with progress_bar("fine-tuning", steps) as advance:
        for batch in batches:
            model.train()
            with seeded(config.seed, batch.step):
                measured = classification_step(
                    network,
                    optimizer,
                    fabric,
                    batch,
                    train_labels[batch.films],
                    preprocess=preprocess,
                    exclusive=exclusive,
                    lr=lr_at_step(batch.step, steps, schedule),
                    clip_norm=schedule.clip_norm,
                )
            done = batch.step + 1
            log.write("step", step=done, images=done * config.batch_size, **measured)
            if done % config.validate_every == 0 or done == steps:
                softmax = exclusive and not as_paper
                scores = predict_rows(model, store, choosing, preprocess, softmax, fabric)
                macro = mean_auroc(scores, learnable)
                top1 = {"top1": top1_accuracy(scores, truth)} if as_paper and exclusive else {}
                log.write(split, step=done, mauc=macro.value, findings=macro.entered, **top1)
                if macro.value > best_score or not best_weights:  # NaN where nothing can be learned
                    best_score, best_step = macro.value, done
                    best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            best = f", mAUC of {len(choosing)} {split} films {best_score:.3f}" if best_step else ""
            advance(f"loss {measured['loss']:.3f}{best}")
    model.load_state_dict(best_weights)
    return best_step
