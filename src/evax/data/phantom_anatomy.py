"""The body of a synthetic radiograph: smooth organs, bones and vessels as maps of X-ray path length.

Every map lives on one canvas of SIDE x SIDE points, MM apart, in the coordinates of an average adult: x from
the midline towards the patient's left (right in the picture), y downwards, (0, 0) in the middle of the chest.
Values are millimetres of soft tissue that weaken the beam as much. Lungs are drawn on half canvases, where x
counts outwards from the midline, so that both sides share one description.

Sources: proportions after textbook norms (heart below half of the chest's inner width, right dome higher than
the left, ten ribs behind the lung, left hilum higher than the right); the rest is drawn by eye beside real
images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Map = npt.NDArray[np.floating]

SIDE, MM = 600, 0.8
AXIS: Map = ((np.arange(SIDE) + 0.5 - SIDE / 2) * MM).astype(np.float32)
OUTWARDS: Map = AXIS[SIDE // 2 :]  # x of a half canvas
COARSE: Map = AXIS.reshape(-1, 4).mean(axis=1)  # bodies are smooth: a quarter of the resolution is enough
APEX, WIDEST = -122.0, 90.0  # y of the top of the lung and of its widest level
INNER_HALF_WIDTH = 138.0  # of the chest at its widest level
HILUM = {-1: (36.0, 6.0), 1: (34.0, -6.0)}  # (x outwards, y) by side
RIBS = 10
AIR = 0.74  # how much of a lung is air


@dataclass(frozen=True)
class Anatomy:
    """What all images of one patient share. Lengths in mm."""

    sex: str
    age: int
    wide: float
    """Width and, in `tall`, height against the average adult."""
    tall: float
    thick: float
    """Of the chest, from front to back."""
    heart_ratio: float
    """Width of the heart over the inner width of the chest."""
    heart_right: float
    """Share of the heart's width right of the midline."""
    knob: float
    """How far the aortic knob stands out."""
    dome: float
    """y of the top of the right dome in full inspiration."""
    dome_step: float
    """How much lower the left dome lies."""
    wall: float
    """Muscle and fat beside the ribs."""
    breast: float
    """Thickness of the breast shadow; 0 without one."""
    rib_pitch: float
    rib_drop: float
    bone: float
    """Density of the bones, 1 on average."""
    clavicle_slope: float
    trachea_bend: float
    detail: int
    """Seed of the vessels and of the small irregularities of the ribs."""


def draw_anatomy(rng: np.random.Generator, *, enlarged_heart: bool) -> Anatomy:
    """A patient: the ratio of heart to chest lies in 0.40 to 0.48, or in 0.57 to 0.70 when enlarged."""
    female = bool(rng.random() < 0.5)
    age = int(np.clip(rng.normal(56, 17), 19, 92))
    low, high = (0.57, 0.70) if enlarged_heart else (0.40, 0.48)
    return Anatomy(
        sex="F" if female else "M",
        age=age,
        wide=rng.uniform(0.92, 1.02) if female else rng.uniform(0.97, 1.08),
        tall=rng.uniform(0.90, 1.02) if female else rng.uniform(0.95, 1.08),
        thick=rng.uniform(185, 250),
        heart_ratio=rng.uniform(low, high),
        heart_right=rng.uniform(0.28, 0.38),
        knob=rng.uniform(5, 10) + 0.1 * max(age - 40, 0),
        dome=rng.uniform(86, 100),
        dome_step=rng.uniform(5, 14),
        wall=rng.uniform(20, 42),
        breast=rng.uniform(14, 42) if female else 0.0,
        rib_pitch=rng.uniform(21.3, 23.5),
        rib_drop=rng.uniform(76, 104),
        bone=rng.uniform(0.75, 1.2) - 0.003 * max(age - 50, 0),
        clavicle_slope=rng.uniform(-0.28, 0.02),
        trachea_bend=rng.uniform(-5, 7),
        detail=int(rng.integers(2**31)),
    )


