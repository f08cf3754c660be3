"""What a malicious coordinator reads of a site's real images by asking about one batch."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final, final

import torch
from torch import Tensor

from asyndgan.arrays import Images
from asyndgan.auditing.pixel_attacks import QUESTIONS, RolledBack, bisected, followed, psnr
from asyndgan.auditing.schema import Decibels, Whole
from asyndgan.engines import SiteSetup, load_cohort
from asyndgan.errors import ProtocolError, RunError
from asyndgan.export.writing import copy_file
from asyndgan.intake.dataset import DataSet
from asyndgan.judging.work import Work
from asyndgan.privacy import SIMULATION, Policy
from asyndgan.protocol import Endpoint, message_limit
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.store import Batch
from asyndgan.texts import SiteName, counted
from asyndgan.training import Site
from asyndgan.training.checkpoint import place_holding, place_of, seeded
from asyndgan.training.scope import generator_inputs
from asyndgan.training.steps import stored_steps
from asyndgan.wire.messages import Card

CLEARLY: Final = 3.0
"""Decibels by which an image read must be nearer to the real one: half the squared error."""

JUDGED: Final = 6
"""Paintings that take about as long as one image that a site judges to answer a question."""


@final
@dataclass(frozen=True)
class PixelsRead:
    """How near a coordinator comes to the real images of one batch by repeated questions.

    Ratios are peak signal-to-noise ratios in decibels to the real image, one for each image.
    """

    site: SiteName
    step: Whole  # number of steps that the site's discriminator had learned when asked
    read: Decibels  # of what bisection finds (`attacks.bisected`)
    followed: Decibels  # of what it draws by the feedback, from its painting (`attacks.followed`)
    painted: Decibels  # of what it paints from the batch's masks without asking
    flat: Decibels  # of an evenly grey image, as bright as the real one on average

    def __post_init__(self) -> None:
        ways = (self.read, self.followed, self.painted, self.flat)
        if not self.read or len({*map(len, ways)}) != 1:
            raise ValueError("each way has a ratio for each image")

    @property
    def asked(self) -> list[float]:
        """Ratio of each image to the better of what asking gives."""
        return [max(ways) for ways in zip(self.read, self.followed, strict=True)]

    @property
    def anyway(self) -> list[float]:
        """Ratio of each image to the better of what can be had without asking."""
        return [max(ways) for ways in zip(self.painted, self.flat, strict=True)]

    @property
    def told(self) -> int:
        """Number of images to which asking comes clearly nearer."""
        ways = zip(self.asked, self.anyway, strict=True)
        return sum(asked > anyway + CLEARLY for asked, anyway in ways)

    @property
    def verdict(self) -> str:
        """A sentence for readers without statistical training."""
        gained = [asked - anyway for asked, anyway in zip(self.asked, self.anyway, strict=True)]
        found = (
            "Mean PSNR without asking, by what the generator paints or an even grey: "
            f"{fmean(self.anyway):.1f} dB; by asking: {fmean(self.asked):.1f} dB"
        )
        if len(gained) > 1:
            found += f"; by image {min(gained):+.1f} to {max(gained):+.1f} dB"
        state = f"that of step {self.step}, the oldest kept"
        if not self.step:
            state = (
                "untrained, since the site kept no state from before the end of the training "
                "(training.checkpoint_every)"
            )
        found += f". The discriminator that was asked is {state}"
        if self.told:
            some = f"{self.told} of {len(self.read)} images"
            return f"REAL PIXELS CAN BE READ by a coordinator at {self.site}, in {some}. {found}"
        nearer = "no nearer" if max(gained) <= 0 else f"nearer by less than {CLEARLY:g} dB"
        return (
            f"asking {self.site} brought a coordinator {nearer} to real pixels in this test of "
            f"{counted(len(gained), 'image')}. {found}"
        )


def read_pixels(
    run: RunFolder,
    setup: SiteSetup,
    *,
    late: bool = True,
    data: DataSet | None = None,
    work: Work | None = None,
) -> PixelsRead:
    """Attacks one site as a coordinator could that has one of its batches judged again and again.

    Nothing is written to the site's folders, and its policy is not asked. If `late`, the batch is
    that after its oldest state in which the run was not over yet, if there is one; otherwise its
    first. Raises `RunError` if the site does not answer, such as with states that do not fit its
    data.
    """
    recipe = run.recipe()
    try:
        with asked_again(run, recipe, setup, late=late, data=data) as (site, ask):
            real = site.cohort.batch(ask.card.batch, recipe.training.batch)

            def answer(images: Images) -> Tensor:
                if work:
                    work.did(JUDGED * len(images))
                return ask(images)

            read = bisected(answer, tuple(real.images.shape))
            painted = painted_for(run, setup.name, ask.card, real)
            drawn = followed(answer, painted)
    except ProtocolError as error:
        raise RunError(
            f"{setup.name} with its states in {setup.state} cannot be asked as a coordinator "
            f"would: {error} Give --state the folder that it trained with."
        ) from error
    truth, every = real.images, torch.ones(real.images.shape[:2], dtype=torch.bool)
    flat = truth.mean(dim=tuple(range(2, truth.ndim)), keepdim=True).expand_as(truth)
    has = every if real.present is None else real.present

    def ratios(found: Images) -> list[float]:
        shown = zip(found, truth, has, strict=True)
        return [psnr(one[own][None], image[own][None]) for one, image, own in shown]

    return PixelsRead(setup.name, ask.card.step, *map(ratios, (read, drawn, painted, flat)))


def questions_of(recipe: Recipe) -> int:
    """The work of `read_pixels` at one site, in paintings."""
    return QUESTIONS * JUDGED * recipe.training.batch


def not_asked(run: RunFolder) -> str:
    """Why sites of this run cannot be asked in this way; empty if they can be."""
    recipe = run.recipe()
    if recipe.given_masks:
        return "the masks were given, so no image is compared with a patient's own pixel by pixel"
    return ""


def painted_for(run: RunFolder, site: str, card: Card, batch: Batch) -> Images:
    """What the coordinator paints from a batch's masks without asking the site; its modalities."""
    recipe, facts = run.recipe(), run.facts()
    scope = facts.scope
    random = torch.Generator().manual_seed(0)
    looks = [facts.look_of(site)] * len(batch.conditions)
    inputs = generator_inputs(recipe, scope, batch.conditions, looks, random)
    with seeded(0):  # other sites may be asked at the same time, and draw weights by turns
        generator = run.generator()
    with torch.no_grad():
        painted = generator(*inputs)
    return painted[:, [scope.modalities.index(name) for name in card.modalities]]


