"""Head phantoms of several sites: axial T1, T2 and FLAIR slices with exact label maps.

They serve the demo and the tests, where no patient's image may be used. A patient is drawn once in
normalised coordinates (the field of view is [-1, 1] in both axes, x from the image's left to right,
y from front to back) and can be rendered at any size. The scanner's effects are applied last, in
physical order: contrast, receive field, point spread, Rician noise, display window.

Every random number comes from a stream named by (seed, cohort, patient, purpose), so patient 7 is
the same person regardless of the number of patients at the site, the image size and the scanner.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter

from asyndgan.data.case import RawCase
from asyndgan.data.writing import write_dataset
from asyndgan.errors import DataError

MODALITIES = ("T1", "T2", "FLAIR")
LABELS = {"background": 0, "head": 1, "ventricle": 2, "lesion": 3}

Plane = Float[np.ndarray, "h w"]
Stack = Float[np.ndarray, "c h w"]

_FIELD_OF_VIEW = 220.0
"""Millimetres from edge to edge of an image."""

_LEVELS = range(8, 20)
"""Slice numbers that can be drawn: from the basal ganglia up to above the ventricles."""

_MOST_LESIONS = 3
"""Most lesions shown in one slice."""

_SMALLEST_SECTION = 0.05
"""In-plane radius at or below which a slice counts as missing a lesion: 1.6 pixels of 64."""

_OVERSAMPLING = 2
"""Points drawn per pixel and axis: sulci are thinner than a pixel of a small image."""

_TEST_PATIENTS = 6
"""Patients per site in the test set."""

# Signal of each tissue, in the order of MODALITIES; 1 is the brightest. T1 and T2 are spin-echo,
# and FLAIR's inversion nulls cerebrospinal fluid. The ranking of tissues matters, not the values.
_SIGNAL = {
    "skin": (0.42, 0.34, 0.32),
    "fat": (0.88, 0.66, 0.58),
    "bone": (0.05, 0.04, 0.04),
    "marrow": (0.34, 0.24, 0.20),
    "fluid": (0.13, 0.97, 0.07),
    "grey": (0.47, 0.60, 0.53),
    "nucleus": (0.55, 0.52, 0.49),
    "white": (0.72, 0.40, 0.40),
    "lesion": (0.36, 0.82, 0.93),
}


@final
@dataclass(frozen=True)
class Look:
    """How a scanner renders one modality: `gain * (contrast around mid-grey) ** gamma + offset`.

    Attributes:
        gain: factor of the signal.
        gamma: above 1 darkens the mid-tones, below 1 lifts them.
        contrast: factor of the distance from mid-grey, within the head.
        offset: added to everything in the head (a display window that starts below zero).
    """

    gain: float = 1.0
    gamma: float = 1.0
    contrast: float = 1.0
    offset: float = 0.0


@final
@dataclass(frozen=True)
class Scanner:
    """The effect of one site's machine and protocol on every image.

    Attributes:
        t1: look of T1.
        t2: look of T2.
        flair: look of FLAIR.
        fat: factor of the fat's signal in the scalp; near 0 with fat saturation.
        bias: amplitude of the receive field, in natural log units at the edge of the head.
        bias_from: direction in which the field is brightest, in degrees: 0 is the front, 90 the
            image's right.
        noise: standard deviation of the real and of the imaginary part of the noise, relative to
            the brightest tissue.
        blur: standard deviation of the point spread, in millimetres.
    """

    t1: Look = Look()
    t2: Look = Look()
    flair: Look = Look()
    fat: float = 1.0
    bias: float = 0.15
    bias_from: float = 0.0
    noise: float = 0.03
    blur: float = 0.8


@final
@dataclass(frozen=True)
class LesionHabit:
    """The distribution of lesions among a site's patients.

    Attributes:
        number: mean number per patient; the number is Poisson-distributed.
        radius: smallest and largest radius, where a head extends 0.87 from its middle to the back.
        place: smallest and largest distance of the centre, as a fraction of the way from the middle
            of the brain to its surface; ventricles end near 0.3.
        frontal: probability of lying in the front half.
        edge: half-width of the soft edge, as a fraction of the radius.
    """

    number: float = 2.5
    radius: tuple[float, float] = (0.06, 0.12)
    place: tuple[float, float] = (0.35, 0.7)
    frontal: float = 0.5
    edge: float = 0.12


@final
@dataclass(frozen=True)
class PhantomSite:
    """One site: its number of patients, its scanner and its patients' lesions.

    Attributes:
        name: site name, also the first part of its patients' names.
        patients: number of patients.
        slices: slices per patient, 1 to 12.
        scanner: scanner of the site.
        lesions: distribution of its patients' lesions.

    Raises:
        DataError: no patients, or slices outside 1 to 12.
    """

    name: str
    patients: int
    slices: int
    scanner: Scanner
    lesions: LesionHabit

    def __post_init__(self) -> None:
        if self.patients < 1:
            raise DataError(f"phantom site {self.name}: {self.patients} patients; give 1 or more.")
        if not 1 <= self.slices <= len(_LEVELS):
            raise DataError(
                f"phantom site {self.name}: {self.slices} slices a patient; "
                f"give 1 to {len(_LEVELS)}."
            )


DEFAULT_SITES: tuple[PhantomSite, ...] = (
    # A recent 3 T machine: sharp, low noise, full contrast; many small lesions by the ventricles.
    PhantomSite(
        name="north",
        patients=26,
        slices=4,
        scanner=Scanner(
            t1=Look(gain=0.98, contrast=1.15),
            t2=Look(gain=0.95, contrast=1.1),
            flair=Look(gain=0.95, contrast=1.1),
            bias=0.12,
            bias_from=160.0,
            noise=0.018,
            blur=0.5,
        ),
        lesions=LesionHabit(number=5.0, radius=(0.065, 0.11), place=(0.4, 0.62), edge=0.16),
    ),
    # An old 1.5 T machine: blurred, noisy, low contrast; few large lesions, mostly frontal.
    PhantomSite(
        name="south",
        patients=20,
        slices=4,
        scanner=Scanner(
            t1=Look(gain=0.72, gamma=1.1, contrast=0.85, offset=0.05),
            t2=Look(gain=0.66, gamma=1.15, contrast=0.9, offset=0.04),
            flair=Look(gain=0.66, contrast=0.85, offset=0.05),
            fat=0.85,
            bias=0.22,
            bias_from=20.0,
            noise=0.042,
            blur=1.6,
        ),
        lesions=LesionHabit(
            number=1.8, radius=(0.13, 0.24), place=(0.45, 0.65), frontal=0.75, edge=0.1
        ),
    ),
    # A surface coil with fat saturation: dark scalp, strong shading; cortical lesions at the back.
    PhantomSite(
        name="east",
        patients=22,
        slices=3,
        scanner=Scanner(
            t1=Look(gain=0.95, gamma=1.5, contrast=1.1),
            t2=Look(gain=0.92, gamma=1.45),
            flair=Look(gain=0.95, gamma=1.35, contrast=1.05),
            fat=0.22,
            bias=0.42,
            bias_from=75.0,
            noise=0.03,
            blur=0.8,
        ),
        lesions=LesionHabit(
            number=2.5, radius=(0.09, 0.17), place=(0.6, 0.84), frontal=0.25, edge=0.18
        ),
    ),
    # A bright, washed-out display window; lesions of every size anywhere.
    PhantomSite(
        name="west",
        patients=15,
        slices=4,
        scanner=Scanner(
            t1=Look(gain=0.86, gamma=0.7, contrast=0.95, offset=0.08),
            t2=Look(gain=0.88, gamma=0.65, offset=0.06),
            flair=Look(gain=0.9, gamma=0.75, contrast=0.95, offset=0.05),
            fat=1.05,
            bias=0.2,
            bias_from=-110.0,
            noise=0.035,
            blur=1.1,
        ),
        lesions=LesionHabit(number=3.0, radius=(0.065, 0.19), place=(0.4, 0.78), edge=0.13),
    ),
)


def phantom_cases(site: PhantomSite, *, size: int, seed: int) -> Iterator[RawCase]:
    """Draw every case of a site, patient by patient and from the lowest slice up.

    Args:
        site: the site to draw.
        size: rows and columns of an image, 32 or more.
        seed: different seeds give different patients.

    Yields:
        Cases named `<site>-p<patient>_s<slice>`: channels T1, T2 and FLAIR as float32 of whole
        numbers in 0 to 255; mask int64 of 0 background, 1 head (from the skin inwards), 2 ventricle
        and 3 lesion.

    Raises:
        DataError: a size below 32 or a negative seed.
    """
    _check(size, seed)
    for patient in range(site.patients):
        yield from _patient_cases(site, site.name, patient, size=size, seed=seed)


def test_cases(
    sites: Sequence[PhantomSite], *, size: int, seed: int, patients_per_site: int
) -> Iterator[RawCase]:
    """Draw the test set: patients of no site, with every site's scanner and lesions in turn.

    Args:
        sites: sites whose scanners and lesions to use.
        size: rows and columns of an image, 32 or more.
        seed: as in `phantom_cases`.
        patients_per_site: number of test patients for each site's scanner and lesions.

    Yields:
        Cases as from `phantom_cases`, named `test-<site>-p<patient>_s<slice>`.

    Raises:
        DataError: a size below 32 or a negative seed.
    """
    _check(size, seed)
    for site in sites:
        for patient in range(patients_per_site):
            yield from _patient_cases(site, f"test-{site.name}", patient, size=size, seed=seed)


def write_phantoms(
    folder: Path,
    *,
    size: int = 64,
    seed: int = 0,
    sites: Sequence[PhantomSite] = DEFAULT_SITES,
    patients_scale: float = 1.0,
) -> dict[str, int]:
    """Write each site to `folder/<site>` and the test set to `folder/test`, in nnU-Net's format.

    Args:
        folder: created if it does not exist.
        size: rows and columns of an image, 32 or more.
        seed: as in `phantom_cases`.
        sites: the sites to write.
        patients_scale: factor for every number of patients, including the test set's; each data
            set keeps at least one patient per site.

    Returns:
        Number of cases by name of the data set, the test set last.

    Raises:
        DataError: a size below 32, a negative seed, a scale that is not positive, or a folder that
            cannot be written.
    """
    _check(size, seed)
    if not patients_scale > 0:
        raise DataError(f"phantoms: patients scale {patients_scale}; give a number above 0.")
    sites = [replace(site, patients=_scaled(site.patients, patients_scale)) for site in sites]
    written = {
        site.name: _write(folder / site.name, phantom_cases(site, size=size, seed=seed), site.name)
        for site in sites
    }
    held_out = test_cases(
        sites, size=size, seed=seed, patients_per_site=_scaled(_TEST_PATIENTS, patients_scale)
    )
    return written | {"test": _write(folder / "test", held_out, "test")}


def _write(folder: Path, cases: Iterator[RawCase], name: str) -> int:
    return write_dataset(folder, cases, modalities=MODALITIES, labels=LABELS, name=name)


def _scaled(patients: int, scale: float) -> int:
    return max(1, round(patients * scale))


def _check(size: int, seed: int) -> None:
    if size < 32:
        raise DataError(f"phantoms: size {size}; lesions need 32 pixels or more.")
    if seed < 0:
        raise DataError(f"phantoms: seed {seed}; give 0 or more.")


def _patient_cases(
    site: PhantomSite, cohort: str, patient: int, *, size: int, seed: int
) -> Iterator[RawCase]:
    def stream(purpose: str) -> np.random.Generator:
        # crc32, since Python's own hash of a string differs between processes
        return np.random.default_rng([seed, _number(cohort), patient, _number(purpose)])

    head = _Head.draw(stream("head"))
    lesions = _draw_lesions(stream("lesions"), site.lesions)
    exposure = _Exposure.draw(stream("exposure"), site.scanner)
    name = f"{cohort}-p{patient:03d}"
    for number in _slice_numbers(stream("slices"), site.slices):
        level = (number - _LEVELS.start) / (len(_LEVELS) - 1)
        signal, mask = _draw_slice(head, lesions, site.scanner, level, size)
        image = _scan(signal, exposure, stream(f"noise {number}"))
        yield RawCase(
            name=f"{name}_s{number}",
            patient=name,
            channels=dict(zip(MODALITIES, image, strict=True)),
            mask=mask,
            spacing=(_FIELD_OF_VIEW / size, _FIELD_OF_VIEW / size),
        )


def _number(text: str) -> int:
    return zlib.crc32(text.encode())


def _slice_numbers(rng: np.random.Generator, count: int) -> list[int]:
    """Draws one slice number from each of `count` nearly equal parts of `_LEVELS`."""
    return [int(rng.choice(part)) for part in np.array_split(np.array(_LEVELS), count)]


# --- Smooth randomness ------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Waves:
    """A smooth random function with mean 0 and a mean square of about 1/2."""

    frequencies: Float[np.ndarray, "n k"]
    phases: Float[np.ndarray, " n"]

    @classmethod
    def draw(cls, rng: np.random.Generator, scales: Sequence[float], count: int) -> "_Waves":
        """Draw `count` waves.

        `scales` are the standard deviations of each coordinate's frequency, in radians per unit.
        """
        return cls(
            rng.normal(0.0, scales, size=(count, len(scales))), rng.uniform(0, 2 * np.pi, count)
        )

    def at(self, *coordinates: Plane | float) -> Plane:
        """Evaluate at points given by one plane per coordinate, or one number for all points."""
        total = np.zeros(np.broadcast_shapes(*map(np.shape, coordinates)), np.float32)
        for frequency, phase in zip(self.frequencies, self.phases, strict=True):
            angle = np.full_like(total, phase)
            for factor, coordinate in zip(frequency, coordinates, strict=True):
                angle += np.float32(factor) * coordinate
            total += np.cos(angle)
        return total / np.float32(np.sqrt(len(self.phases)))


# --- Anatomy ----------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Head:
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
    outline: _Waves
    warp: tuple[_Waves, _Waves]
    folds: _Waves
    fold_depth: _Waves
    texture: _Waves

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Head":
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
            outline=_Waves.draw(rng, (2.2, 2.2, 1.0), 6),
            warp=(_Waves.draw(rng, (4.0, 4.0, 1.5), 6), _Waves.draw(rng, (4.0, 4.0, 1.5), 6)),
            folds=_draw_folds(rng),
            fold_depth=_Waves.draw(rng, (3.0, 0.4, 1.5), 5),
            texture=_Waves.draw(rng, (16.0, 16.0, 5.0), 10),
        )


def _draw_folds(rng: np.random.Generator) -> _Waves:
    """Waves of (angle, depth, x, y, level, side) whose zero crossings are the sulci.

    Waves along the angle make sulci that point inwards; waves in x and y bend and branch them.
    Both hemispheres share the waves, phase-shifted by side, so they look alike but not mirrored.
    """
    inwards = _Waves.draw(rng, (0.0, 4.0, 0.0, 0.0, 2.5, 0.7), 12)
    inwards.frequencies[:, 0] = rng.uniform(9.0, 18.0, 12) * rng.choice((-1, 1), 12)
    branches = _Waves.draw(rng, (0.0, 0.0, 0.0, 0.0, 2.5, 0.7), 8)
    pitch, heading = rng.uniform(13.0, 21.0, 8), rng.uniform(0, 2 * np.pi, 8)
    branches.frequencies[:, 2] = pitch * np.cos(heading)
    branches.frequencies[:, 3] = pitch * np.sin(heading)
    return _Waves(
        np.concatenate([inwards.frequencies, branches.frequencies]),
        np.concatenate([inwards.phases, branches.phases]),
    )


@final
@dataclass(frozen=True)
class _Grid:
    """The points of one slice in the head's own frame, with its size and tilt removed.

    Attributes:
        x: distance from the midline, positive to the image's right; a head extends 0.70.
        y: distance from the middle, positive to the back; a head extends 0.87.
        depth: distance from the skin inwards; negative in the air.
        level: 0 at the basal ganglia, 1 above the ventricles.
        pitch: distance between neighbouring points.
    """

    x: Plane
    y: Plane
    depth: Plane
    level: float
    pitch: float

    def inside(self, distance: Plane, blur: float = 0.0) -> Plane:
        """Fraction of each point's square, 0 to 1, where `distance` is positive."""
        return np.clip(distance / (self.pitch + blur) + 0.5, 0.0, 1.0)


