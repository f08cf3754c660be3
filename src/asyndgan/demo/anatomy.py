"""The anatomy of head phantoms: where each tissue and lesion of a person lies.

Coordinates: the field of view is [-1, 1] in both axes, x from the image's left to right, y from
front to back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
from jaxtyping import Float

LABELS = {"background": 0, "head": 1, "ventricle": 2, "lesion": 3}

Plane = Float[np.ndarray, "h w"]
Stack = Float[np.ndarray, "c h w"]

_MOST_LESIONS = 3

_SMALLEST_SECTION = 0.05
"""In-plane radius at or below which a slice counts as missing a lesion: 1.6 pixels of 64."""

OVERSAMPLING = 2
"""Points drawn per pixel and axis: sulci are thinner than a pixel of a small image."""


@final
@dataclass(frozen=True)
class LesionHabit:
    """The distribution of lesions among a site's patients."""

    number: float = 2.5  # mean per patient (Poisson)
    radius: tuple[float, float] = (0.06, 0.12)  # least, most; a head extends 0.87 to the back
    # of the centre, least, most: 0 the brain's middle, 1 its surface
    place: tuple[float, float] = (0.35, 0.7)
    frontal: float = 0.5  # probability of lying in the front half
    edge: float = 0.12  # half-width of the soft edge, as a fraction of the radius


@final
@dataclass(frozen=True)
class Waves:
    """A smooth random function with mean 0 and a mean square of about 1/2."""

    frequencies: Float[np.ndarray, "n k"]
    phases: Float[np.ndarray, " n"]

    @classmethod
    def draw(cls, rng: np.random.Generator, scales: Sequence[float], count: int) -> "Waves":
        """Draws waves; `scales`: deviations of each coordinate's frequency, in radians a unit."""
        return cls(
            rng.normal(0.0, scales, size=(count, len(scales))), rng.uniform(0, 2 * np.pi, count)
        )

    def at(self, *coordinates: Plane | float) -> Plane:
        """Values at points, by one plane per coordinate or one number for all points."""
        total = np.zeros(np.broadcast_shapes(*map(np.shape, coordinates)), np.float32)
        for frequency, phase in zip(self.frequencies, self.phases, strict=True):
            angle = np.full_like(total, phase)
            for factor, coordinate in zip(frequency, coordinates, strict=True):
                angle += np.float32(factor) * coordinate
            total += np.cos(angle)
        return total / np.float32(np.sqrt(len(self.phases)))


@final
@dataclass(frozen=True)
class Head:
    """One person's anatomy, in normalised coordinates."""

    width: float
    length: float
    squareness: float
    taper: float
    tilt: float
    centre: tuple[float, float]
    scalp: float
    bone: float
    atrophy: float
    ventricles: tuple[float, float]
    ventricle_length: float
    callosum: float
    cortex: float
    outline: Waves
    warp: tuple[Waves, Waves]
    folds: Waves
    fold_depth: Waves
    texture: Waves

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Head":
        """Draw a person; ventricles and sulci widen together, as they do with age."""
        age = rng.beta(1.6, 2.0)
        side = rng.normal(0.0, 0.08)
        wide = 0.85 + 0.7 * age + rng.normal(0.0, 0.08)
        return cls(
            width=rng.normal(0.735, 0.03),
            length=rng.normal(0.91, 0.02),
            squareness=rng.uniform(2.1, 2.5),
            taper=rng.uniform(0.02, 0.09),
            tilt=rng.normal(0.0, 0.05),
            centre=(rng.normal(0.0, 0.02), rng.normal(0.0, 0.02)),
            scalp=rng.uniform(0.045, 0.075),
            bone=rng.uniform(0.05, 0.075),
            atrophy=age,
            ventricles=(wide * (1 + side), wide * (1 - side)),
            ventricle_length=rng.normal(0.40, 0.025),
            callosum=rng.normal(0.42, 0.02),
            cortex=rng.uniform(0.036, 0.046),
            outline=Waves.draw(rng, (2.2, 2.2, 1.0), 6),
            warp=(Waves.draw(rng, (4.0, 4.0, 1.5), 6), Waves.draw(rng, (4.0, 4.0, 1.5), 6)),
            folds=_draw_folds(rng),
            fold_depth=Waves.draw(rng, (3.0, 0.4, 1.5), 5),
            texture=Waves.draw(rng, (16.0, 16.0, 5.0), 10),
        )


def _draw_folds(rng: np.random.Generator) -> Waves:
    """Waves of (angle, depth, x, y, level, side) whose zero crossings are the sulci."""
    inwards = Waves.draw(rng, (0.0, 4.0, 0.0, 0.0, 2.5, 0.7), 12)
    inwards.frequencies[:, 0] = rng.uniform(9.0, 18.0, 12) * rng.choice((-1, 1), 12)
    branches = Waves.draw(rng, (0.0, 0.0, 0.0, 0.0, 2.5, 0.7), 8)
    pitch, heading = rng.uniform(13.0, 21.0, 8), rng.uniform(0, 2 * np.pi, 8)
    branches.frequencies[:, 2] = pitch * np.cos(heading)
    branches.frequencies[:, 3] = pitch * np.sin(heading)
    return Waves(
        np.concatenate([inwards.frequencies, branches.frequencies]),
        np.concatenate([inwards.phases, branches.phases]),
    )