@contextmanager
def asked_again(
    run: RunFolder,
    recipe: Recipe,
    setup: SiteSetup,
    *,
    late: bool,
    policy: Policy = SIMULATION,
    data: DataSet | None = None,
) -> Iterator[tuple[Site, RolledBack]]:
    """A copy of a site that a coordinator can ask any number of times about one batch.

    Args are those of `read_pixels`, the recipe that the site trains, and its policy. Yields the
    site, and the function that asks it.
    """
    with tempfile.TemporaryDirectory() as folder:
        state, step = Path(folder), 0
        held = place_holding(setup.state, run.facts().run) if late else None
        if held:
            place = place_of(state, run.facts().run)
            place.mkdir()
            for path in held[0].glob("*.safetensors"):
                copy_file(path, place / path.name)
            step = stored_steps(place)[0]
            step = step if step < recipe.training.steps else 0
        cohort = load_cohort(setup, recipe, data=data)
        site = Site(setup.name, cohort, recipe, folder=state, policy=policy)
        limit, threads = message_limit(recipe), torch.get_num_threads()
        torch.set_num_threads(1)  # as every site computes; see traps in docs/architecture.md
        try:
            yield (
                site,
                RolledBack(
                    Endpoint(site, limit=limit),
                    run=run.facts().run,
                    recipe=recipe.digest(),
                    step=step,
                    images=recipe.wire.images,
                    limit=limit,
                ),
            )
        finally:
            site.release.close()
            torch.set_num_threads(threads)