def _place(head: _Head, level: float, size: int) -> _Grid:
    points = size * _OVERSAMPLING
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
    return _Grid(x + shift_x, y + shift_y, skin - radius, level, pitch)


def _pial_distance(head: _Head, grid: _Grid) -> Plane:
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


def _fissures(head: _Head, grid: _Grid) -> tuple[Plane, Plane]:
    """Distances to the fissure between the hemispheres and to the two lateral fissures."""
    gap = head.callosum * _ramp(grid.level, 0.95, 0.6)
    between = np.hypot(grid.x, np.maximum(gap - np.abs(grid.y - 0.02), 0))
    course = grid.y + 0.12 + 0.35 * (np.abs(grid.x) - 0.5)
    reach = 0.36 + 0.4 * max(grid.level - 0.1, 0.0)
    return between, np.hypot(course, np.maximum(reach - np.abs(grid.x), 0))


def _ventricle_distance(head: _Head, grid: _Grid) -> Plane:
    """Distance inwards from the wall of the ventricles; negative outside.

    The ventricles are two arcs back to back, `)(`. At the lowest level the horns are separate with
    the slit of the third ventricle between them; further up their bodies join them; at the top
    they vanish.
    """
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


def _ventricle_knots(head: _Head, level: float) -> list[tuple[float, float, float]]:
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


