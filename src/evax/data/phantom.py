"""Synthetic frontal chest radiographs with known findings, boxes and masks, for demonstrations and tests.

An image is a pure function of (seed, index): path lengths through a drawn body (phantom_anatomy), findings that
change them, then display. They teach a network shapes, not medicine: no number measured on them says anything
about real disease.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from evax.data import phantom_anatomy as anatomy_maps
from evax.data.phantom_anatomy import (
    AIR,
    APEX,
    AXIS,
    COARSE,
    HILUM,
    INNER_HALF_WIDTH,
    MM,
    OUTWARDS,
    SIDE,
    Anatomy,
    Map,
    step,
)
from evax.errors import ConfigError

FINDINGS = ("Effusion", "Pneumothorax", "Consolidation", "Mass", "Cardiomegaly")
PREVALENCE = 0.3
FILMS_PER_BLOCK = (1, 1, 2, 2, 3, 3)  # six patients share twelve consecutive images, in a drawn order

Mask = npt.NDArray[np.bool_]
Box = tuple[str, float, float, float, float]
Region = tuple[str, Mask]


@dataclass(frozen=True, eq=False)
class Phantom:
    """One synthetic image and the truth about it."""

    pixels: Map
    """(H, W) in [0, 1], bright = dense; about 0.2 % of the pixels are 0 and as many are 1."""
    labels: dict[str, int]
    """1 present, 0 absent, for each of FINDINGS."""
    boxes: tuple[Box, ...]
    """(finding, x, y, width, height) in fractions of the image; a bilateral effusion has two."""
    masks: dict[str, Mask]
    """(H, W) for each of FINDINGS; empty where the finding is absent. Cardiomegaly: the heart."""
    view: str
    """"PA" or "AP"."""
    sex: str
    """"M" or "F"."""
    age: int
    """Years."""
    spacing_mm: float
    """Of pixel rows and columns."""
    patient: int
    film: int
    """Counts the images of one patient from 0."""
    heart_ratio: float
    """Width of the heart over the inner width of the chest: above 0.55 with Cardiomegaly, else below 0.5."""


def image_owner(seed: int, index: int) -> tuple[int, int]:
    """Patient and number among the patient's images, of image `index` of this seed; each patient has 1 to 3."""
    if seed < 0 or index < 0:
        raise ConfigError(f"seed and index of a phantom must be at least 0, got {seed} and {index}.")
    block, place = divmod(index, sum(FILMS_PER_BLOCK))
    counts = np.random.default_rng((seed, block, 2**32 - 1)).permutation(FILMS_PER_BLOCK)
    starts = np.cumsum(counts) - counts
    owner = int(np.searchsorted(starts, place, side="right")) - 1
    return block * len(FILMS_PER_BLOCK) + owner, place - int(starts[owner])


def make_phantom(seed: int, index: int) -> Phantom:
    """Image `index` of the endless series `seed`, both at least 0; the same arguments give the same image.

    Chance is keyed by (seed, patient, image): the images of one patient share the anatomy, heart included, and
    differ in exposure, position, inspiration and the other findings. Each finding is present with PREVALENCE.
    """
    patient, film = image_owner(seed, index)
    of_patient = np.random.default_rng((seed, patient, 0))
    enlarged_heart = bool(of_patient.random() < PREVALENCE)
    anatomy = anatomy_maps.draw_anatomy(of_patient, enlarged_heart=enlarged_heart)
    rng = np.random.default_rng((seed, patient, film + 1))
    present = {finding for finding in FINDINGS[:-1] if rng.random() < PREVALENCE}
    if enlarged_heart:
        present.add("Cardiomegaly")
    view = "AP" if rng.random() < 0.35 else "PA"
    depths, regions = _expose(anatomy, present, view, rng)
    pixels, spacing_mm, place = _display(depths, anatomy, rng)
    masks = {finding: np.zeros(pixels.shape, dtype=bool) for finding in FINDINGS}
    boxes: list[Box] = []
    for finding, region in regions:
        seen = np.asarray(_placed(Image.fromarray(region.view(np.uint8) * 255), place, pixels.shape)) > 127
        if seen.any():
            masks[finding] |= seen
            boxes.append((finding, *_bounds(seen)))
    labels = {finding: int(mask.any()) for finding, mask in masks.items()}
    return Phantom(
        pixels, labels, tuple(boxes), masks, view, anatomy.sex, anatomy.age,
        spacing_mm, patient, film, anatomy.heart_ratio,
    )  # fmt: skip


