"""Pictures of synthetic cases, with real ones beside them on request."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import torch
from PIL import Image as Pillow

from asyndgan.arrays import Mask
from asyndgan.painting.pictures import film, flat
from asyndgan.reports.page import data_uri
from asyndgan.store.prepared import Case

CASES: Final = 6
"""Synthetic cases shown per site; half as many if each has a real one beside it."""

SITES: Final = 12
"""Largest number of sites shown."""

FILMED: Final = 3
"""Sites of which all slices of a volume are shown."""

SLICE: Final = 64
"""Pixels of the longer side of a slice, where all slices of a volume are shown."""

BUDGET: Final = 2_600_000
"""Characters that all pictures together may take; if they exceed it, they are scaled down."""

_SIDES: Final = (192, 160, 128, 96, 64)
_BACKGROUND: Final = "#0b0f14"
_QUIET: Final = "#66778d"
# Told apart on the background and from each other also by those who confuse red, green or blue.
_LIVELY: Final = ("#45c4e8", "#ffb224", "#ee7777", "#bbff99", "#aa33ee", "#bb3322", "#ffeeee")
_STRIPED: Final = " striped"


class Picture(NamedTuple):
    """One image of the page: data URI, modality (or "mask"), description of what it shows."""

    source: str
    tag: str
    alt: str


class Strip(NamedTuple):
    """Pictures of one case, "synthetic" or "real", mask first."""

    kind: str
    pictures: list[Picture]


class SiteGallery(NamedTuple):
    """Cases shown of one site; of no site of the run if the name is empty.

    If there are real strips, one follows each synthetic strip; `same_masks`: with the same mask. Of
    volumes, `films` are all slices of the first case side by side.
    """

    site: str
    strips: list[Strip]
    same_masks: bool
    films: list[Strip]

    @property
    def has_real(self) -> bool:
        """Whether real images are shown."""
        return any(strip.kind == "real" for strip in self.strips)


class Gallery(NamedTuple):
    """All pictures of a page; `legend`: each label's name and colour, and whether it is striped."""

    sites: list[SiteGallery]
    legend: list[tuple[str, str, bool]]
    left_out: int
    pixels: tuple[int, ...]

    @property
    def has_real(self) -> bool:
        """Whether real images are shown."""
        return any(site.has_real for site in self.sites)


def build_gallery(
    synthetic: Sequence[Case],
    real: Mapping[str, Sequence[Case]],
    sites: Sequence[str],
    labels: Mapping[int, str],
) -> Gallery:
    """Chooses cases of every site, by whose names (`north-m00012`) they begin, as data URIs.

    Cases are evenly spaced among those whose masks have most labels. If real cases are given,
    synthetic cases with the mask of a real one are preferred.
    """
    groups = _by_site(synthetic, sites)
    chosen = {site: _chosen(groups[site], real.get(site, ())) for site in list(groups)[:SITES]}
    colours = label_colours(labels)
    for side in _SIDES:
        shown = [
            SiteGallery(
                site,
                [*_strips(site, pairs, colours, side)],
                same,
                [*_films(site, pairs, colours)] if place < FILMED else [],
            )
            for place, (site, (pairs, same)) in enumerate(chosen.items())
        ]
        strips = (strip for site in shown for strip in site.strips)
        if sum(len(picture.source) for one in strips for picture in one.pictures) <= BUDGET:
            break
    told = {name: colours[number] for number, name in labels.items()}
    return Gallery(
        sites=shown,
        legend=[(n, c.removesuffix(_STRIPED), c.endswith(_STRIPED)) for n, c in told.items()],
        left_out=max(0, len(groups) - SITES),
        pixels=tuple(synthetic[0].mask.shape) if synthetic else (),
    )


def label_colours(labels: Mapping[int, str]) -> dict[int, str]:
    """A colour for each label: nearly black for 0, grey for the body, vivid for the others.

    Where there are more labels than vivid colours, colours return with stripes.
    """
    rest = [number for number in sorted(labels) if number]
    lively = rest[1:] if len(rest) > 1 else rest
    colours = dict.fromkeys(labels, _QUIET) | {0: _BACKGROUND}
    return colours | {
        n: _LIVELY[i % len(_LIVELY)] + _STRIPED * (i >= len(_LIVELY)) for i, n in enumerate(lively)
    }


Pairs = list[tuple[Case, Case | None]]


def worth_painting(
    masks: Sequence[tuple[str, Mask]], real: Mapping[str, Sequence[Case]], sites: Sequence[str]
) -> list[tuple[str, Mask]]:
    """The named masks of which `build_gallery` shows paintings; its arguments are the same."""
    kept: dict[str, Mask] = {}
    # Of which the masks alone are looked at.
    unpainted = [Case.drawn(name, mask[None].float(), mask, ("",)) for name, mask in masks]
    for site, group in _by_site(unpainted, sites).items():
        twins = _twins(group, real.get(site, ()))
        chosen = _spread([one for one in group if one.name in twins] or group, CASES)
        kept |= {one.name: one.mask for one in chosen}
    return list(kept.items())