def scaled(picture: Map, width: int = SIDE, height: int = SIDE) -> Map:
    """Bicubic interpolation to (height, width)."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def noise(rng: np.random.Generator, grain_mm: float) -> Map:
    """Smooth random field on the canvas, mean 0 and deviation near 1, with details of the given size."""
    count = max(round(SIDE * MM / grain_mm), 4)
    return scaled(rng.standard_normal((count, count), dtype=np.float32))


def step(distance: Map, softness: float) -> Map:
    """0 to 1 across an edge: 0.5 at distance 0, 0 and 1 beyond one softness before and after it."""
    t = np.clip(distance * np.float32(0.5 / softness) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def dome_profile(u: Map) -> Map:
    """Quarter of a circle: 0 at u <= 0, 1 at u >= 1, steep at the edge as the rim of a rounded body."""
    u = np.clip(u, 0, 1)
    return np.sqrt(u * (2 - u))


def smoothed(values: Map, sigma_mm: float, spacing_mm: float = MM) -> Map:
    """A curve with its corners rounded."""
    reach = int(3 * sigma_mm / spacing_mm)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * spacing_mm / sigma_mm) ** 2)
    padded = np.pad(values, reach, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), "valid").astype(np.float32)


# --- lungs and heart ----------------------------------------------------------------------------------------


def lung_edge(y: Map) -> Map:
    """X outwards of the lung's lateral edge at each y; it meets `medial_edge` at the apex."""
    up = np.clip((WIDEST - y) / (WIDEST - APEX), 0, 1)
    down = np.clip((y - WIDEST) / 70, 0, 1)
    return 48 + (INNER_HALF_WIDTH - 48) * (1 - up**2.2) ** 0.47 - 12 * down**2


def medial_edge(y: Map) -> Map:
    return 15 + 33 * np.clip((-72 - y) / 50, 0, 1) ** 2


def diaphragm(x: Map, top: float) -> Map:
    """Y of a dome at each x outwards: far down to the costophrenic angle, a little towards the heart."""
    lateral = np.clip((x - 66) / (INNER_HALF_WIDTH - 66), 0, 1.3)
    return top + 50 * lateral**2.3 + 13 * np.clip((66 - x) / 66, 0, 1) ** 2


def lung_depth(x: Map, y: Map, top: float, depth: float) -> Map:
    """Thickness (len(y), len(x)) of one lung along the beam. top: y of its dome. depth: its greatest.

    Behind the dome a rest of the lung reaches down, which the abdomen in front nearly hides.
    """
    lateral = dome_profile((lung_edge(y)[:, None] - x) / 46)
    medial = dome_profile((x - medial_edge(y)[:, None]) / 26)
    below = y[:, None] - diaphragm(x, top)
    base = np.where(below > 0, 0.24 * np.exp(-np.abs(below) / 22), 1 - 0.10 * np.exp(-np.abs(below) / 14))
    base += (0.57 - base) * np.exp(-((below / 1.6) ** 2))  # the rim of the dome is rounded, not cut
    rise = np.clip((y - APEX) / 120, 0, 1)
    along = depth * (0.45 + 0.55 * rise * (2 - rise)) * (y > APEX)
    return (lateral * medial * base * along[:, None]).astype(np.float32)


def heart_edges(anatomy: Anatomy, dome: float) -> tuple[Map, Map]:
    """X of the right and of the left edge of heart and great vessels, for each y of the canvas."""
    width = anatomy.heart_ratio * 2 * INNER_HALF_WIDTH
    y = AXIS - (dome - 94)  # the heart rides on the diaphragm

    def bulge(centre: float, reach: float) -> Map:
        return np.sqrt(np.clip(1 - ((y - centre) / reach) ** 2, 0, 1))

    atrium = np.interp(y, [-25, 5, 30, 52, 70, 90, 106, 114], [0, 0.5, 0.9, 1, 0.98, 0.8, 0.45, 0])
    right = 19 + (anatomy.heart_right * width - 19) * atrium
    ventricle = np.interp(
        y, [-35, -5, 15, 35, 55, 72, 84, 94, 104, 114], [0, 0.14, 0.32, 0.55, 0.79, 0.96, 1, 0.95, 0.7, 0]
    )
    left = 21 + ((1 - anatomy.heart_right) * width - 21) * ventricle
    left = left + anatomy.knob * bulge(-54, 19) + 6 * bulge(-18, 26)
    left, right = smoothed(left, 5), smoothed(right, 5)
    # smoothing takes the tips off; the ratio is promised, so it is set again
    scale = width / (left.max() + right.max())
    return -right * scale, left * scale