def _bounds(mask: Mask) -> tuple[float, float, float, float]:
    """x, y, width, height of the smallest box around a mask, in fractions of the image."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    top, left = int(rows[0]), int(columns[0])
    return left / width, top / height, (columns[-1] + 1 - left) / width, (rows[-1] + 1 - top) / height


# --- findings: they change the air in the lungs ---


def _expose(
    anatomy: Anatomy, present: set[str], view: str, rng: np.random.Generator
) -> tuple[Map, list[Region]]:
    """Path lengths on the canvas, healthy lung near 0 and the abdomen near 1, and the findings."""
    dome = (
        anatomy.dome - rng.uniform(0, 16) - (6 if view == "AP" else 0)
    )  # a breath less deep lifts the domes
    heart, silhouette = anatomy_maps.heart_depth(anatomy, dome)
    depth = 0.66 * anatomy.thick
    air = np.zeros((SIDE, SIDE), np.float32)
    lines = np.zeros((SIDE, SIDE), np.float32)
    free = np.ones((SIDE, SIDE), dtype=bool)  # of fluid and of pleural air: where lung can be seen
    collapsed = int(rng.choice((-1, 1))) if "Pneumothorax" in present else 0
    wet = {int(rng.choice((-1, 1)))} if "Effusion" in present else set()
    if wet and rng.random() < 0.3:
        wet = {-1, 1}
    regions: list[Region] = []
    shrink = {side: (1.0, 1.0, 1.0) for side in (-1, 1)}
    for side in (-1, 1):
        top = dome + (anatomy.dome_step if side == 1 else 0)
        lung = anatomy_maps.lung_depth(OUTWARDS, AXIS, top, depth)
        half_air = AIR * lung
        field = _lung_field(top) & ~_half(silhouette, side)
        if side == collapsed:
            shrink[side] = (rng.uniform(0.50, 0.76), rng.uniform(0.52, 0.78), rng.uniform(0.85, 1.0))
            half_air, gap, line = _pneumothorax(lung, side, shrink[side], top, depth)
            gap &= field
            _half(lines, side)[:] = rng.uniform(5, 9) * line
            _half(free, side)[:] &= ~gap
            regions.append(("Pneumothorax", _whole(gap, side)))
        if side in wet:
            fluid = _effusion(top, rng)
            half_air = half_air * (1 - fluid)
            under = (fluid > 0.5) & field
            _half(free, side)[:] &= fluid < 0.3
            regions.append(("Effusion", _whole(under, side)))
        _half(air, side)[:] = half_air
    air *= 1 - 0.78 * heart
    vessels = _vessels(anatomy, shrink, dome)
    added = lines + vessels * np.clip(air * np.float32(1 / 40), 0, 1)
    seen = free & (air > 0.42 * AIR * depth)
    if "Consolidation" in present:
        opacity, bronchi = _consolidation(seen, rng)
        regions.append(("Consolidation", (opacity > 0.4) & (air > 12)))
        dense = rng.uniform(0.6, 0.92) * opacity
        added -= bronchi * dense * np.clip(air * np.float32(1 / 40), 0, 1)
        air *= 1 - dense
        seen &= opacity < 0.15
    if "Mass" in present:
        mass, disc = _mass(seen, rng)
        added += mass
        regions.append(("Mass", disc))
    if "Cardiomegaly" in present:
        regions.append(("Cardiomegaly", silhouette))

    air *= 1 + 0.022 * anatomy_maps.noise(rng, 4.5) + 0.03 * anatomy_maps.noise(rng, 14)
    total = anatomy_maps.body(anatomy, rng.uniform(0.6, 1) if view == "AP" else rng.uniform(0, 0.7), rng)
    healthy = anatomy_maps.lung_depth(OUTWARDS, AXIS, dome, depth)
    healthy_lung = (total[:, SIDE // 2 :] - AIR * healthy)[healthy > 0.75 * depth]
    total = total + added - air  # the body map is shared between images
    total += anatomy_maps.spine(anatomy) + anatomy_maps.ribs(anatomy)
    total += anatomy_maps.clavicles_and_shoulder(
        anatomy, rng.uniform(2, 16) if view == "AP" else rng.uniform(-6, 6)
    )
    total -= anatomy_maps.airways(anatomy)
    if anatomy.breast:
        shadow = anatomy_maps.breasts(anatomy)
        for side in (-1, 1):
            _half(total, side)[:] += shadow
    if rng.random() < 0.5:
        _half(total, 1)[:] -= anatomy_maps.gas(rng, dome + anatomy.dome_step)
    total += _confounders(anatomy, view, rng)
    low, high = float(np.median(healthy_lung)), 1.12 * anatomy.thick
    return (total - np.float32(low)) * np.float32(1 / (high - low)), regions


def _half(canvas: npt.NDArray, side: int) -> npt.NDArray:  # type: ignore[type-arg]
    """View of one side of the canvas, columns counted outwards from the midline."""
    return canvas[:, SIDE // 2 :] if side == 1 else canvas[:, SIDE // 2 - 1 :: -1]


def _whole(half: Mask, side: int) -> Mask:
    canvas = np.zeros((SIDE, SIDE), dtype=bool)
    _half(canvas, side)[:] = half
    return canvas


def _lung_field(top: float) -> Mask:
    """Half canvas: what the reader calls lung, down to the dome and into the costophrenic angle."""
    across = (anatomy_maps.lung_edge(AXIS)[:, None] > OUTWARDS) & (
        anatomy_maps.medial_edge(AXIS)[:, None] < OUTWARDS
    )
    return across & (AXIS[:, None] < anatomy_maps.diaphragm(OUTWARDS, top) + 3) & (AXIS[:, None] > APEX)


def _pneumothorax(
    lung: Map, side: int, shrink: tuple[float, float, float], top: float, depth: float
) -> tuple[Map, Mask, Map]:
    """Half canvas: air, the gap between lung and chest wall, and the pleural line.

    shrink: what remains of the lung's extent sideways, above and below the hilum; it collapses towards there.
    """
    hilum_x, hilum_y = HILUM[side]
    sideways, above, below = shrink
    x = np.where(hilum_x < OUTWARDS, hilum_x + (OUTWARDS - hilum_x) / sideways, OUTWARDS).astype(np.float32)
    y = (hilum_y + (AXIS - hilum_y) / np.where(hilum_y > AXIS, above, below)).astype(np.float32)
    rest = anatomy_maps.lung_depth(x, y, top, depth)
    edge = anatomy_maps.lung_edge(y)
    # from the horizontal distance to the distance across the edge, which lies flat at the apex
    upright = sideways / np.hypot(1, np.gradient(sideways * edge, AXIS))
    distance = (edge[:, None] - x) * upright[:, None]
    floor = anatomy_maps.diaphragm(x, top) - y[:, None]
    inside = (distance > 0) & (floor > 0) & (y[:, None] > APEX)
    line = np.exp(-((distance / 1.0) ** 2)) * step(floor, 4) * (y[:, None] > APEX)
    air = 0.84 * AIR * rest + np.clip(lung - rest, 0, None) * 0.98
    return air.astype(np.float32), ~inside, (line * (lung > 0)).astype(np.float32)


def _effusion(top: float, rng: np.random.Generator) -> Map:
    """Half canvas: share of the lung's depth that is fluid; its surface climbs at the chest wall."""
    angle = float(anatomy_maps.diaphragm(np.array([INNER_HALF_WIDTH], np.float32), top)[0])
    height, climb = rng.uniform(50, 130), rng.uniform(24, 46)
    surface = angle - height + climb * (1 - np.exp((OUTWARDS - INNER_HALF_WIDTH) / rng.uniform(22, 45)))
    above = surface[None, :] - AXIS[:, None]
    haze = 0.22 * np.exp(-np.clip(above, 0, None) / 28)  # fluid behind the lung, above the visible surface
    return (haze + (0.97 - haze) * step(-above, rng.uniform(5, 15))).astype(np.float32)