def _nuclei(grid: _Grid) -> Plane:
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


# --- Lesions ----------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Lesion:
    """One rounded, bumpy lesion in three dimensions, in the head's own frame."""

    centre: tuple[float, float, float]
    radius: float
    flatness: float
    turn: float
    height: float
    edge: float
    strength: float
    bumps: _Waves

    def section(self, level: float) -> float:
        """In-plane radius at a level; 0 where the slice misses the lesion."""
        return self.radius * float(
            np.sqrt(max(1 - ((level - self.centre[2]) / self.height) ** 2, 0))
        )

    def part(self, grid: _Grid) -> Plane:
        """Fraction of each point, 0 to 1, that is lesion; the mask includes 0.5 and above."""
        x, y = grid.x - self.centre[0], grid.y - self.centre[1]
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        along, across = (cos * x + sin * y) * self.flatness, (cos * y - sin * x) / self.flatness
        distance = np.hypot(along, across).astype(np.float32) + np.float32(1e-6)
        bump = 0.2 * self.bumps.at(along / distance, across / distance, grid.level)
        section = self.section(grid.level)
        inwards = section * (1 + bump) - distance
        return 1 / (1 + np.exp(-np.clip(inwards / (self.edge * section), -30, 30)))


def _draw_lesions(rng: np.random.Generator, habit: LesionHabit) -> list[_Lesion]:
    return [_draw_lesion(rng, habit) for _ in range(rng.poisson(habit.number))]


