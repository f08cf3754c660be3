"""Head phantoms of several sites: axial slices or volumes, T1, T2 and FLAIR, with exact label maps.

Every random number comes from a stream named by (seed, cohort, patient, purpose), so patient 7 is
the same person regardless of the number of patients at the site, the image size and the scanner.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

import numpy as np

from asyndgan.demo.anatomy import LABELS, Head, LesionHabit, draw_lesion
from asyndgan.demo.scanner import FIELD_OF_VIEW, MODALITIES, Look, Scanner, draw_slice, scan
from asyndgan.errors import DataError
from asyndgan.export.writing import write_dataset
from asyndgan.store.case import RawCase

_LEVELS = range(8, 20)
"""Slice numbers that can be drawn: from the basal ganglia up to above the ventricles."""

_HEIGHT = 55.0
"""Millimetres from the middle of the lowest slice of `_LEVELS` to that of the highest."""

_TEST_PATIENTS = 6


MOST_SLICES: Final = 256  # of a volume


@final
@dataclass(frozen=True)
class PhantomSite:
    """One site: its patients' number and lesions, slices a patient (1 to 12), and its scanner."""

    name: str
    patients: int
    slices: int
    scanner: Scanner
    lesions: LesionHabit


DEFAULT_SITES: tuple[PhantomSite, ...] = (
    # A recent 3 T machine: sharp, low noise, full contrast; many small lesions by the ventricles.
    PhantomSite(
        name="north", patients=26, slices=4,
        scanner=Scanner(
            t1=Look(gain=0.98, contrast=1.15), t2=Look(gain=0.95, contrast=1.1),
            flair=Look(gain=0.95, contrast=1.1),
            bias=0.12, bias_from=160.0, noise=0.018, blur=0.5,
        ),
        lesions=LesionHabit(number=5.0, radius=(0.065, 0.11), place=(0.4, 0.62), edge=0.16),
    ),
    # An old 1.5 T machine: blurred, noisy, low contrast; few large lesions, mostly frontal.
    PhantomSite(
        name="south", patients=20, slices=4,
        scanner=Scanner(
            t1=Look(gain=0.72, gamma=1.1, contrast=0.85, offset=0.05),
            t2=Look(gain=0.66, gamma=1.15, contrast=0.9, offset=0.04),
            flair=Look(gain=0.66, contrast=0.85, offset=0.05),
            fat=0.85, bias=0.22, bias_from=20.0, noise=0.042, blur=1.6,
        ),
        lesions=LesionHabit(1.8, radius=(0.13, 0.24), place=(0.45, 0.65), frontal=0.75, edge=0.1),
    ),
    # A surface coil with fat saturation: dark scalp, strong shading; cortical lesions at the back.
    PhantomSite(
        name="east", patients=22, slices=3,
        scanner=Scanner(
            t1=Look(gain=0.95, gamma=1.5, contrast=1.1), t2=Look(gain=0.92, gamma=1.45),
            flair=Look(gain=0.95, gamma=1.35, contrast=1.05),
            fat=0.22, bias=0.42, bias_from=75.0, noise=0.03, blur=0.8,
        ),
        lesions=LesionHabit(2.5, radius=(0.09, 0.17), place=(0.6, 0.84), frontal=0.25, edge=0.18),
    ),
    # A bright, washed-out display window; lesions of every size anywhere.
    PhantomSite(
        name="west", patients=15, slices=4,
        scanner=Scanner(
            t1=Look(gain=0.86, gamma=0.7, contrast=0.95, offset=0.08),
            t2=Look(gain=0.88, gamma=0.65, offset=0.06),
            flair=Look(gain=0.9, gamma=0.75, contrast=0.95, offset=0.05),
            fat=1.05, bias=0.2, bias_from=-110.0, noise=0.035, blur=1.1,
        ),
        lesions=LesionHabit(number=3.0, radius=(0.065, 0.19), place=(0.4, 0.78), edge=0.13),
    ),
)  # fmt: skip