def _drawn_place(seen: Mask, rng: np.random.Generator) -> tuple[float, float]:
    """A place (x, y) in visible lung; the middle of the right lung when disease has left none."""
    rows, columns = np.nonzero(seen[::8, ::8])
    if len(rows) == 0:
        return -75.0, 0.0
    drawn = int(rng.integers(len(rows)))
    return float(AXIS[8 * columns[drawn]]), float(AXIS[8 * rows[drawn]])


def _consolidation(seen: Mask, rng: np.random.Generator) -> tuple[Map, Map]:
    """Opacity in [0, 1] of a fuzzy patch, and the bronchi that stay open in it (mm of air)."""
    x, y = _drawn_place(seen, rng)
    size = rng.uniform(34, 56)
    field = np.zeros((len(COARSE), len(COARSE)), np.float32)
    for _ in range(int(rng.integers(3, 7))):
        dx, dy = rng.normal(0, 0.45 * size, 2)
        width, height = size * rng.uniform(0.4, 0.9, 2)
        column = np.exp(-(((COARSE - y - dy) / height) ** 2))
        field += np.outer(column, np.exp(-(((COARSE - x - dx) / width) ** 2))).astype(np.float32)
    grain = anatomy_maps.scaled(rng.standard_normal((34, 34), dtype=np.float32), len(COARSE), len(COARSE))
    fine = rng.standard_normal(field.shape, dtype=np.float32)
    field *= 1 + 0.30 * grain + 0.16 * fine
    opacity = np.clip(anatomy_maps.scaled(step(field - 0.55, 0.5)), 0, 1)

    side = 1 if x > 0 else -1
    hilum_x, hilum_y = HILUM[side]
    t = np.linspace(0.1, 1.25, 150, dtype=np.float32)
    ends_x = x + rng.normal(0, 0.4 * size, (6, 1))
    ends_y = y + rng.normal(0, 0.4 * size, (6, 1))
    bend = rng.normal(0, 5, (6, 1)) * np.sin(np.pi * t)
    path_x = (side * hilum_x + (ends_x - side * hilum_x) * t + bend).astype(np.float32)
    path_y = (hilum_y + (ends_y - hilum_y) * t + bend).astype(np.float32)
    cx, cy = anatomy_maps.tube(path_x, path_y, 2.6 - 1.2 * t, 10, hollow=0.2)
    return opacity, anatomy_maps.splat(cx.ravel(), cy.ravel(), 2.2)


