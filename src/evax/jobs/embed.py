"""evax embed: an encoder + images or a store -> a Parquet table of features."""

from __future__ import annotations

from pathlib import Path

from evax.config import job
from evax.data.films import in_batches
from evax.files import check_absent
from evax.options.results import EmbedConfig
from evax.runs.progress import progress_bar

PART_FILMS, PART_NUMBERS = 512, 2**24  # in memory at a time; the most that an interruption loses


@job(EmbedConfig)
def embed(config: EmbedConfig) -> Path:
    """Writes the table, one row per image in order, and returns its path.

    Raises DataError when the table exists, no image is found or could be read, or the unfinished table next
    to OUT is of other images, weights or options.
    """
    check_absent(config.out)
    from evax.adaptation.feature_table import FeatureParts, load_frozen, open_images

    images, parts = open_images(config.films), FeatureParts(config.out)
    total = len(images)
    encoder = load_frozen(config, images.store, parts.plan().get("precision"))
    layout = encoder.layout()
    part_images = max(1, min(PART_FILMS, PART_NUMBERS // layout["length"]))
    parts.start(encoder, images, part_images)
    with progress_bar("embedding", total) as advance:
        for number, rows in enumerate(in_batches(enumerate(images.names()), part_images)):
            if not (path := parts.part(number)).is_file():
                parts.write(path, rows, images, encoder, config.batch_size)
            for _ in rows:
                advance("")
    parts.join(layout)
    return config.out
