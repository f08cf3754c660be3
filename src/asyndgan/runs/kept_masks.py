"""Keeps masks that sites released, or that were given, so that images can be painted later."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from asyndgan.intake.labelling import keep_mask, kept_mask
from asyndgan.texts import replace_text, stored_whole
from asyndgan.training.given import site_of
from asyndgan.training.scope import Scope


@final
class MaskBank:
    """Writes each mask once, as `labelsTr/<site>-m<number>`: PNG, or NIfTI of `whole` volumes.

    Masks that its folder already holds are not written again; `DataError` if one cannot be read.
    """

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self.path = path
        self.ending = ".nii.gz" if whole else ".png"
        self.folder = path / "labelsTr"
        self._seen: set[bytes] = set()
        self._count: Counter[str] = Counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob(f"[!.]*{self.ending}")):
            site = site_of(path.name.removesuffix(self.ending))
            self._seen.add(_digest(site, kept_mask(path)))
            self._count[site] += 1

    def describe(self, scope: Scope) -> None:
        """Writes `dataset.json`, so that the masks can be read like those of any data set."""
        about = {
            "name": "masks of a run",
            "channel_names": {str(n): name for n, name in enumerate(scope.modalities)},
            "labels": {name: number for number, name in scope.labels.items()},
            "numTraining": 0,
            "file_ending": self.ending,
            "masks_only": True,
        }
        replace_text(self.path / "dataset.json", json.dumps(about, indent=2) + "\n")

    def first(self, count: int) -> dict[str, list[Tensor]]:
        """Returns the first `count` masks of each site, sorted by site."""
        return {
            site: [
                torch.from_numpy(kept_mask(self._file(site, number)))
                for number in range(1, min(count, self._count[site]) + 1)
            ]
            for site in sorted(self._count)
        }

    def counts(self) -> dict[str, int]:
        """Number of masks of each site."""
        return dict(self._count)

    def back_to(self, counts: Mapping[str, int]) -> None:
        """Removes masks beyond these counts: repeated steps bring them again in the same order."""
        for site, count in self._count.items():
            for number in range(counts.get(site, 0) + 1, count + 1):
                path = self._file(site, number)
                self._seen.discard(_digest(site, kept_mask(path)))
                path.unlink()
            self._count[site] = min(count, counts.get(site, 0))

    def keep(self, site: str, conditions: Tensor, most: int | None = None) -> None:
        """Writes the masks of a batch that are new, until the site has `most` masks.

        Raises `StorageError` if one cannot be written.
        """
        for mask in conditions.numpy():
            if most is not None and self._count[site] >= most:
                return
            array = mask.astype(np.uint8 if mask.max() < 256 else np.uint16)
            digest = _digest(site, array)
            if digest not in self._seen:
                path = self._file(site, self._count[site] + 1)
                with stored_whole(path) as half:  # since a resumed run reads all of them
                    keep_mask(half, array, self.ending)
                self._seen.add(digest)
                self._count[site] += 1

    def _file(self, site: str, number: int) -> Path:
        return self.folder / f"{site}-m{number:05d}{self.ending}"


def _digest(site: str, mask: np.ndarray) -> bytes:
    return hashlib.sha256(site.encode() + b"\0" + mask.astype("<u2").tobytes()).digest()