def _draw_lesion(rng: np.random.Generator, habit: LesionHabit) -> _Lesion:
    # The square makes small lesions more common.
    radius = habit.radius[0] + (habit.radius[1] - habit.radius[0]) * rng.uniform() ** 2
    # The angle from the front or the back starts at 22 degrees, so the midline stays free.
    angle = np.deg2rad(rng.uniform(22, 90))
    side = rng.choice((-1, 1))
    end = -1 if rng.uniform() < habit.frontal else 1
    way = rng.uniform(*habit.place)
    return _Lesion(
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
        bumps=_Waves.draw(rng, (1.8, 1.8, 2.0), 6),
    )


def _lesion_part(lesions: Sequence[_Lesion], grid: _Grid) -> tuple[Plane, Plane]:
    """Fraction of each point that is lesion, and the same weighted by each lesion's strength."""
    shown = sorted(lesions, key=lambda lesion: -lesion.section(grid.level))[:_MOST_LESIONS]
    part, marked = np.zeros_like(grid.x), np.zeros_like(grid.x)
    for lesion in shown:
        if lesion.section(grid.level) > _SMALLEST_SECTION:
            its = lesion.part(grid)
            part = np.maximum(part, its)
            marked = np.maximum(marked, its * lesion.strength)
    return part, marked


