"""Question: which sketch of an image finds its changed copies, and which correlation tells copies from others?

Here the thresholds of data/duplicates.py were fixed; no other images may move them. Copies are cut by up to
CROP at each edge, resized to 160 to 512 pixels at another aspect, darkened or brightened, half of them
inverted, stored as JPEG of quality 30 to 95 and brought back to the store's size.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn

from circumstances import keep
from evax.data import duplicates
from evax.data.phantom import make_phantom
from evax.data.preprocess import Preprocess
from evax.data.store import open_store

CROPS = (0.0, 0.03, 0.05, 0.07)


def copy_of(film, crop, chance):
    side = len(film)
    left, top, right, bottom = chance.uniform(0, crop, 4) * side
    width = int(chance.integers(160, 512))
    size = (width, int(width * chance.uniform(0.7, 1.4)))
    picture = Image.fromarray(film).resize(
        size, Image.Resampling.BICUBIC, (left, top, side - right, side - bottom)
    )
    pixels = (np.asarray(picture, np.float32) / 255) ** chance.uniform(0.75, 1.33)
    pixels = 1 - pixels if chance.random() < 0.5 else pixels
    file = io.BytesIO()
    Image.fromarray((pixels * 255).astype(np.uint8)).save(file, "JPEG", quality=int(chance.integers(30, 95)))
    return np.asarray(Image.open(file).resize((side, side), Image.Resampling.BILINEAR))


def perceptual_hash(film):
    """64 signs of the low cosine frequencies of the image at 32 x 32, as +1 and -1: pHash."""
    small = np.asarray(Image.fromarray(film).resize((32, 32), Image.Resampling.BOX), np.float32)
    low = dctn(small, norm="ortho")[:8, :8].ravel()
    return np.where(low > np.median(low[1:]), 1.0, -1.0) / 8


def found_among_neighbours(originals, copies):
    """Share of copies whose original is among the 1 and 8 images with the largest absolute product."""
    products = np.abs(copies @ originals.T)
    rank = (products > np.diag(products)[:, None]).sum(axis=1)
    return {"first": float((rank == 0).mean()), "of 8": float((rank < 8).mean())}


def trimmed(film, trim):
    cut = trim * len(film)
    box = (cut, cut, len(film) - cut, len(film) - cut)
    return np.asarray(Image.fromarray(film).resize(film.shape, Image.Resampling.BILINEAR, box))


def measure(films, crop):
    chance = np.random.default_rng(0)
    copies = [copy_of(film, crop, chance) for film in films]
    sketched = duplicates.sketches(copies)
    plain = duplicates.sketches(films)
    best = max(
        (found_among_neighbours(duplicates.sketches(films, trim), sketched) for trim in duplicates.TRIMS),
        key=lambda found: found["of 8"],
    )
    both, n = [*films, *copies], len(films)
    start = time.process_time()
    likely = duplicates._neighbours(lambda k: both[int(k)], 2 * n, lambda *_: None)
    values = np.abs(duplicates._similarities(lambda k: both[int(k)], likely, lambda *_: None))
    seconds = time.process_time() - start
    is_copy = np.array([abs(pair.inner - pair.outer) == n for pair in likely])
    same_origin = np.array([pair.inner % n == pair.outer % n for pair in likely])
    return {
        "films": n,
        "perceptual hash": found_among_neighbours(
            np.stack([perceptual_hash(film) for film in films]),
            np.stack([perceptual_hash(film) for film in copies]),
        ),
        "sketch, no trim": found_among_neighbours(plain, sketched),
        "sketch, best single trim": best,
        "candidates": len(likely),
        "copies among candidates": float(is_copy.sum() / n),
        "lowest correlation of a copy": float(np.nanmin(values[is_copy])),
        "1st percentile of copies": float(np.nanquantile(values[is_copy], 0.01)),
        "copies given up before the fine details": int(np.isnan(values[is_copy]).sum()),
        "highest correlation of different images": float(np.nanmax(values[~same_origin], initial=0.0)),
        "recall": float((values[is_copy] >= duplicates.SAME).sum() / n),
        "wrong pairs": int((values[~same_origin] >= duplicates.SAME).sum()),
        "processor seconds per 10 000 images": round(seconds / (2 * n) * 10_000, 1),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, help="images to copy; phantoms without it")
    parser.add_argument("--films", type=int, default=60)
    parser.add_argument("--name", default="duplicates-phantoms")
    options = parser.parse_args()
    if options.store:
        store = open_store(options.store)
        films = [np.array(store.pixels(row)) for row in range(min(options.films, len(store)))]
    else:
        chain = Preprocess(store_size=336)
        films = [chain.to_store(make_phantom(7, number).pixels) for number in range(options.films)]
    measured = {f"cut up to {crop:.0%}": measure(films, crop) for crop in CROPS}
    keep(
        options.name,
        __doc__.split("?")[0].removeprefix("Question: ") + "?",
        {"threshold": duplicates.SAME, **measured},
    )


if __name__ == "__main__":
    main()
