"""Synthetic cases as pictures, with real ones beside them where somebody asked for that."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, final

import numpy as np
import torch
from PIL import Image as Pillow

from asyndgan.arrays import Mask
from asyndgan.data.case import Case

CASES: Final = 6
"""Synthetic cases of a site; half as many where each has a real one beside it."""

SITES: Final = 12
"""Most sites shown."""

BUDGET: Final = 2_600_000
"""Characters that all pictures together may take; beyond it they are made smaller."""

_SIDES: Final = (192, 160, 128, 96, 64)
_BACKGROUND: Final = "#0b0f14"
_QUIET: Final = "#56677d"
_LIVELY: Final = ("#45c4e8", "#ffb224", "#f0609e", "#93d04b", "#b98cf5", "#ff7a4d", "#5ce0b5")


@final
@dataclass(frozen=True)
class Picture:
    """One image of the page.

    Attributes:
        source: data URI.
        tag: modality, or "mask".
        alt: what it shows, in words.
    """

    source: str
    tag: str
    alt: str


@final
@dataclass(frozen=True)
class Strip:
    """A case: its mask and its modalities.

    Attributes:
        kind: "synthetic" or "real".
        pictures: mask first.
    """

    kind: Literal["synthetic", "real"]
    pictures: tuple[Picture, ...]


@final
@dataclass(frozen=True)
class SiteGallery:
    """What is shown of one site.

    Attributes:
        site: name; empty for masks that are of no site of the run.
        strips: with real ones, each synthetic strip is followed by a real one.
        same_masks: whether each real case has the very mask of its synthetic neighbour.
    """

    site: str
    strips: tuple[Strip, ...]
    same_masks: bool

    @property
    def has_real(self) -> bool:
        """Whether real images are among them."""
        return any(strip.kind == "real" for strip in self.strips)


@final
@dataclass(frozen=True)
class Gallery:
    """All pictures.

    Attributes:
        sites: those that are shown.
        legend: name and colour of each label.
        left_out: how many more sites there are.
        pixels: rows and columns of the images, before they were enlarged.
    """

    sites: tuple[SiteGallery, ...]
    legend: tuple[tuple[str, str], ...]
    left_out: int
    pixels: tuple[int, ...]

    @property
    def has_real(self) -> bool:
        """Whether real images are among them."""
        return any(site.has_real for site in self.sites)


def build_gallery(
    synthetic: Sequence[Case],
    real: Mapping[str, Sequence[Case]],
    sites: Sequence[str],
    labels: Mapping[int, str],
) -> Gallery:
    """Chooses cases of every site and paints them as data URIs.

    Cases are taken at even distances from those whose masks hold most labels, so nobody chose them
    by their looks. Where real cases are given, masks that both have are preferred.

    Args:
        synthetic: named after their site, `north-m00012`.
        real: by site.
        sites: of the run, in the order in which they are shown.
        labels: name of each label by number.
    """
    groups = _by_site(synthetic, sites)
    chosen = {site: _chosen(groups[site], real.get(site, ())) for site in list(groups)[:SITES]}
    colours = label_colours(labels)
    for side in _SIDES:
        shown = tuple(
            SiteGallery(site, tuple(_strips(site, pairs, colours, side)), same)
            for site, (pairs, same) in chosen.items()
        )
        if _weight(shown) <= BUDGET:
            break
    return Gallery(
        sites=shown,
        legend=tuple((name, colours[number]) for number, name in labels.items()),
        left_out=max(0, len(groups) - SITES),
        pixels=tuple(synthetic[0].mask.shape) if synthetic else (),
    )


def label_colours(labels: Mapping[int, str]) -> dict[int, str]:
    """A colour each: nearly black for the background, quiet for the body, lively for the rest."""
    rest = [number for number in sorted(labels) if number]
    lively = rest[1:] if len(rest) > 1 else rest
    colours = dict.fromkeys(labels, _QUIET) | {0: _BACKGROUND}
    return colours | {n: _LIVELY[i % len(_LIVELY)] for i, n in enumerate(lively)}


Pairs = list[tuple[Case, Case | None]]


def _by_site(cases: Sequence[Case], sites: Sequence[str]) -> dict[str, list[Case]]:
    """Cases of each site that has any; cases of no known site come last, under no name."""
    groups: dict[str, list[Case]] = {site: [] for site in [*sites, ""]}
    longest_first = sorted(sites, key=len, reverse=True)
    for case in cases:
        own = (site for site in longest_first if case.name.startswith(f"{site}-"))
        groups[next(own, "")].append(case)
    return {site: found for site, found in groups.items() if found}


def _chosen(synthetic: Sequence[Case], real: Sequence[Case]) -> tuple[Pairs, bool]:
    """Synthetic cases, each with a real one if there is any, and whether their masks are equal."""
    if not real:
        return [(case, None) for case in _spread(synthetic, CASES)], False
    of_mask = {_key(case.mask): case for case in real}
    # Training mirrors at random, and then releases mirrored masks.
    mirrored = {_key(case.mask.flip(-1)): case for case in real}
    twins: dict[str, Case] = {}
    for case in synthetic:
        key = _key(case.mask)
        if key in of_mask:
            twins[case.name] = of_mask[key]
        elif key in mirrored:
            twins[case.name] = _mirrored(mirrored[key])
    with_twin = [case for case in synthetic if case.name in twins]
    if with_twin:
        return [(case, twins[case.name]) for case in _spread(with_twin, CASES // 2)], True
    others = _spread(real, CASES // 2)
    return list(zip(_spread(synthetic, CASES // 2), others, strict=False)), False


def _spread(cases: Sequence[Case], count: int) -> list[Case]:
    """At even distances, from those whose masks hold most labels."""
    held = [len(torch.unique(case.mask)) for case in cases]
    rich = [case for case, number in zip(cases, held, strict=True) if number == max(held)]
    if len(rich) < count:
        order = sorted(range(len(cases)), key=lambda place: -held[place])
        return [cases[place] for place in sorted(order[:count])]
    return [rich[round(place)] for place in np.linspace(0, len(rich) - 1, count)]


def _key(mask: Mask) -> bytes:
    return mask.to(torch.int32).contiguous().numpy().tobytes()


def _mirrored(case: Case) -> Case:
    return replace(case, image=case.image.flip(-1), mask=case.mask.flip(-1))


def _strips(site: str, pairs: Pairs, colours: Mapping[int, str], side: int) -> Iterator[Strip]:
    for place, (synthetic, real) in enumerate(pairs, 1):
        # Names of cases may be names of patients, so they stay out of the page.
        origin = f"{f'site {site}' if site else 'other masks'}, case {place}"
        yield _strip("synthetic", synthetic, origin, colours, side)
        if real is not None:
            yield _strip("real", real, origin, colours, side)


def _strip(
    kind: Literal["synthetic", "real"],
    case: Case,
    origin: str,
    colours: Mapping[int, str],
    side: int,
) -> Strip:
    mask = _uri(_coloured(case.mask, colours), side, Pillow.Resampling.NEAREST)
    pictures = [Picture(mask, "mask", f"mask, {origin}")]
    for name, values in _planes(case):
        source = _uri(values, side, Pillow.Resampling.BICUBIC)
        pictures.append(Picture(source, name, f"{kind} {name}, {origin}"))
    return Strip(kind, tuple(pictures))


def _planes(case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """Each modality in 8 bits; red, green and blue together are one picture."""
    grey = ((case.image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    names = list(case.modalities)
    if {"R", "G", "B"} <= set(names):
        yield "colour", np.stack([grey[names.index(name)] for name in "RGB"], axis=-1)
        names = [name if name not in "RGB" else "" for name in names]
    for name, plane in zip(names, grey, strict=True):
        if name:
            yield name, plane


def _coloured(mask: Mask, colours: Mapping[int, str]) -> np.ndarray:
    """A label map as RGB; labels without a name are white."""
    labels = mask.numpy()
    picture = np.full((*labels.shape, 3), 255, np.uint8)
    for number, colour in colours.items():
        picture[labels == number] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return picture


def _uri(values: np.ndarray, side: int, resampling: Pillow.Resampling) -> str:
    """A PNG data URI, enlarged to `side` pixels or made smaller to them."""
    picture = Pillow.fromarray(values)
    longest = max(picture.size)
    factor = side / longest
    if resampling == Pillow.Resampling.NEAREST:
        factor = max(1, round(factor))  # every pixel of a mask becomes a square of the same size
        picture = picture.quantize(64, dither=Pillow.Dither.NONE)
    if not 0.8 < factor <= 1:
        shape = (round(picture.width * factor), round(picture.height * factor))
        picture = picture.resize(shape, resampling)
    return data_uri(_png(picture), "image/png")


def _png(picture: Pillow.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as an address that loads nothing."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _weight(sites: Sequence[SiteGallery]) -> int:
    return sum(
        len(picture.source) for site in sites for strip in site.strips for picture in strip.pictures
    )
