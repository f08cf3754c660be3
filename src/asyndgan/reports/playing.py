"""A local page on which a person draws a label map, and the generator paints it."""

import base64
import binascii
import json
import math
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Annotated, Final, final

import numpy as np
import torch
from PIL import Image as Pillow
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from asyndgan.arrays import Image, Mask
from asyndgan.errors import AsyndganError, RunError
from asyndgan.painting.painter import Painter
from asyndgan.painting.synthesise import chosen_masks
from asyndgan.reports.gallery import label_colours, picture_uri, planes
from asyndgan.reports.local import Answer, LocalServer
from asyndgan.reports.page import rendered
from asyndgan.runs import RunFolder
from asyndgan.store.prepared import Case

SHOWN: Final = 12  # masks that the page offers to begin with
DRAWS: Final = 4  # most images at a time
SIDE: Final = 256  # longer side of a shown image, about


@final
class Order(BaseModel):
    """What the page asks for: a label map, as bytes of rows, and how to paint it.

    Of a volume it also says which slice is drawn on.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    mask: str
    look: str | None
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    draws: Annotated[int, Field(ge=1, le=DRAWS)]
    level: Annotated[int, Field(ge=0)] = 0


@final
class Playground(LocalServer):
    """Serves the page of a finished run, which offers masks of a data set or those that it kept.

    Raises `RunError` if the run has not finished, or paints without masks; or the port is taken.
    """

    scripts = True

    def __init__(self, run: RunFolder, masks: Path | None = None, port: int = 0) -> None:
        recipe = run.recipe()
        run.check_masked(", and nothing else can be drawn here. 'asyndgan generate' paints a set.")
        self.painter = Painter(run)
        self.scope = run.facts().scope
        self.looks = list(run.facts().teachers) if recipe.generator.style else []
        offered = chosen_masks(run, masks)[0] if masks or run.has_masks else []
        self.offered = [mask for _, mask in offered[:: max(1, len(offered) // SHOWN)]][:SHOWN]
        self.most, self.turn = 3 * math.prod(self.scope.space) + 1000, Lock()
        super().__init__(port)

    def page(self) -> str:
        """The page."""
        scope = self.scope
        colours = {n: colour[:7] for n, colour in label_colours(scope.labels).items()}
        *slices, rows, columns = scope.space
        return rendered(
            "play.html.jinja",
            {
                "about": {
                    "slices": slices[0] if slices else 1,
                    "rows": rows,
                    "columns": columns,
                    "masks": [
                        base64.b64encode(mask.numpy().astype("<u2").tobytes()).decode()
                        for mask in self.offered
                    ],
                    "colours": colours,
                },
                "labels": scope.labels,
                "draws": DRAWS,
                "looks": self.looks,
                "name": ", ".join(scope.modalities),
            },
        )

    def answer(self, order: bytes) -> Answer:
        """The images of an order, or what is wrong with it, as JSON."""
        content: object
        try:
            content, status = self.paint(Order.model_validate_json(order)), HTTPStatus.OK
        except ValidationError:
            content, status = "This is no order of the page.", HTTPStatus.BAD_REQUEST
        except AsyndganError as error:
            content, status = str(error), HTTPStatus.BAD_REQUEST
        return Answer(status, json.dumps(content).encode(), "application/json")

    def paint(self, order: Order) -> list[list[dict[str, str]]]:
        """The images of each draw, one a modality, as PNG; raises `RunError` if it is wrong."""
        space = self.scope.space
        try:
            values = np.frombuffer(base64.b64decode(order.mask, validate=True), "<u2")
            mask = torch.from_numpy(values.astype(np.int64).reshape(space))
        except (binascii.Error, ValueError) as error:
            raise RunError(f"a mask has {' x '.join(map(str, space))} pixels or voxels.") from error
        if mask.ndim == 3 and order.level >= space[0]:
            raise RunError(f"a mask has {space[0]} slices.")
        with self.turn, torch.inference_mode():
            random = torch.Generator().manual_seed(order.seed)
            stack = mask.expand(order.draws, *space)
            images = self.painter(stack, order.look, random)
        names = tuple(self.scope.modalities)
        return [
            [
                {"name": name + seen, "image": picture_uri(values, SIDE, Pillow.Resampling.BICUBIC)}
                for seen, plane, below in _cut(image, mask, order.level)
                for name, values in planes(Case.drawn("drawn", plane, below, names))
            ]
            for image in images
        ]


def _cut(image: Image, mask: Mask, level: int) -> Iterator[tuple[str, Image, Mask]]:
    """A picture; or of a volume a slice and, through its middle, the two planes across it."""
    if mask.ndim == 2:
        yield "", image, mask
        return
    middles = [side // 2 for side in mask.shape]
    for axis, (name, place) in enumerate(
        ((f", slice {level + 1}", level), (", a row", middles[1]), (", a column", middles[2]))
    ):
        yield name, image.select(axis + 1, place), mask.select(axis, place)
