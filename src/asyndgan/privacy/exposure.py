"""Every field that crosses the wire: what it is, what it could reveal, and what prevents that.

The tables of docs/threat-model.md are generated from here, and a test compares them with the
messages, so that no field can be added without an entry here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

from asyndgan.wire import ANSWERS, REQUESTS


@final
@dataclass(frozen=True)
class Exposure:
    """What one field of a message exposes.

    Attributes:
        meaning: what the field is.
        size: how much data it holds.
        worst: the worst that the other side could learn from it or do with it.
        held_by: what prevents that; says so if nothing does.
    """

    meaning: str
    size: str
    worst: str
    held_by: str


_RUN = Exposure(
    "identity of the run", "1 to 64 hexadecimal digits", "nothing", "schema; another run is refused"
)
_JUDGED_STEP = Exposure(
    "number of the step",
    "one number",
    "steps that are over, beyond the recipe, or in which its timeline has the site away",
    "refused",
)
_ANSWERED = Exposure("the step that is answered", "one number", "nothing", "schema")
_CONDITIONS = Exposure(
    "label maps (or classes) that the next synthetic images are painted from",
    "b masks of h x w, 1 or 2 bytes a pixel before zstd",
    "the masks themselves: shape and place of organs and lesions of b cases, in the clear. A "
    "coordinator can keep them whatever it promised",
    "`leaves.masks`; `never` stops patients' own at the door. With `masks.source = given` those "
    "that leave are nobody's. Nothing hides patients' own where they may leave; "
    "`allows.most_answers` bounds how often they do, starts included",
)
_BATCH = Exposure("number of the next batch", "one number", "how many batches were drawn", "schema")

_LOSSES = Exposure(
    "the terms of the site's loss, as numbers", "at most 32 numbers with names of 64 characters",
    "how well the images that were sent please the site: of images that somebody made up to ask, "
    "as `feedback`. With `leaves.discriminator_losses` also how well each discriminator tells real "
    "from synthetic and finds masks: asked twice, each network's word on a single image by itself, "
    "of patients whom it has learned and of others",
    "without `leaves.discriminator_losses` those of discriminators stay; `leaves.losses = false` "
    "sends none; under differential privacy none of real images",
)  # fmt: skip

LEAVING: Final[dict[tuple[str, str], Exposure]] = {
    ("card", "run"): _RUN,
    ("card", "step"): Exposure("steps that the site has done", "one number", "nothing", "schema"),
    ("card", "cases"): Exposure(
        "how many cases the site has, those that it holds out included", "one number",
        "the size of the cohort, exactly; two runs show whether it changed. Recipes that select "
        "cases (`image.slices`, `image.modalities`) show how many are selected",
        "`leaves.cases = false` sends 1; a share is declared instead. No hold-out changes the "
        "number; `allows.most_recipes` bounds how often a recipe may select",
    ),
    ("card", "share"): Exposure(
        "the site's weight", "one number", "as `cases`, unless the steward declares it",
        "a declared share",
    ),
    ("card", "modalities"): Exposure(
        "names of what the site holds", "at most 64 names of 64 characters",
        "which scanners or sequences a site has; a name that is a secret", "schema; names are the "
        "data set's own, so keep patients out of `dataset.json`",
    ),
    ("card", "parts"): Exposure(
        "part of all its cases that has each modality", "at most 64 numbers, one for each modality",
        "how many cases lack a sequence",
        "where `leaves.cases = false` a site with such cases takes no part",
    ),
    ("card", "labels"): Exposure(
        "names of the labels", "at most 1,024 names of 64 characters",
        "which findings are labelled", "schema, as for modalities",
    ),
    ("card", "space"): Exposure("height and width", "1 to 3 numbers", "nothing", "schema"),
    ("card", "batch"): _BATCH,
    ("card", "conditions"): _CONDITIONS,
    ("card", "keep"): Exposure(
        "whether the coordinator may keep the site's masks", "one bit",
        "a coordinator can keep them whatever this says",
        "of patients' masks `leaves.masks`: below `released` it is no. Given ones are nobody's",
    ),
    ("judgement", "run"): _RUN,
    ("judgement", "step"): _ANSWERED,
    ("judgement", "losses"): _LOSSES,
    ("judgement", "feedback"): Exposure(
        "gradient of the site's loss by the synthetic images that it was sent",
        "b images of c x h x w in the recipe's coding",
        "with `loss.paired_l1`: real pixels, exactly, by bisection. With `loss.moments` or "
        "`loss.features`: statistics of a batch's real images, of a batch of one the image. With "
        "the stand-in: a painting of the mask by a network that has not seen the patient, and that "
        "may know others of few patients by heart. In a first step, where the initial "
        "discriminator is known: whether images that somebody has at hand were in the batch. Else: "
        "what the discriminator has learned, single patients included: who shows a site a "
        "patient's image as if it were synthetic sees by the answer whether that patient took "
        "part and, of a discriminator that segments, what mask it knows for that image. "
        "Where cases lack modalities, zeros tell which case lacks what; where masks are given, "
        "they may tell which labels no case of the site has",
        "`allows.paired_l1`, `allows.matching`, `allows.stand_in_patients`, `allows.known_start`, "
        "`leaves.feedback`. The measured family (`allows.unmeasured`, `allows.approved`), "
        "`allows.most_answers` and `allows.most_answers_per_patient` lower what asking tells, and "
        "do not prevent it; with `privacy.epsilon` a "
        "recipe must be differentially private",
    ),
    ("judgement", "batch"): _BATCH,
    ("judgement", "conditions"): _CONDITIONS,
    ("appraisal", "run"): _RUN,
    ("appraisal", "step"): _ANSWERED,
    ("appraisal", "losses"): _LOSSES,
    ("appraisal", "odds"): Exposure(
        "log odds that each site's synthetic images are of this site, by its discriminator",
        "a number an image, of all sites' b images",
        "how typical a mask of another site, or an image that the coordinator made up, is of this "
        "site's patients: membership can be asked directly, of as many images at once as there "
        "are sites",
        "`leaves.odds` (off by default); `shares.sites` of the recipe bounds the images; "
        "`allows.most_answers` counts the message, not its images",
    ),
    ("appraisal", "feedback"): Exposure(
        "gradient of these odds by the images", "as `judgement`, for all sites' images",
        "what the discriminator has learned, about masks of other sites too", "as `odds`",
    ),
    ("appraisal", "batch"): _BATCH,
    ("appraisal", "conditions"): _CONDITIONS,
    ("measured", "run"): _RUN,
    ("measured", "count"): Exposure(
        "how many images", "one number", "as `cases`", "`leaves.moments`; at least 8 images",
    ),
    ("measured", "total"): Exposure(
        "sum over all images of their features", "some 350 numbers",
        "one patient's features, by the difference of two runs with and without the patient",
        "`leaves.moments` (off by default); `selection.clip` bounds an image's part (0: no bound)",
    ),
    ("measured", "squares"): Exposure(
        "sum of the features' squares", "as many", "as `total`", "as `total`",
    ),
    ("saved", "run"): _RUN,
    ("saved", "step"): _ANSWERED,
    ("closed", "run"): _RUN,
    ("refusal", "run"): _RUN,
    ("refusal", "code"): Exposure(
        "kind of the refusal", "at most 32 letters", "nothing", "a fixed list"
    ),
    ("refusal", "reason"): Exposure(
        "why", "at most 500 characters", "whatever stands in an exception",
        "sentences of ours alone; data and foreign errors become one fixed sentence",
    ),
}  # fmt: skip

COMING: Final[dict[tuple[str, str], Exposure]] = {
    ("open", "run"): _RUN,
    ("open", "recipe"): Exposure(
        "digest of the recipe", "64 hexadecimal digits", "another recipe than the site was set up "
        "for", "refused unless equal; `allows.recipes`",
    ),
    ("open", "step"): Exposure(
        "where the run stands", "one number", "rolls the site back, to have a step answered twice",
        "schema; the ledger and `allows.most_answers` count rolled-back steps too",
    ),
    ("open", "attempt"): Exposure(
        "which coordinator's attempt at the run", "at most 64 hexadecimal digits",
        "a new one each time, to have a site roll back", "as `step`; one that is over is refused",
    ),
    ("judge", "run"): _RUN,
    ("judge", "step"): _JUDGED_STEP,
    ("judge", "batch"): Exposure(
        "the batch that the images were painted from", "one number",
        "a batch that suits the coordinator", "refused unless it is the one that the site offered",
    ),
    ("judge", "images"): Exposure(
        "synthetic images", "b images of c x h x w in any coding of the wire",
        "images made to ask the discriminator what the coordinator wants to know; not-a-number to "
        "spoil it; a bomb", "shape, coding, limit and finiteness are checked before use; what an "
        "answer gives away is the line of `feedback`. The ledger notes images that come again, "
        "equal to the bit, in another step; other pictures that nobody's generator painted pass",
    ),
    ("appraise", "run"): _RUN,
    ("appraise", "step"): _JUDGED_STEP,
    ("appraise", "batch"): Exposure(
        "the batch that the site's own images were painted from", "one number",
        "a batch that suits the coordinator", "refused unless it is the one that the site offered",
    ),
    ("appraise", "place"): Exposure(
        "which of the images are the site's own", "one number", "a place that is not its own",
        "refused unless the conditions there are those that the site offered",
    ),
    ("appraise", "shares"): Exposure(
        "shares of all sites", "a number a site, at most 1,024",
        "this site learns how large the others are; shares that have the discriminator learn "
        "against chosen images",
        "they sum to one; else nothing: whoever takes part in such a recipe is told",
    ),
    ("appraise", "images"): Exposure(
        "synthetic images of all sites", "b images a site, of c x h x w in the recipe's coding",
        "as `judge`; and this site sees how patients of other sites are painted",
        "as `judge`; the other sites' policies must say `leaves.odds`",
    ),
    ("appraise", "conditions"): Exposure(
        "label maps that they were painted from", "b masks a site, as in `judgement`",
        "this site sees the other sites' masks, and they this one's",
        "every site's policy must say `leaves.odds`",
    ),
    ("measure", "run"): _RUN,
    ("save", "run"): _RUN,
    ("save", "step"): Exposure(
        "a state to keep", "one number", "fills the disk",
        "two are kept, of nine runs under one name, and of as many names as `runs` of the "
        "site's `site.toml` allows (20)",
    ),
    ("close", "run"): _RUN,
}  # fmt: skip


def fields(kinds: dict[str, type]) -> list[tuple[str, str]]:
    """Pairs of message kind and field name, for every field of these messages."""
    return [(kind, name) for kind, message in kinds.items() for name in message.model_fields]  # type: ignore[attr-defined]  # all are messages


def table() -> Iterator[str]:
    """Lines of both tables, in Markdown."""
    for title, kinds, known in (
        ("What leaves a site", ANSWERS, LEAVING),
        ("What comes to a site", REQUESTS, COMING),
    ):
        yield f"### {title}"
        yield ""
        yield "| message | field | what it is | size | at worst | held by |"
        yield "|---|---|---|---|---|---|"
        for kind, name in fields(dict(kinds)):
            one = known[kind, name]
            cells = (kind, name, one.meaning, one.size, one.worst, one.held_by)
            yield "| " + " | ".join(cells) + " |"
        yield ""
