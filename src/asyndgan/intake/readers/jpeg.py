"""JPEG: a picture of one slice, grey or RGB, without spacing; images only, since it is lossy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

import numpy as np
from PIL import Image as Picture

from asyndgan.intake.readers.pictures import MAX_BYTES, Pictures, bounded
from asyndgan.intake.readers.reader import AXIAL, DataFileError, Geometry, Stored, decoding
from asyndgan.intake.remedies import ORIGINALS, picture_command
from asyndgan.received import UnreadableError, opened

MAX_SCANS: Final = 128  # each may go over all pixels again; cameras store 1 to 12
MAX_WORK: Final = 2**30  # pixels of all scans; 2^24 take a tenth of a second
ORIENTATION: Final = 274
_UPRIGHT: Final = 1


@final
class Jpeg(Pictures):
    """Reads grey and RGB pictures; writes none."""

    kind = "JPEG"
    lossy = True

    def mask(self, path: Path) -> Stored:
        """See `Reader.mask`; raises always."""
        with decoding(path, self.kind, labels=True), self._opened(path):
            raise DataFileError(
                path,
                "is a JPEG picture, where a mask was expected",
                "Export the mask again as PNG: JPEG has changed its labels.",
            )

    def painted(self, path: Path) -> bool:
        """See `Reader.painted`; none is written."""
        with decoding(path, self.kind), self._opened(path):
            return False

    def write(
        self,
        path: Path,
        plane: np.ndarray,
        *,
        spacing: tuple[float, float],
        note: str,
        geometry: Geometry = AXIAL,
    ) -> None:
        """See `Reader.write`; raises always."""
        raise DataFileError(path, "would be a JPEG, which changes what it stores", "Write PNG.")

    @contextmanager
    def _opened(
        self, path: Path, *, labels: bool = False, most: int = 1
    ) -> Iterator[Picture.Image]:
        # Pillow reads the header alone when it opens a picture.
        with opened(path, MAX_BYTES) as file, Picture.open(file, formats=["JPEG"]) as picture:
            bounded(path, *picture.size, file)
            file.seek(0)
            check_scans(file.read(), picture.width * picture.height)
            if picture.getexif().get(ORIENTATION, _UPRIGHT) != _UPRIGHT:
                raise DataFileError(
                    path,
                    "says that viewers are to turn it (Exif), so its mask may be turned or not",
                    f"Turn the pixels themselves, and see that the mask fits; {ORIGINALS}: "
                    f"{picture_command('upright', path.suffix)}.",
                )
            yield picture


def check_scans(content: bytes, pixels: int) -> None:
    """Checks that the scans of a JPEG do not go over its pixels too often.

    Raises:
        ValueError: they do.
    """
    scans = content.count(b"\xff\xda")
    if scans > MAX_SCANS or scans * pixels > max(MAX_WORK, pixels):
        raise UnreadableError(
            f"it holds more than {MAX_SCANS} scans, or than {MAX_WORK} pixels in them; save it as "
            "PNG, or as a JPEG that is not progressive"
        )