def _by_site(cases: Sequence[Case], sites: Sequence[str]) -> dict[str, list[Case]]:
    """Cases by site, without sites that have none; cases of no known site come last, under ""."""
    groups: dict[str, list[Case]] = {site: [] for site in [*sites, ""]}
    longest_first = sorted(sites, key=len, reverse=True)
    for case in cases:
        own = (site for site in longest_first if case.name.startswith(f"{site}-"))
        groups[next(own, "")].append(case)
    return {site: found for site, found in groups.items() if found}


def _chosen(synthetic: Sequence[Case], real: Sequence[Case]) -> tuple[Pairs, bool]:
    """Synthetic cases paired with real ones, if any, and whether the masks of pairs are equal."""
    if not real:
        return [(case, None) for case in _spread(synthetic, CASES)], False
    twins = _twins(synthetic, real)
    if with_twin := [case for case in synthetic if case.name in twins]:
        return [(case, twins[case.name]) for case in _spread(with_twin, CASES // 2)], True
    others = _spread(real, CASES // 2)
    return list(zip(_spread(synthetic, CASES // 2), others, strict=False)), False


def _twins(synthetic: Sequence[Case], real: Sequence[Case]) -> dict[str, Case]:
    """The real case of the same mask, by the name of a synthetic one."""
    of_mask = {_key(case.mask): case for case in real}
    for case in real:  # training mirrors at random, so released masks may be mirrored
        mirrored = replace(case, image=case.image.flip(-1), mask=case.mask.flip(-1))
        of_mask.setdefault(_key(mirrored.mask), mirrored)
    keys = {case.name: _key(case.mask) for case in synthetic if real}
    return {name: of_mask[key] for name, key in keys.items() if key in of_mask}


def _key(mask: Mask) -> bytes:
    return mask.to(torch.int32).contiguous().numpy().tobytes()


def _spread(cases: Sequence[Case], count: int) -> list[Case]:
    """At most `count` cases, evenly spaced among those whose masks have most labels."""
    held = [len(torch.unique(case.mask)) for case in cases]
    rich = [case for case, number in zip(cases, held, strict=True) if number == max(held)]
    if len(rich) < count:
        order = sorted(range(len(cases)), key=lambda place: -held[place])
        return [cases[place] for place in sorted(order[:count])]
    return [rich[round(place)] for place in np.linspace(0, len(rich) - 1, count)]


def _films(site: str, pairs: Pairs, colours: Mapping[int, str]) -> Iterator[Strip]:
    """The first case's slices; of pictures nothing."""
    if (mask := pairs[0][0].mask).ndim == 3:
        yield from _strips(site, pairs[:1], colours, SLICE * len(mask), film)


def _strips(
    site: str,
    pairs: Pairs,
    colours: Mapping[int, str],
    side: int,
    laid_out: Callable[[Case], Case] = flat,
) -> Iterator[Strip]:
    for place, pair in enumerate(pairs, 1):
        # Case names may be patients' names, so they are not shown.
        origin = f"{f'site {site}' if site else 'other masks'}, case {place}"
        for kind, case in zip(("synthetic", "real"), pair, strict=True):
            if case is not None:
                plane = laid_out(case)
                mask = picture_uri(_coloured(plane.mask, colours), side, Pillow.Resampling.NEAREST)
                pictures = [Picture(mask, "mask", f"mask, {origin}")]
                for name, values in planes(plane):
                    source = picture_uri(values, side, Pillow.Resampling.BICUBIC)
                    pictures.append(Picture(source, name, f"{kind} {name}, {origin}"))
                yield Strip(kind, pictures)


def planes(case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """Each modality in 8 bits; R, G and B are combined into one colour picture."""
    grey = ((case.image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    planes = dict(zip(case.modalities, grey, strict=True))
    if planes.keys() >= {"R", "G", "B"}:
        yield "colour", np.stack([planes.pop(name) for name in "RGB"], axis=-1)
    yield from planes.items()


def _coloured(mask: Mask, colours: Mapping[int, str]) -> np.ndarray:
    """A label map as RGB; labels without a name are white."""
    labels = mask.numpy()
    picture = np.full((*labels.shape, 3), 255, np.uint8)
    row, column = np.indices(labels.shape)
    stripes = (row + column) % 4 < 2
    for number, colour in colours.items():
        shown = labels == number
        picture[shown] = list(bytes.fromhex(colour[1:7]))
        if colour.endswith(_STRIPED):
            picture[shown & stripes] = list(bytes.fromhex(_BACKGROUND[1:]))
    return picture


def picture_uri(values: np.ndarray, side: int, resampling: Pillow.Resampling) -> str:
    """A PNG data URI of a picture, resized so that its longer side is about `side` pixels."""
    picture = Pillow.fromarray(values)
    factor = side / max(picture.size)
    if resampling == Pillow.Resampling.NEAREST:
        factor = max(1, round(factor))  # all pixels of a mask become squares of the same size
        picture = picture.quantize(64, dither=Pillow.Dither.NONE)
    if not 0.8 < factor <= 1:
        shape = (round(picture.width * factor), round(picture.height * factor))
        picture = picture.resize(shape, resampling)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return data_uri(file.getvalue(), "image/png")
