"""The threat model speaks of every field of every message, and of no other.

After a change of messages or of their exposure: `python tests/unit/test_threat_model.py`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from pydantic import TypeAdapter
from torch import Tensor

from asyndgan.recipe.fingerprint import (
    Fingerprint,
    LabelFigures,
    Levels,
    ModalityFigures,
    Side,
    Spread,
)
from asyndgan.wire import ANSWERS, REQUESTS


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
    "steps that are over, beyond the recipe, or from which its timeline excludes the site; a step "
    "far ahead, which sets the learning rate",
    "refused; a later step is taken, since a site may have missed some",
)
_ANSWERED = Exposure("the step that is answered", "one number", "nothing", "schema")
_CONDITIONS = Exposure(
    "label maps (or classes) from which the next synthetic images are painted",
    "b masks of h x w, 1 or 2 bytes per pixel before zstd",
    "the masks of b cases, without added noise: shape and place of organs and lesions. A "
    "coordinator can keep them even if it promised not to",
    "`leaves.masks`: with `never` or `learned` no patient's mask leaves. With "
    "`masks.source = given` only zeros leave. Otherwise nothing hides them; "
    "`allows.most_answers` bounds how often they leave, starts included",
)
_BATCH = Exposure("number of the next batch", "one number", "how many batches were drawn", "schema")

_LOSSES = Exposure(
    "the terms of the site's loss, as numbers", "at most 32 numbers with names of 64 characters",
    "how real the site's networks find the images that were sent. With images of the coordinator's "
    "choice they [told members](evidence.md#membership-inference) after full trainings, "
    "where `feedback` gave no sign: `site init` lets none leave. Under the worst recipe the length "
    "of `feedback` [told](results/worst_recipe.md) as well. With "
    "`leaves.discriminator_losses` also how well each "
    "discriminator tells real from synthetic images and finds masks. Asking twice then "
    "reveals what each network says of a single image, of a member or of another patient",
    "losses of discriminators stay unless `leaves.discriminator_losses` is true. Under "
    "`privacy.kind = \"discriminator\"`, those on real images always stay, and those on synthetic "
    "images leave if `privacy.epsilon` is set. `leaves.losses = false` sends none",
)  # fmt: skip

_ASKED = Exposure(
    "digest of the request, so that each other request counts",
    "64 hexadecimal digits", "nothing", "schema",
)  # fmt: skip
_ASKED_RUN = Exposure(
    "identity of the run that is audited or evaluated", "1 to 64 hexadecimal digits", "nothing",
    "schema; a run of which the site keeps no state is refused",
)  # fmt: skip
_ASKED_RECIPE = Exposure(
    "the run's recipe", "at most 262,144 characters", "another recipe, which leaves out what "
    "tells", "refused unless it is that of the site's state of the run",
)  # fmt: skip
_ASKED_FACTS = Exposure(
    "the run's facts (`run.json`), with other sites' names, shares and modalities, but not "
    "their numbers of cases", "at most 262,144 characters",
    "other facts, so that other images are painted, or a curious site learns of others",
    "schema, as for a run's folder from a stranger ([names and "
    "numbers](hostile-input.md#names-and-numbers))",
)  # fmt: skip

LEAVING: Final[dict[tuple[str, str], Exposure]] = {
    ("card", "run"): _RUN,
    ("card", "step"): Exposure("steps that the site has done", "one number", "nothing", "schema"),
    ("card", "cases"): Exposure(
        "number of the site's cases, held-out cases included", "one number",
        "the exact size of the cohort. Two runs show whether it changed. A recipe that selects "
        "cases (`image.slices`, `image.modalities`, `image.axis`) shows how many it selects",
        "`leaves.cases = false` sends 1, and the site declares a share. No hold-out, size or "
        "spacing changes the number. `allows.most_recipes` bounds how many recipes may select",
    ),
    ("card", "share"): Exposure(
        "the site's weight", "one number", "as `cases`, unless the steward declares it",
        "a declared share",
    ),
    ("card", "modalities"): Exposure(
        "names of what the site holds", "at most 64 names of 64 characters",
        "which scanners or sequences a site has; a secret that is in a name", "schema. The names "
        "come from `dataset.json`, so keep patients' names out of it",
    ),
    ("card", "parts"): Exposure(
        "fraction of all its cases that has each modality",
        "at most 64 numbers, one for each modality",
        "how many cases lack a sequence",
        "with `leaves.cases = false` a site with such cases takes no part",
    ),
    ("card", "labels"): Exposure(
        "names of the labels", "at most 1,024 names of 64 characters",
        "which findings are labelled; a secret that is in a name",
        "schema, as for modalities, and 1 MiB in all. Names are sent as written",
    ),
    ("card", "space"): Exposure("height and width", "1 to 3 numbers", "nothing", "schema"),
    ("card", "batch"): _BATCH,
    ("card", "conditions"): _CONDITIONS,
    ("card", "keep"): Exposure(
        "whether the coordinator may keep the site's masks", "one bit",
        "a coordinator can keep them even if this is no",
        "`leaves.masks`: it is no unless `released`",
    ),
    ("card", "few"): Exposure(
        "whether the site has too few patients to teach masks", "one bit",
        "of a run of masks: that the site has fewer than eight patients, or than four if it has "
        "one network",
        "`leaves.cases = false` always says no, and the site teaches masks",
    ),
    ("judgement", "run"): _RUN,
    ("judgement", "step"): _ANSWERED,
    ("judgement", "losses"): _LOSSES,
    ("judgement", "feedback"): Exposure(
        "gradient of the site's loss with respect to the synthetic images that it received",
        "b images of c x h x w in the recipe's coding",
        "what the discriminator has learned, also about single patients; with `loss.paired_l1` "
        "real pixels, exactly. [What feedback reveals](#what-feedback-reveals) lists the cases",
        "`leaves.feedback`, and the keys that this list names",
    ),
    ("judgement", "batch"): _BATCH,
    ("judgement", "conditions"): _CONDITIONS,
    ("described", "run"): _RUN,
    ("described", "fingerprint"): Exposure(
        "figures of the whole data set: counts, sizes, spacings, percentiles of intensities, sizes "
        "and places of labels, part of the variance that labels explain. Of a table: records by "
        "class, kinds and categories of columns, and means of neighbouring numbers",
        "some 50 numbers for each of at most 64 modalities, and 10 for each of at most 1,024 "
        "labels and 3 axes. Of a table 256 columns of up to 255 categories or 100 numbers; 1 MiB "
        "in all",
        "what kind of patients and scanners a site has; two fingerprints, "
        "with and without a patient, show roughly that patient's intensities and labels. Of a "
        "table: size and rate of a bank, the distribution of every single column, and exactly a "
        "value that ten records share; not how columns go together",
        "`leaves.fingerprint` (off by default). Only the file that `site.toml` names, which the "
        "steward has seen; a figure leaves, rounded, only if at least `allows.fewest_patients` "
        "patients are behind it. Of a table each mean is of ten records or more, leaving out "
        "15 % of them at each end, and counts are rounded to ten. Refused where "
        "`privacy.epsilon` is set",
    ),
    ("audited", "run"): _RUN,
    ("audited", "asked"): _ASKED,
    ("audited", "found"): Exposure(
        "figures of attacks on a generator and masks that the coordinator sent, over all patients "
        "of the run: numbers of members and others, how far plain measures tell these apart, AUC "
        "with interval, p-values and epsilon of five attacks, near copies, members' masks in the "
        "set",
        "9 numbers, and 6 for each of at most 8 attacks; names of at most 128 and 64 characters",
        "who took part. Of a generator, or masks, that were made to show one person, near copies "
        "and members' masks tell whether that person is a member here. One audit can test several "
        "persons. A site cannot know whether its training made a generator",
        "`leaves.audits` (0 by default) bounds how many leave in all; each asks for work of "
        "minutes. Only of a run of which the site keeps a state, and only over all of its members "
        "and others, of each at least `allows.fewest_patients`: no figure of a patient, no chosen "
        "patients. Rounded to hundredths, which hides little. Refused where `privacy.epsilon` is "
        "set, or `leaves.cases` is false",
    ),
    ("evaluated", "run"): _RUN,
    ("evaluated", "asked"): _ASKED,
    ("evaluated", "found"): Exposure(
        "how well a model that the coordinator sent does on all patients whom the site held out: "
        "for each label the number of patients who have it, their mean Dice and its interval; of a "
        "table for each class the number of records, the AUC and its interval",
        "at most 1,024 labels of 4 numbers, and names of at most 64 characters",
        "who was held out: of a network that was made to find a label in one person's image alone, "
        "the mean tells whether that person is among them. What a network computes, on average "
        "over these patients. A site cannot know on what a network was trained",
        "`leaves.evaluations` (0 by default) bounds how many leave in all. Only of a run of which "
        "the site keeps a state, and only over all held-out patients who have a label, at least "
        "`allows.fewest_patients` and at least two; an interval of at least five. No figure of a "
        "patient, no chosen patients. Rounded to hundredths, which hides a patient among 100 or "
        "more only. Refused where `privacy.epsilon` is set, or `leaves.cases` is false",
    ),
    ("saved", "run"): _RUN,
    ("saved", "step"): _ANSWERED,
    ("closed", "run"): _RUN,
    ("refusal", "run"): _RUN,
    ("refusal", "code"): Exposure(
        "kind of the refusal", "at most 32 letters", "nothing", "a fixed list"
    ),
    ("refusal", "reason"): Exposure(
        "reason of the refusal", "at most 500 characters", "the text of an exception",
        "only this project's own sentences leave. Errors of data become one fixed sentence, all "
        "other foreign errors another",
    ),
}  # fmt: skip

COMING: Final[dict[tuple[str, str], Exposure]] = {
    ("open", "run"): _RUN,
    ("open", "recipe"): Exposure(
        "digest of the recipe", "64 hexadecimal digits", "a recipe for which the site was not "
        "set up", "refused unless equal; `allows.approved`",
    ),
    ("open", "step"): Exposure(
        "the run's step", "one number", "rolls the site back, so that it answers a step twice",
        "schema. The ledger and `allows.most_answers` also count rolled-back steps, "
        "unless the same bytes leave",
    ),
    ("open", "attempt"): Exposure(
        "identity of the coordinator's attempt at the run", "at most 64 hexadecimal digits",
        "a new identity each time, to roll the site back", "as `step`; an attempt that is over is "
        "refused if it is among the newest 256. An empty identity is never refused as over",
    ),
    ("judge", "run"): _RUN,
    ("judge", "step"): _JUDGED_STEP,
    ("judge", "batch"): Exposure(
        "the batch from which the images were painted", "one number",
        "a batch of the coordinator's choice", "refused unless the site offered this batch",
    ),
    ("judge", "images"): Exposure(
        "synthetic images", "b images of c x h x w in float32, float16 or uint8",
        "images made to ask the discriminator; not-a-number to spoil it; a decompression bomb",
        "shape, coding, limit and finiteness are checked before use. What an answer reveals is in "
        "the row of `feedback`. The ledger counts images that come again, equal to the bit, in "
        "another step. Other pictures that no generator painted are not detected",
    ),
    ("judge", "conditions"): Exposure(
        "the masks from which the images were painted", "b masks of h x w with "
        "`masks.source = given`; else a zero",
        "a mask that the coordinator has of a person, to ask about it together with an image",
        "shape and highest label are checked; masks are not compared with patients', as a refusal "
        "would tell who is one. One training was [measured](results/worst_recipe.md)",
    ),
    ("describe", "run"): _RUN,
    ("audit", "run"): _ASKED_RUN,
    ("audit", "recipe"): _ASKED_RECIPE,
    ("audit", "facts"): _ASKED_FACTS,
    ("audit", "painting"): Exposure(
        "version of the painting", "one number", "nothing", "refused unless equal",
    ),
    ("audit", "faded"): Exposure(
        "labels that the set shows more or less clearly", "at most 64 names of 64 characters",
        "nothing", "refused unless the run has them",
    ),
    ("audit", "names"): Exposure(
        "names of the masks", "at most 32,768 names of 80 letters, digits and signs", "names of "
        "files that the site writes, in a folder that it removes", "schema",
    ),
    ("audit", "generator"): Exposure(
        "the file of the generator's weights (safetensors)",
        "its bytes, at most 128 MiB with the masks",
        "another generator, made to ask about a person (see `audited`); a hostile file. A curious "
        "site may keep the generator: it is personal data",
        "its digest, and the bounds on every checkpoint; no pickle. What its answer reveals is in "
        "the row of `found`",
    ),
    ("audit", "masks"): Exposure(
        "masks from which the audited set is painted", "n masks of h x w, 1 GiB once decoded",
        "a mask that the coordinator has of a person, to ask whether a member has it",
        "shape and labels are checked; see the row of `found`",
    ),
    ("evaluate", "run"): _ASKED_RUN,
    ("evaluate", "recipe"): _ASKED_RECIPE,
    ("evaluate", "facts"): _ASKED_FACTS,
    ("evaluate", "network"): Exposure(
        "name of the architecture", "at most 64 characters", "nothing",
        "refused unless this package builds it; no code comes along",
    ),
    ("evaluate", "width"): Exposure(
        "filters of its first level", "one number", "a network that takes much memory",
        "64 at most, and 1,024 classes",
    ),
    ("evaluate", "weights"): Exposure(
        "the file of its weights (safetensors)", "its bytes, at most 128 MiB",
        "a network that was made to ask something else (see `evaluated`); a hostile file",
        "no longer than the weights of the architecture and 1 MiB; their digest and shapes; "
        "finiteness; no pickle. What its answer reveals is in the row of `found`",
    ),
    ("save", "run"): _RUN,
    ("save", "step"): Exposure(
        "a state to keep", "one number", "fills the disk",
        "two states are kept of each run, nine runs under one name, and as many names as `runs` "
        "in `site.toml` allows (20)",
    ),
    ("close", "run"): _RUN,
}  # fmt: skip


def fields(kinds: dict[str, type]) -> list[tuple[str, str]]:
    """Pairs of message kind and field name, for every field of these messages."""
    return [(kind, name) for kind, message in kinds.items() for name in message.model_fields]


def table() -> Iterator[str]:
    """Lines of both tables, in Markdown; fields with the same exposure share a row."""
    for title, kinds, known in (
        ("What leaves a site", ANSWERS, LEAVING),
        ("What comes to a site", REQUESTS, COMING),
    ):
        yield f"### {title}"
        yield ""
        yield "| message | field | what it is | size | at worst | held by |"
        yield "|---|---|---|---|---|---|"
        rows: dict[tuple[str, Exposure], list[str]] = {}
        for kind, name in fields(dict(kinds)):
            rows.setdefault((name, known[kind, name]), []).append(kind)
        for (name, one), messages in rows.items():
            cells = (", ".join(messages), name, one.meaning, one.size, one.worst, one.held_by)
            yield "| " + " | ".join(cells) + " |"
        yield ""


DOCUMENT = Path(__file__).parents[2] / "docs" / "threat-model.md"
BEGIN, END = "<!-- fields -->", "<!-- end of fields -->"


def with_tables(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n" + "\n".join(table()) + f"\n{END}{after}"


def test_every_field_that_crosses_the_wire_is_in_the_threat_model():
    assert list(LEAVING) == fields(dict(ANSWERS))
    assert list(COMING) == fields(dict(REQUESTS))


def most(schema: Any) -> Iterator[int]:
    """The lengths that a JSON schema allows at most."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("maxLength", "maxItems", "maxProperties"):
                yield value
            elif key == "pattern":
                yield from map(int, re.findall(r"(\d+)\}", value))
            else:
                yield from most(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from most(value)


def test_the_sizes_in_the_threat_model_are_those_that_the_messages_allow():
    checked = 0
    for schemas, told in ((ANSWERS, LEAVING), (REQUESTS, COMING)):
        for (kind, name), exposure in told.items():
            field = schemas[kind].model_fields[name]
            if field.annotation is Tensor or Tensor in get_args(field.annotation):
                continue  # as large as the recipe says
            whole = Annotated[(field.annotation, *field.metadata)] if field.metadata else None
            schema = TypeAdapter(whole or field.annotation).json_schema()
            for number in most(schema):
                found = re.search(rf"(?<![\d,]){number:,}(?![\d,])", exposure.size)
                assert found, (kind, name, number, exposure.size)
                checked += 1
    assert checked > 20


def test_every_figure_of_a_fingerprint_is_in_the_threat_model():
    parts = (Fingerprint, Side, ModalityFigures, LabelFigures, Levels, Spread)
    fields = {field for part in parts for field in part.model_fields}
    text = DOCUMENT.read_text("utf-8")
    section = text.partition("### What a fingerprint tells")[2].partition("\n### ")[0]
    assert set(re.findall(r"`(\w+)`", section)) == fields | {"described"}


def test_the_document_is_what_the_messages_are():
    text = DOCUMENT.read_text("utf-8")
    assert text == with_tables(text)


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text("utf-8")), "utf-8")