def _mass(seen: Mask, rng: np.random.Generator) -> tuple[Map, Mask]:
    """Added depth of a slightly lobed ball of 32 to 64 mm, its rim sharp or soft, and its disc."""
    x, y = _drawn_place(seen, rng)
    radius = rng.uniform(16, 32)
    softness = rng.uniform(0.08, 0.4)
    dx, dy = AXIS[None, :] - x, AXIS[:, None] - y
    near = np.ix_(np.abs(dy[:, 0]) < 2 * radius, np.abs(dx[0]) < 2 * radius)
    around = np.arctan2(dy[near[0], 0], dx[0, near[1]])
    lobes = 1 + sum(rng.uniform(0, 0.07) * np.sin(k * around + rng.uniform(0, 6.3)) for k in (2, 3, 5))
    distance = np.hypot(dy[near[0], 0], dx[0, near[1]]) / (radius * lobes)
    ball = np.sqrt(np.clip(1.05 - distance**2, 0, 1)) * step((1 - distance).astype(np.float32), softness)
    added, disc = np.zeros((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), dtype=bool)
    # a small mass that shows on an image is a dense one
    added[near] = ball * (26 + 1.6 * radius) * rng.uniform(1.2, 1.7)
    disc[near] = distance < 1
    return added, disc


def _vessels(anatomy: Anatomy, shrink: dict[int, tuple[float, float, float]], dome: float) -> Map:
    """Vessels of both lungs, moved with a collapsing lung and with the diaphragm."""
    xs, ys, weights = [], [], []
    for side, x, y, weight in _vessel_points(anatomy):
        hilum_x, hilum_y = HILUM[side]
        sideways, above, below = shrink[side]
        y = y * np.where(y > 0, np.float32(dome / 94), np.float32(1))
        x = np.where(x > hilum_x, hilum_x + (x - hilum_x) * np.float32(sideways), x)
        y = hilum_y + (y - hilum_y) * np.where(y < hilum_y, np.float32(above), np.float32(below))
        xs.append(side * x)
        ys.append(y)
        weights.append(weight)
    tree = anatomy_maps.splat(np.concatenate(xs), np.concatenate(ys), np.concatenate(weights))
    coarse = np.zeros((len(COARSE), len(COARSE)), np.float32)
    for side, (hilum_x, hilum_y) in HILUM.items():
        coarse += 20 * np.outer(
            np.exp(-(((COARSE - hilum_y) / 24) ** 2)), np.exp(-(((side * COARSE - hilum_x + 4) / 15) ** 2))
        )
    return 1.5 * tree + anatomy_maps.scaled(coarse)