def heart_depth(anatomy: Anatomy, dome: float) -> tuple[Map, npt.NDArray[np.bool_]]:
    """How far (0 to 1) heart and great vessels fill the chest, and the silhouette of the heart alone."""
    right, left = heart_edges(anatomy, dome)
    inside = np.minimum(left[:, None] - AXIS, AXIS - right[:, None])
    filled = 0.35 * step(inside, 2.2) + 0.65 * dome_profile(inside / 34)
    shift = dome - 94
    rows = (-24 + shift < AXIS) & (112 + shift > AXIS)
    return filled.astype(np.float32), (inside > 0) & rows[:, None]


# --- soft tissue --------------------------------------------------------------------------------------------


def body(anatomy: Anatomy, arms: float, rng: np.random.Generator) -> Map:
    """Thickness of torso, neck, shoulders and upper arms. arms: 0 raised away, 1 hanging beside the chest."""
    x, y = np.abs(COARSE)[None, :], COARSE[:, None]
    edge = lung_edge(np.maximum(COARSE, -60)) + anatomy.wall + 14 * np.clip((-20 - COARSE) / 60, 0, 1)
    edge = edge + 10 * np.clip((COARSE - 110) / 100, 0, 1)
    falls = np.clip((y + 135) / 60, 0, 1)
    torso = anatomy.thick * falls * np.clip(1 - (x / edge[:, None]) ** 2.4, 0, 1) ** 0.5
    torso = torso * (1 + 0.10 * np.clip((y - 90) / 60, 0, 1))  # the abdomen is thicker and has no air
    neck = 118 * np.clip(1 - (x / (52 + 0.012 * np.clip(y + 175, 0, 99) ** 2)) ** 2, 0, 1) ** 0.5
    neck = neck * np.clip((-60 - y) / 50, 0, 1)

    def capsule(x0: float, y0: float, x1: float, y1: float, radius: float) -> Map:
        along = np.clip(
            ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0, 1
        )
        square = (x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2
        return 2 * np.sqrt(np.clip(radius**2 - square, 0, None))

    shoulder = capsule(35, -112, 178, -92, 40 + 0.3 * anatomy.wall)
    elbow = (232 - 24 * arms, 40 + 130 * arms)
    arm = capsule(184, -84, *elbow, 36 + 0.2 * anatomy.wall)
    total = (torso**4 + neck**4 + shoulder**4 + arm**4) ** 0.25
    mottle = scaled(rng.standard_normal((30, 30), dtype=np.float32), len(COARSE), len(COARSE))
    return scaled((total * (1 + 0.012 * mottle)).astype(np.float32))


def breasts(anatomy: Anatomy) -> Map:
    """Half canvas: a hanging half-ellipsoid whose lower rim is sharp and whose upper part fades."""
    size = 0.7 + 0.012 * anatomy.breast
    dx, dy = (OUTWARDS - 82) / (62 * size), (AXIS[:, None] - 52 - 12 * size) / (56 * size)
    round_part = np.sqrt(np.clip(1 - dx**2 - dy**2, 0, 1))
    return (anatomy.breast * round_part * np.clip(0.75 + 0.6 * dy, 0.1, 1)).astype(np.float32)


def gas(rng: np.random.Generator, dome: float) -> Map:
    """Stomach bubble and bowel under the left dome: millimetres of missing tissue on the left half canvas."""
    total = np.zeros((SIDE, SIDE // 2), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        cx, cy = rng.uniform(40, 95), dome + rng.uniform(28, 60)
        rx, ry = rng.uniform(12, 32), rng.uniform(8, 17)
        inside = 1 - ((OUTWARDS - cx) / rx) ** 2 - ((AXIS[:, None] - cy) / ry) ** 2
        total = np.maximum(total, rng.uniform(15, 45) * np.sqrt(np.clip(inside, 0, 1)))
    return total


# --- bones and vessels: clouds of points, added up on the canvas ---


def splat(x: Map, y: Map, weight: Map | float) -> Map:
    """Sum of point weights on the canvas, spread over neighbouring points; weight in mm per point."""
    columns = (x * np.float32(1 / MM) + np.float32(SIDE / 2)).astype(np.int32)
    rows = (y * np.float32(1 / MM) + np.float32(SIDE / 2)).astype(np.int32)
    seen = (columns >= 0) & (columns < SIDE) & (rows >= 0) & (rows < SIDE)
    weights = np.broadcast_to(np.asarray(weight, np.float32), seen.shape)[seen]
    cells = rows[seen] * SIDE + columns[seen]
    total = np.bincount(cells, weights, minlength=SIDE * SIDE).astype(np.float32).reshape(SIDE, SIDE)
    for _ in range(2):  # 1 2 1 along both axes, twice: deviation of one canvas point
        total[1:-1] = 0.5 * total[1:-1] + 0.25 * (total[:-2] + total[2:])
        total[:, 1:-1] = 0.5 * total[:, 1:-1] + 0.25 * (total[:, :-2] + total[:, 2:])
    return total


def tube(path_x: Map, path_y: Map, radius: Map | float, around: int, *, hollow: float) -> tuple[Map, Map]:
    """Points of tubes along paths (..., n): (..., n, around). hollow: 1 a shell with dense rims, 0 filled."""
    count = path_x.shape[-1]
    golden = np.arange(path_x.size, dtype=np.float32).reshape(path_x.shape) * np.float32(0.618034) % 1
    angle = 2 * np.pi * (golden[..., None] + np.arange(around, dtype=np.float32) / around)
    across = np.sin(angle) * (hollow + (1 - hollow) * np.sqrt((angle * np.float32(7.3)) % 1))
    tx, ty = np.gradient(path_x, axis=-1), np.gradient(path_y, axis=-1)
    length = np.hypot(tx, ty) + np.float32(1e-6)
    reach = np.broadcast_to(np.asarray(radius, np.float32), (*path_x.shape[:-1], count))[..., None] * across
    return path_x[..., None] - reach * (ty / length)[..., None], path_y[..., None] + reach * (tx / length)[
        ..., None
    ]


def ribs(anatomy: Anatomy) -> Map:
    """Ten ribs on each side as bent shells, seen through from front to back.

    A rib leaves the spine, runs outwards and down, turns at the side (where the beam meets it edge on:
    bright) and comes forward and down; its front end is cartilage, which does not show.
    """
    rng = np.random.default_rng(anatomy.detail)
    number = np.arange(RIBS, dtype=np.float32)[:, None, None]
    turn = np.linspace(0.06, 2.62, 230, dtype=np.float32)[None, :, None]  # 0 at the spine, pi / 2 at the side
    around = 22
    golden = (np.arange(turn.size, dtype=np.float32) * np.float32(0.618034))[None, :, None]
    angle = 2 * np.pi * ((golden + np.arange(around, dtype=np.float32) / around) % 1)
    grown = np.clip(number / 4, 0.15, 1) ** 0.7  # the first ribs are short and flat
    xs, ys, weights = [], [], []
    for side in (-1, 1):
        start = APEX + 2 + anatomy.rib_pitch * number + rng.normal(0, 1.0, number.shape).astype(np.float32)
        drop = anatomy.rib_drop * (0.25 + 0.75 * grown) * rng.normal(1, 0.03, number.shape).astype(np.float32)
        middle = np.minimum(start + 0.46 * drop, 105)
        reach = lung_edge(middle.ravel()).reshape(middle.shape) + 2.5
        height = (4.6 + 0.25 * number) * (1 + 0.16 * np.sin(turn))
        y = start - 5 * np.sin(2 * turn) * (turn < 1.6) + drop * (0.5 - 0.5 * np.cos(turn)) ** 1.1
        outwards = 14 + (reach - 14) * np.sin(turn) ** 0.92
        x = outwards + 2.8 * np.sin(angle) * np.sin(turn)
        fades = np.clip((2.62 - turn) / 0.5, 0, 1) * np.where(turn > 1.9, 0.72, 1)
        weight = np.broadcast_to(fades * (1 - 0.25 * np.sin(turn) ** 8), angle.shape)
        y = y + height * np.cos(angle)
        xs.append(side * x.ravel())
        ys.append(y.ravel())
        weights.append(np.broadcast_to(weight, y.shape).ravel())
    return splat(np.concatenate(xs), np.concatenate(ys), anatomy.bone * 3.4 * np.concatenate(weights))


def clavicles_and_shoulder(anatomy: Anatomy, lift: float) -> Map:
    """Clavicles as S-shaped shells; scapulae and heads of the arm bones as faint plates. lift: mm."""
    t = np.linspace(0, 1, 330, dtype=np.float32)
    x = 17 + 142 * t
    y = -82 - lift * t + anatomy.clavicle_slope * 140 * t + 7 * np.sin(2 * np.pi * t) - 10 * np.sin(np.pi * t)
    radius = 6.2 - 1.6 * np.sin(np.pi * t) + 2.0 * (t > 0.96)
    px, py = tube(np.stack([x, -x]), np.stack([y, y]), np.stack([radius, radius]), 26, hollow=0.85)
    bones = splat(px.ravel(), py.ravel(), 2.1 * anatomy.bone)

    half = SIDE // 2
    plate = Image.new("L", (half, half))
    draw = ImageDraw.Draw(plate)

    def at(points: list[tuple[float, float]], side: int) -> list[tuple[float, float]]:
        return [(half / 2 + side * px / (2 * MM), half / 2 + (py - lift) / (2 * MM)) for px, py in points]

    for side in (-1, 1):
        blade = at([(114, -92), (150, -100), (172, -84), (160, -52), (133, 36), (124, 38), (112, -20)], side)
        draw.polygon(blade, fill=46)
        draw.line([*blade, blade[0]], fill=96, width=2, joint="curve")
        draw.line(at([(116, -66), (150, -88), (182, -104)], side), fill=120, width=4, joint="curve")
        head = at([(164, -106), (210, -60)], side)
        left, right = sorted((head[0][0], head[1][0]))
        draw.ellipse((left, head[0][1], right, head[1][1]), fill=120, outline=190, width=1)
        draw.line(at([(194, -70), (214, 60)], side), fill=120, width=11)
    plates = scaled(np.asarray(plate.reduce(2), np.float32))
    return bones + 0.17 * anatomy.bone * plates


def spine(anatomy: Anatomy) -> Map:
    """A column of vertebral bodies with dense end plates, lucent discs, pedicles and spinous processes."""
    rng = np.random.default_rng(anatomy.detail + 1)
    y = AXIS
    pitch = anatomy.rib_pitch * 1.02
    phase = ((y - APEX - 4 + 2.5 * np.sin(y / 60)) / pitch) % 1
    plates = np.exp(-(((phase - 0.13) / 0.05) ** 2)) + np.exp(-(((phase - 0.92) / 0.05) ** 2))
    bodies = smoothed(
        np.where((phase > 0.10) & (phase < 0.95), 1.0, 0.62).astype(np.float32) + 0.32 * plates, 0.9
    )
    waist = 1 - 0.09 * np.sin(np.pi * np.clip((phase - 0.1) / 0.85, 0, 1))
    half_width = (15.5 + 4.5 * np.clip((y + 120) / 240, 0, 1)) * waist
    lean = rng.normal(0, 2.5) * np.sin((y + 40) / rng.uniform(60, 120))
    across = half_width[:, None] - np.abs(AXIS - lean[:, None])
    column = 24 * dome_profile(across / 12) * bodies[:, None] + 5 * np.exp(-(((across - 1) / 1.6) ** 2))
    centres = np.arange(APEX - 5 * pitch + 4 + 0.38 * pitch, 230, pitch).astype(np.float32)
    ring = np.linspace(0, 2 * np.pi, 60, dtype=np.float32)
    px = np.stack([s * 10.5 + 3.0 * np.cos(ring) for s in (-1, 1)])[:, None] + 0 * centres[:, None]
    py = (centres[:, None] + 4.5 * np.sin(ring))[None] + 0 * px
    tips = splat(px.ravel(), py.ravel(), 3.0)
    t = np.linspace(0, 1, 40, dtype=np.float32)
    sx, sy = tube(
        0 * t + 0 * centres[:, None], centres[:, None] + pitch * (0.25 + 0.5 * t), 2.6, 10, hollow=0.9
    )
    tips += splat(sx.ravel(), sy.ravel(), 2.2)
    return (anatomy.bone * (column + tips)).astype(np.float32)


def airways(anatomy: Anatomy) -> Map:
    """Trachea and main bronchi: millimetres of missing tissue."""
    t = np.linspace(0, 1, 300, dtype=np.float32)
    bend = anatomy.trachea_bend * np.sin(np.pi * t) - 2
    xs, ys = tube(bend, -235 + 200 * t, 8.2, 40, hollow=0.1)
    for side, reach, fall in ((-1, 36, 34), (1, 44, 30)):
        bx, by = tube(
            bend[-1] + side * reach * t[::2], -38 + fall * t[::2], 5.6 - 1.5 * t[::2], 24, hollow=0.1
        )
        xs, ys = np.concatenate([xs.ravel(), bx.ravel()]), np.concatenate([ys.ravel(), by.ravel()])
    return splat(xs, ys, 0.62)


def vessel_points(anatomy: Anatomy) -> list[tuple[int, Map, Map, Map]]:
    """Branching vessels by side: (side, x outwards, y, weight); four generations fan out from each hilum."""
    rng = np.random.default_rng(anatomy.detail + 2)
    clouds = []
    for side, (hilum_x, hilum_y) in HILUM.items():
        count = 10
        x0 = hilum_x + rng.normal(-3, 4, count)
        y0 = hilum_y + rng.normal(0, 7, count)
        # more and larger vessels run down than up
        heading = np.linspace(-1.25, 1.35, count) + rng.normal(0, 0.1, count)
        length = 44 + 16 * rng.random(count) + 10 * (heading > 0.3)
        radius = 2.4 + 0.8 * (heading > 0.2) + 0.3 * rng.random(count)
        xs, ys, weights = [], [], []
        for generation in range(4):
            t = np.linspace(0, 1, (90, 64, 48, 34)[generation], dtype=np.float32)
            bend = rng.normal(0, 0.25, len(x0))[:, None]
            angle = heading[:, None] + bend * t
            px = (x0[:, None] + length[:, None] * t * np.cos(angle)).astype(np.float32)
            py = (y0[:, None] + length[:, None] * t * np.sin(angle)).astype(np.float32)
            thin = (radius[:, None] * (1 - 0.4 * t)).astype(np.float32)
            around = (12, 8, 5, 3)[generation]
            cx, cy = tube(px, py, thin, around, hollow=0.25)
            # projected depth is volume over area: radius^2 * length shared among the points of one tube
            share = (
                thin**2 * (length / t.size).astype(np.float32)[:, None] * np.float32(np.pi / around / MM**2)
            )
            xs.append(cx.ravel())
            ys.append(cy.ravel())
            weights.append(np.broadcast_to(share[..., None], cx.shape).ravel())
            at = np.array([0.42, 0.72, 0.98]) + rng.uniform(-0.08, 0.02, (len(x0), 3))
            index = (at * (t.size - 1)).astype(int)
            rows = np.arange(len(x0))[:, None]
            x0, y0 = px[rows, index].ravel(), py[rows, index].ravel()
            fork = rng.uniform(0.25, 0.75, at.shape) * rng.choice([-1, 1], at.shape)
            heading = (angle[rows, index] + fork * np.array([1, 1, 0.5])).ravel()
            length = (length[:, None] * rng.uniform(0.55, 0.8, at.shape)).ravel()
            radius = (thin[rows, index] * rng.uniform(0.55, 0.8, at.shape)).ravel()
        clouds.append((side, np.concatenate(xs), np.concatenate(ys), np.concatenate(weights)))
    return clouds