# --- One slice --------------------------------------------------------------------------------


def _draw_slice(
    head: _Head, lesions: Sequence[_Lesion], scanner: Scanner, level: float, size: int
) -> tuple[Stack, Int[np.ndarray, "h w"]]:
    """Noiseless signal of each modality and the label map, at the image's resolution."""
    grid = _place(head, level, size)
    ventricle = _ventricle_distance(head, grid)
    pia = _pial_distance(head, grid)
    brain = grid.inside(grid.depth - head.scalp - head.bone - 0.02)
    fluid = grid.inside(ventricle)
    lesion, marked = (part * brain * (1 - fluid) for part in _lesion_part(lesions, grid))
    grey = 1 - grid.inside(pia - head.cortex - 0.012, blur=0.012)
    sulci = (1 - grid.inside(pia - 0.004 - 0.012 * head.atrophy)) * (1 - lesion)
    # Bright caps at the ventricles' walls, which a segmenter must not mistake for lesions.
    caps = 0.3 * np.exp(-np.maximum(-ventricle, 0) / 0.022) * (1 - grey)
    layers = [
        *_coverings(head, grid, scanner),
        ("white", brain),
        ("grey", brain * grey),
        ("nucleus", brain * _nuclei(grid)),
        ("lesion", brain * caps),
        ("fluid", brain * sulci),
        ("lesion", marked * (1 + 0.1 * head.texture.at(grid.x, grid.y, level))),
        ("fluid", fluid),
    ]
    signal = _composed(layers, scanner) * (1 + 0.03 * head.texture.at(grid.y, grid.x, level))
    skin = _pooled(grid.inside(grid.depth))
    mask = (skin >= 0.5).astype(np.int64)
    mask[_pooled(fluid) >= 0.5] = LABELS["ventricle"]
    mask[_pooled(lesion) >= 0.5] = LABELS["lesion"]
    return _pooled(signal), mask