@lru_cache(maxsize=4)
def _vessel_points(anatomy: Anatomy) -> list[tuple[int, Map, Map, Map]]:
    """Kept, because the images of one patient follow each other."""
    return anatomy_maps.vessel_points(anatomy)


def _confounders(anatomy: Anatomy, view: str, rng: np.random.Generator) -> Map:
    """What a network must learn to disregard: electrodes with wires, a skin fold, nipple shadows."""
    total = np.zeros((SIDE, SIDE), np.float32)
    if rng.random() < (0.6 if view == "AP" else 0.12):
        count = int(rng.integers(2, 5))
        t = np.linspace(0, 1, 700, dtype=np.float32)
        start = np.stack([rng.uniform(-120, 120, count), rng.uniform(-90, 80, count)])
        end = np.stack([rng.choice((-220.0, 220.0), count), rng.uniform(-60, 200, count)])
        pull = rng.uniform(-90, 90, (2, count))
        path = [
            (s[:, None] * (1 - t) ** 2 + 2 * t * (1 - t) * ((s + e) / 2 + p)[:, None] + e[:, None] * t**2)
            for s, e, p in zip(start, end, pull, strict=True)
        ]
        wx, wy = anatomy_maps.tube(path[0].astype(np.float32), path[1].astype(np.float32), 0.7, 3, hollow=0.5)
        total += anatomy_maps.splat(wx.ravel(), wy.ravel(), 12.0)
        for x, y in start.T:
            _disc(total, x, y, 4.5, 34.0, hollow=0.6)
    if rng.random() < 0.15:
        side, x, lean = rng.choice((-1, 1)), rng.uniform(75, 125), rng.uniform(-0.3, 0.3)
        across = side * AXIS[None, :] - x - lean * AXIS[:, None]
        along = np.clip(1 - ((AXIS - rng.uniform(-30, 40)) / 90) ** 2, 0, 1)
        total += (
            rng.uniform(8, 15) * (step(-across, 1.5) * np.exp(np.minimum(across, 0) / 16)) * along[:, None]
        )
    if rng.random() < 0.2:
        x, y = rng.uniform(70, 95), rng.uniform(45, 70)
        for side in (-1, 1):
            _disc(
                total, side * x + rng.normal(0, 4), y + rng.normal(0, 4), 4.2, rng.uniform(7, 13), hollow=0.0
            )
    return total


def _disc(canvas: Map, x: float, y: float, radius: float, depth: float, hollow: float) -> None:
    """Add a small disc in place; hollow: radius of the thin middle against the whole."""
    rows, columns = np.abs(AXIS - y) < radius + 2, np.abs(AXIS - x) < radius + 2
    near = np.ix_(rows, columns)
    distance = np.hypot(AXIS[rows][:, None] - y, AXIS[columns][None, :] - x)
    canvas[near] += depth * step(radius - distance, 1.2) * (1 - 0.6 * step(hollow * radius - distance, 1.0))


# --- display ------------------------------------------------------------------------------------------------