@final
@dataclass(frozen=True)
class Grid:
    """The points of one slice in the head's own frame, with its size and tilt removed."""

    x: Plane  # distance from the midline, positive to the image's right; a head extends 0.70
    y: Plane  # distance from the middle, positive to the back; a head extends 0.87
    depth: Plane  # distance from the skin inwards; negative in the air
    level: float  # 0 at the basal ganglia, 1 above the ventricles
    pitch: float  # distance between neighbouring points

    def inside(self, distance: Plane, blur: float = 0.0) -> Plane:
        """Fraction of each point's square, 0 to 1, where `distance` is positive."""
        return np.clip(distance / (self.pitch + blur) + 0.5, 0.0, 1.0)


def place(head: Head, level: float, size: int) -> Grid:
    """The points of a slice of `size` x `size` pixels at a level, `OVERSAMPLING` for each side."""
    points = size * OVERSAMPLING
    axis = ((np.arange(points, dtype=np.float32) + 0.5) / points * 2 - 1).astype(np.float32)
    across, down = np.meshgrid(axis - head.centre[0], axis - head.centre[1])
    cos, sin = np.cos(head.tilt), np.sin(head.tilt)
    x, y = cos * across + sin * down, cos * down - sin * across
    narrowing = np.sqrt(1 - (0.55 * level) ** 2)
    x = (x / (head.width / 0.70 * narrowing)).astype(np.float32)
    y = (y / (head.length / 0.87 * narrowing)).astype(np.float32)
    radius = np.hypot(x, y) + np.float32(1e-6)
    p = head.squareness
    half_width = 0.70 * (1 + head.taper * y / radius)
    skin = (np.abs(x / half_width) ** p + np.abs(y / 0.87) ** p) ** (-1 / p) * radius
    skin *= 1 + 0.009 * head.outline.at(x / radius, y / radius, level)
    shift_x, shift_y = (0.016 * wave.at(x, y, level) for wave in head.warp)
    pitch = 2 / points / float(head.length / 0.87 * narrowing)
    return Grid(x + shift_x, y + shift_y, skin - radius, level, pitch)


def pial_distance(head: Head, grid: Grid) -> Plane:
    """Distance inwards from the brain's surface, which follows the sulci and fissures."""
    surface = grid.depth - (head.scalp + head.bone + 0.012 + 0.02 * head.atrophy)
    between, lateral = _fissures(head, grid)
    side = np.sign(grid.x)
    # The angle is measured from beyond the midline, so that the waves do not meet in one point.
    angle = np.arctan2(np.abs(grid.x) + 0.25, -grid.y)
    # Sulci lie where a wave crosses zero: |wave| over its slope is the distance to the crossing.
    wave = head.folds.at(angle, surface, np.abs(grid.x), grid.y, grid.level, side)
    slope = np.hypot(*np.gradient(wave, grid.pitch))
    reach = 0.18 + 0.06 * np.clip(head.fold_depth.at(angle, side, grid.level), -1.2, 1.2)
    beyond = np.maximum(np.minimum(surface, between + 0.10) - reach, 0)
    folds = np.hypot(np.abs(wave) / (slope + 1.0), beyond)
    return np.minimum(np.minimum(surface, folds), np.minimum(between, lateral))


def _fissures(head: Head, grid: Grid) -> tuple[Plane, Plane]:
    """Distances to the fissure between the hemispheres and to the two lateral fissures."""
    gap = head.callosum * _ramp(grid.level, 0.95, 0.6)
    between = np.hypot(grid.x, np.maximum(gap - np.abs(grid.y - 0.02), 0))
    course = grid.y + 0.12 + 0.35 * (np.abs(grid.x) - 0.5)
    reach = 0.36 + 0.4 * max(grid.level - 0.1, 0.0)
    return between, np.hypot(course, np.maximum(reach - np.abs(grid.x), 0))


def ventricle_distance(head: Head, grid: Grid) -> Plane:
    """Distance inwards from the wall of the ventricles, two arcs, `)(`; negative outside."""
    wide = np.where(grid.x < 0, *head.ventricles).astype(np.float32)
    knots = _ventricle_knots(head, grid.level)
    distance = np.full_like(grid.x, -1.0)
    for (x0, y0, r0), (x1, y1, r1) in pairwise(knots):
        x, y, dx, dy = np.abs(grid.x) - x0, grid.y - y0, x1 - x0, y1 - y0
        along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
        radius = (r0 + along * (r1 - r0)) * wide - 0.009
        distance = np.maximum(distance, radius - np.hypot(x - along * dx, y - along * dy))
    third = 0.018 * float(np.mean(head.ventricles)) * _ramp(grid.level, 0.3, 0.1) - 0.002
    slit = np.hypot(grid.x, np.maximum(np.abs(grid.y - 0.06) - 0.08, 0))
    return np.maximum(distance, third - slit)