def _coverings(head: _Head, grid: _Grid, scanner: Scanner) -> list[tuple[str, Plane]]:
    """Layers of skin, fat, bone and its marrow, from the outside inwards."""
    marrow = 1 - np.abs(grid.depth - head.scalp - 0.5 * head.bone) / (0.22 * head.bone)
    return [
        ("skin", grid.inside(grid.depth)),
        ("fat", grid.inside(grid.depth - 0.014)),
        ("bone", grid.inside(grid.depth - head.scalp)),
        ("marrow", grid.inside(marrow * 0.22 * head.bone, blur=0.01)),
    ]


def _composed(layers: Sequence[tuple[str, Plane]], scanner: Scanner) -> Stack:
    """Blend each tissue over the previous ones, weighted by the fraction of each point it fills."""
    looks = (scanner.t1, scanner.t2, scanner.flair)
    planes = []
    for modality, look in enumerate(looks):
        plane = np.zeros_like(layers[0][1])
        for tissue, part in layers:
            signal = _SIGNAL[tissue][modality] * (scanner.fat if tissue == "fat" else 1.0)
            plane += part * (_seen(signal, look) - plane)
        planes.append(plane)
    return np.stack(planes)


def _seen(signal: float, look: Look) -> float:
    contrasted = min(max((signal - 0.45) * look.contrast + 0.45, 0.02), 1.2)
    return look.gain * contrasted**look.gamma + look.offset


def _pooled(planes: np.ndarray) -> np.ndarray:
    """Averages the drawn points of each pixel."""
    *front, rows, columns = planes.shape
    n = _OVERSAMPLING
    return planes.reshape(*front, rows // n, n, columns // n, n).mean(axis=(-3, -1))


# --- The scanner ------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Exposure:
    """A scanner during one patient's scan: the site's look with small deviations."""

    scanner: Scanner
    gains: tuple[float, ...]
    direction: float
    field: _Waves

    @classmethod
    def draw(cls, rng: np.random.Generator, scanner: Scanner) -> "_Exposure":
        """Draw the deviations."""
        return cls(
            scanner=scanner,
            gains=tuple(float(gain) for gain in np.exp(rng.normal(0.0, 0.04, len(MODALITIES)))),
            direction=float(np.deg2rad(scanner.bias_from + rng.normal(0.0, 20.0))),
            field=_Waves.draw(rng, (1.6, 1.6), 5),
        )


def _scan(signal: Stack, exposure: _Exposure, rng: np.random.Generator) -> Stack:
    """Applies receive field, point spread and Rician noise, and quantises to eight bits."""
    scanner = exposure.scanner
    size = signal.shape[-1]
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    towards = x * np.sin(exposure.direction) - y * np.cos(exposure.direction)
    field = np.exp(scanner.bias * (0.8 * towards + 0.5 * exposure.field.at(x, y)))
    received = signal * field * np.array(exposure.gains, np.float32)[:, None, None]
    spread = scanner.blur / (_FIELD_OF_VIEW / size)
    received = gaussian_filter(received, (0, spread, spread))
    real, imaginary = scanner.noise * rng.standard_normal((2, *signal.shape))
    magnitude = np.hypot(received + real, imaginary)
    return np.clip(np.rint(magnitude * 255), 0, 255).astype(np.float32)