def _display(depths: Map, anatomy: Anatomy, rng: np.random.Generator) -> tuple[Map, float, tuple[float, ...]]:
    """Pixels, their spacing in mm and the place of the image on the canvas, as `_placed` takes it."""
    harmonised = rng.uniform(0, 0.45)  # detectors lower the contrast of large areas against that of details
    blocks = depths.reshape(20, SIDE // 20, 20, SIDE // 20).mean(axis=(1, 3))
    depths = depths - np.float32(harmonised) * (anatomy_maps.scaled(blocks) - np.float32(0.5))

    short = int(rng.integers(400, 541))
    long = int(short * rng.uniform(1.0, 1.19))
    height, width = (short, long) if rng.random() < 0.35 else (long, short)
    spacing_mm = rng.uniform(336, 378) * (anatomy.wide + anatomy.tall) / 2 / short
    angle = np.deg2rad(rng.uniform(-5, 5))
    x_scale, y_scale = spacing_mm / anatomy.wide / MM, spacing_mm / anatomy.tall / MM
    cos, sin = np.cos(angle), np.sin(angle)
    middle_x, middle_y = SIDE / 2 + rng.uniform(-9, 9) / MM, SIDE / 2 + rng.uniform(-12, 16) / MM
    place = (
        x_scale * cos, x_scale * sin, middle_x - x_scale * (cos * width + sin * height) / 2,
        -y_scale * sin, y_scale * cos, middle_y - y_scale * (cos * height - sin * width) / 2,
    )  # fmt: skip
    film = np.array(_placed(Image.fromarray(depths), place, (height, width)))

    dark, bright = rng.uniform(0.20, 0.36), rng.uniform(0.80, 0.95)
    film = dark + film * np.float32(bright - dark)
    film += np.float32(rng.uniform(-0.25, 0.35)) * film * (1 - film)
    blur = np.float32(rng.uniform(0, 0.6))
    film[1:-1] += blur * (0.25 * (film[:-2] + film[2:]) - 0.5 * film[1:-1])
    film[:, 1:-1] += blur * (0.25 * (film[:, :-2] + film[:, 2:]) - 0.5 * film[:, 1:-1])
    # fewer quanta pass dense parts, so these are noisier
    quanta = rng.standard_normal(film.shape, dtype=np.float32) * np.float32(rng.uniform(0.006, 0.026))
    film += quanta * (0.3 + 0.7 * np.clip(film, 0, 1))
    low, high = np.percentile(film[::3, ::3], (0.25, 99.75))
    film = np.clip((film - low) * np.float32(1 / (high - low)), 0, 1)
    if rng.random() < 0.3:
        _collimate(film, rng)
    if rng.random() < 0.7:
        _mark(film, rng)
    return film.astype(np.float32), float(spacing_mm), place


def _placed(canvas: Image.Image, place: tuple[float, ...], shape: tuple[int, ...]) -> Image.Image:
    """What an image of this (height, width) shows of a canvas."""
    smooth = Image.Resampling.BILINEAR
    return canvas.transform((shape[1], shape[0]), Image.Transform.AFFINE, place, smooth)


def _collimate(film: Map, rng: np.random.Generator) -> None:
    """Darken one to four borders in place: the beam was narrower than the detector."""
    height = len(film)
    for edge in rng.permutation(4)[: rng.integers(1, 5)]:
        turned = np.rot90(film, int(edge))  # a view: the top of it is one of the four borders
        reach = rng.uniform(0.005, 0.03) * height + np.linspace(
            0, rng.normal(0, 0.008) * height, turned.shape[1]
        )
        turned[:] *= np.clip(np.arange(turned.shape[0])[:, None] - reach, 0.02, 1)


def _mark(film: Map, rng: np.random.Generator) -> None:
    """Print a lead L or R into an upper corner, in place."""
    height, width = film.shape
    letter = "L" if rng.random() < 0.7 else "R"
    size = int(rng.uniform(0.04, 0.065) * height)
    stamp = Image.new("L", (2 * size, 2 * size))
    ImageDraw.Draw(stamp).text((size, size), letter, 255, _font(size), anchor="mm")
    stamp = stamp.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
    left = int(rng.uniform(0.85, 0.92) * width) if letter == "L" else int(rng.uniform(0.02, 0.09) * width)
    top = int(rng.uniform(0.03, 0.12) * height)
    spot = film[top : top + 2 * size, left : left + 2 * size]
    np.maximum(spot, np.asarray(stamp, np.float32)[: spot.shape[0], : spot.shape[1]] / 255, out=spot)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