def _ventricle_knots(head: Head, level: float) -> list[tuple[float, float, float]]:
    """Points (x, y, radius) on a lateral ventricle's centre line, from front to back."""
    present = _ramp(level, 0.95, 0.55)
    along = np.linspace(-1, 1, 13)
    bend = np.where(along < 0, 0.10, 0.21) * (1.15 - 0.5 * level)
    x = 0.045 + 0.032 * float(np.mean(head.ventricles)) + bend * along**2
    y = 0.01 + along * head.ventricle_length * (0.4 + 0.5 * present)
    radius = 0.050 * np.exp(-(((along + 0.60) / 0.33) ** 2))
    radius += 0.056 * np.exp(-(((along - 0.62) / 0.33) ** 2))
    radius += 0.036 * _ramp(level, 0.05, 0.4) * np.exp(-((along / 0.45) ** 2))
    return list(zip(x.tolist(), y.tolist(), (radius * present).tolist(), strict=True))


def nuclei(grid: Grid) -> Plane:
    """Fraction of each point, 0 to 1, in deep grey matter: caudate, lentiform, thalamus."""
    x, y = np.abs(grid.x), grid.y
    caudate = 1 - np.hypot((x - 0.17) / 0.050, (y + 0.20) / 0.10)
    lentiform = 1 - np.hypot((x - 0.29 - 0.25 * (y + 0.04)) / 0.06, (y + 0.04) / 0.16)
    thalamus = 1 - np.hypot((x - 0.11 - 0.15 * (y - 0.08)) / 0.085, (y - 0.08) / 0.13)
    nearest = np.maximum(caudate, np.maximum(lentiform, thalamus)) * 0.07
    return 0.9 * grid.inside(nearest, blur=0.02) * _ramp(grid.level, 0.5, 0.25)


def _ramp(value: float, none: float, full: float) -> float:
    """0 at `none`, 1 at `full`, smooth between."""
    part = float(np.clip((value - none) / (full - none), 0, 1))
    return part * part * (3 - 2 * part)


@final
@dataclass(frozen=True)
class Lesion:
    """One rounded, bumpy lesion in three dimensions, in the head's own frame."""

    centre: tuple[float, float, float]
    radius: float
    flatness: float
    turn: float
    height: float
    edge: float
    strength: float
    bumps: Waves

    def section(self, level: float) -> float:
        """In-plane radius at a level; 0 where the slice misses the lesion."""
        return self.radius * float(
            np.sqrt(max(1 - ((level - self.centre[2]) / self.height) ** 2, 0))
        )

    def part(self, grid: Grid) -> Plane:
        """Fraction of each point, 0 to 1, that is lesion; the mask includes 0.5 and above."""
        x, y = grid.x - self.centre[0], grid.y - self.centre[1]
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        along, across = (cos * x + sin * y) * self.flatness, (cos * y - sin * x) / self.flatness
        distance = np.hypot(along, across).astype(np.float32) + np.float32(1e-6)
        bump = 0.2 * self.bumps.at(along / distance, across / distance, grid.level)
        section = self.section(grid.level)
        inwards = section * (1 + bump) - distance
        return 1 / (1 + np.exp(-np.clip(inwards / (self.edge * section), -30, 30)))


def draw_lesion(rng: np.random.Generator, habit: LesionHabit) -> Lesion:
    """Draws one of a person's lesions."""
    # The square makes small lesions more common.
    radius = habit.radius[0] + (habit.radius[1] - habit.radius[0]) * rng.uniform() ** 2
    # The angle from the front or the back starts at 22 degrees, so the midline stays free.
    angle = np.deg2rad(rng.uniform(22, 90))
    side = rng.choice((-1, 1))
    end = -1 if rng.uniform() < habit.frontal else 1
    way = rng.uniform(*habit.place)
    return Lesion(
        centre=(
            float(side * 0.56 * way * np.sin(angle)),
            float(end * 0.73 * way * np.cos(angle)),
            float(rng.uniform(-0.05, 1.0)),
        ),
        radius=float(radius),
        flatness=float(rng.uniform(0.78, 1.0)),
        turn=float(rng.uniform(0, np.pi)),
        height=float(rng.uniform(1.4, 2.6) * radius + 0.06),
        edge=habit.edge,
        strength=float(rng.uniform(0.7, 1.0)),
        bumps=Waves.draw(rng, (1.8, 1.8, 2.0), 6),
    )


def lesion_part(lesions: Sequence[Lesion], grid: Grid) -> tuple[Plane, Plane]:
    """Fraction of each point that is lesion, and the same weighted by each lesion's strength."""
    shown = sorted(lesions, key=lambda lesion: -lesion.section(grid.level))[:_MOST_LESIONS]
    part, marked = np.zeros_like(grid.x), np.zeros_like(grid.x)
    for lesion in shown:
        if lesion.section(grid.level) > _SMALLEST_SECTION:
            its = lesion.part(grid)
            part = np.maximum(part, its)
            marked = np.maximum(marked, its * lesion.strength)
    return part, marked