def phantom_cases(
    site: PhantomSite, *, size: int, seed: int, slices: int | None = None
) -> Iterator[RawCase]:
    """Draws every case of a site, patient by patient and from the lowest slice up.

    Images have `size` rows and columns, 32 or more. With `slices`, 2 or more, each patient has one
    volume of so many.

    Yields:
        Cases named `<site>-p<patient>_s<slice>`, or `<site>-p<patient>` of volumes: channels T1, T2
        and FLAIR as float32 of whole numbers in 0 to 255; mask int64 of 0 background, 1 head (from
        the skin inwards), 2 ventricle and 3 lesion.

    Raises:
        DataError: a size below 32, a negative seed or fewer than 2 slices.
    """
    if size < 32:
        raise DataError(f"phantoms: size {size}; lesions need 32 pixels or more.")
    if seed < 0:
        raise DataError(f"phantoms: seed {seed}; give 0 or more.")
    if slices is not None and not 2 <= slices <= MOST_SLICES:
        raise DataError(f"phantoms: slices {slices}; a volume has 2 to {MOST_SLICES}.")
    for patient in range(site.patients):
        yield from _patient_cases(site, patient, size, seed, slices)


def write_phantoms(
    folder: Path,
    *,
    size: int = 64,
    seed: int = 0,
    sites: Sequence[PhantomSite] = DEFAULT_SITES,
    patients_scale: float = 1.0,
    slices: int | None = None,
) -> dict[str, int]:
    """Writes each site to `folder/<site>` and the test set to `folder/test`, in nnU-Net's format.

    The test set has patients of no site, `test-*`, with every site's scanner and lesions.
    `patients_scale` is a factor for every number of patients; each set keeps at least one a site.
    Volumes are written as NIfTI, and single slices as PNG.

    Returns:
        Number of cases by name of the data set, the test set last.

    Raises:
        DataError: as `phantom_cases`, a scale that is not positive, or a folder that cannot be
            written.
    """
    if not patients_scale > 0:
        raise DataError(f"phantoms: patients scale {patients_scale}; give a number above 0.")
    tests = [replace(site, name=f"test-{site.name}", patients=_TEST_PATIENTS) for site in sites]
    return {
        name: write_dataset(
            folder / name,
            (
                case
                for site in parts
                for case in phantom_cases(
                    replace(site, patients=max(1, round(site.patients * patients_scale))),
                    size=size,
                    seed=seed,
                    slices=slices,
                )
            ),
            modalities=MODALITIES,
            labels=LABELS,
            name=name,
            file_ending=".nii.gz" if slices else ".png",
        )
        for name, parts in {**{site.name: [site] for site in sites}, "test": tests}.items()
    }


def _patient_cases(
    site: PhantomSite, patient: int, size: int, seed: int, slices: int | None
) -> Iterator[RawCase]:
    def stream(purpose: str) -> np.random.Generator:
        # crc32, since Python's own hash of a string differs between processes
        cohort, number = (zlib.crc32(text.encode()) for text in (site.name, purpose))
        return np.random.default_rng([seed, cohort, patient, number])

    head = Head.draw(stream("head"))
    chance = stream("lesions")
    count = chance.poisson(site.lesions.number)
    lesions = [draw_lesion(chance, site.lesions) for _ in range(count)]
    name, side = f"{site.name}-p{patient:03d}", FIELD_OF_VIEW / size

    def drawn(number: int, level: float) -> tuple[np.ndarray, np.ndarray]:
        signal, mask = draw_slice(head, lesions, site.scanner, level, size)
        image = scan(signal, site.scanner, stream("exposure"), stream(f"noise {number}"))
        return image, mask

    if slices:
        each = [drawn(number, number / (slices - 1)) for number in range(slices)]
        images, masks = map(np.stack, zip(*each, strict=True))
        volume = dict(zip(MODALITIES, images.swapaxes(0, 1), strict=True))
        yield RawCase(name, name, volume, masks, (_HEIGHT / (slices - 1), side, side))
        return
    chance = stream("slices")
    for part in np.array_split(np.array(_LEVELS), site.slices):
        number = int(chance.choice(part))
        image, mask = drawn(number, (number - _LEVELS.start) / (len(_LEVELS) - 1))
        channels = dict(zip(MODALITIES, image, strict=True))
        yield RawCase(f"{name}_s{number}", name, channels, mask, (side, side))
