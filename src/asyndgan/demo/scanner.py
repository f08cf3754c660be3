"""The scanners of head phantoms: what a machine and its protocol make of a person's anatomy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int
from scipy.ndimage import gaussian_filter

from asyndgan.demo.anatomy import (
    LABELS,
    OVERSAMPLING,
    Grid,
    Head,
    Lesion,
    Plane,
    Stack,
    Waves,
    lesion_part,
    nuclei,
    pial_distance,
    place,
    ventricle_distance,
)

MODALITIES = ("T1", "T2", "FLAIR")

FIELD_OF_VIEW = 220.0  # millimetres from edge to edge of an image

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
    """How a scanner renders one modality: `gain * (contrast around mid-grey) ** gamma + offset`."""

    gain: float = 1.0
    gamma: float = 1.0
    contrast: float = 1.0
    offset: float = 0.0


@final
@dataclass(frozen=True)
class Scanner:
    """The effect of one site's machine and protocol on every image."""

    t1: Look = Look()
    t2: Look = Look()
    flair: Look = Look()
    fat: float = 1.0  # factor of the fat's signal in the scalp; near 0 with fat saturation
    bias: float = 0.15  # amplitude of the receive field, in natural log units at the head's edge
    bias_from: float = 0.0  # where it is brightest, in degrees: 0 the front, 90 the image's right
    # standard deviation of each part of the complex noise; 1 is the brightest tissue
    noise: float = 0.03
    blur: float = 0.8  # standard deviation of the point spread, in millimetres


def draw_slice(
    head: Head, lesions: Sequence[Lesion], scanner: Scanner, level: float, size: int
) -> tuple[Stack, Int[np.ndarray, "h w"]]:
    """Noiseless signal of each modality and the label map, at the image's resolution."""
    grid = place(head, level, size)
    ventricle = ventricle_distance(head, grid)
    pia = pial_distance(head, grid)
    brain = grid.inside(grid.depth - head.scalp - head.bone - 0.02)
    fluid = grid.inside(ventricle)
    lesion, marked = (part * brain * (1 - fluid) for part in lesion_part(lesions, grid))
    grey = 1 - grid.inside(pia - head.cortex - 0.012, blur=0.012)
    sulci = (1 - grid.inside(pia - 0.004 - 0.012 * head.atrophy)) * (1 - lesion)
    # Bright caps at the ventricles' walls, which a segmenter must not mistake for lesions.
    caps = 0.3 * np.exp(-np.maximum(-ventricle, 0) / 0.022) * (1 - grey)
    layers = [
        *_coverings(head, grid, scanner),
        ("white", brain),
        ("grey", brain * grey),
        ("nucleus", brain * nuclei(grid)),
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


def _coverings(head: Head, grid: Grid, scanner: Scanner) -> list[tuple[str, Plane]]:
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
    n = OVERSAMPLING
    return planes.reshape(*front, rows // n, n, columns // n, n).mean(axis=(-3, -1))


def scan(
    signal: Stack, scanner: Scanner, exposure: np.random.Generator, noise: np.random.Generator
) -> Stack:
    """Applies receive field, point spread and Rician noise, and quantises to eight bits.

    `exposure` draws small deviations from the site's look: alike in all slices of a patient.
    """
    gains = np.exp(exposure.normal(0.0, 0.04, len(MODALITIES)))
    direction = float(np.deg2rad(scanner.bias_from + exposure.normal(0.0, 20.0)))
    waves = Waves.draw(exposure, (1.6, 1.6), 5)
    size = signal.shape[-1]
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    towards = x * np.sin(direction) - y * np.cos(direction)
    field = np.exp(scanner.bias * (0.8 * towards + 0.5 * waves.at(x, y)))
    received = signal * field * gains.astype(np.float32)[:, None, None]
    spread = scanner.blur / (FIELD_OF_VIEW / size)
    received = gaussian_filter(received, (0, spread, spread))
    real, imaginary = scanner.noise * noise.standard_normal((2, *signal.shape))
    magnitude = np.hypot(received + real, imaginary)
    return np.clip(np.rint(magnitude * 255), 0, 255).astype(np.float32)
