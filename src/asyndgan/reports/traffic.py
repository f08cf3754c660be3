"""What travelled between the sites and the coordinator, in bytes and in plain words.

The descriptions follow `asyndgan.wire.messages` field by field; keep them in sync with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from asyndgan.recipe import Recipe
from asyndgan.reports.words import size
from asyndgan.runs import RunFacts
from asyndgan.runs.facts import socket_sums
from asyndgan.wire import Judge, Judgement

_OF_CONDITION: Final = {
    "mask": ("the masks (label maps of real cases)", "masks"),
    "class": ("the classes", "classes"),
    "none": ("an empty list of conditions", "conditions"),
}


@final
@dataclass(frozen=True)
class Kind:
    """One kind of message.

    Attributes:
        name: name of the kind on the wire.
        meaning: description of its content.
        total: bytes of all sites, as text.
        sizes: bytes of each site, as text, in the order of the sites.
    """

    name: str
    meaning: str
    total: str
    sizes: tuple[str, ...]


@final
@dataclass(frozen=True)
class SiteTraffic:
    """Traffic of one site.

    Attributes:
        site: name of the site.
        number: number of its colour.
        left: bytes that it sent, as text.
        came: bytes that it received, as text.
        left_part: length of the bar for `left`, 0 to 100 on a scale that all bars share.
        came_part: length of the bar for `came`.
        step: bytes of its answers per step that it answered, as text.
        sockets: bytes that its machine's sockets sent and received, as text; empty if not counted.
    """

    site: str
    number: int
    left: str
    came: str
    left_part: float
    came_part: float
    step: str
    sockets: str


@final
@dataclass(frozen=True)
class Stayed:
    """Something that no message contains.

    Attributes:
        what: name of the thing.
        why: a sentence about it.
    """

    what: str
    why: str


@final
@dataclass(frozen=True)
class Traffic:
    """Content of the page's section on traffic.

    Attributes:
        left: kinds of message that sites sent.
        came: kinds of message that sites received.
        sites: traffic of each site.
        left_total: bytes that all sites sent, as text.
        came_total: bytes that all sites received, as text.
        left_step: mean bytes of a site's answer per step, as text; a dash if no step was answered.
        came_step: mean bytes of a request to a site per step, likewise.
        stayed: what never left a site.
        caution: paragraphs with what a reader must know about feedback.
        masks: what became of the masks that travelled.
        losses: whether losses of any site arrived.
        silent: sites that answered without losses.
    """

    left: tuple[Kind, ...]
    came: tuple[Kind, ...]
    sites: tuple[SiteTraffic, ...]
    left_total: str
    came_total: str
    left_step: str
    came_step: str
    stayed: tuple[Stayed, ...]
    caution: tuple[str, ...]
    masks: str
    losses: bool
    silent: tuple[str, ...]


def read_traffic(
    facts: RunFacts,
    recipe: Recipe,
    records: Sequence[Mapping[str, Any]],
    numbers: Mapping[str, int],
    kept_masks: int,
) -> Traffic:
    """Summarises the traffic that a run counted.

    Args:
        facts: facts of the run.
        recipe: recipe of the run, which determines what the messages contain.
        records: records of metrics.jsonl, which tell how many steps each site answered, and with
            which losses.
        numbers: colour number of each site, in the order of the sites.
        kept_masks: number of masks in the run folder.
    """
    answered = {site: sum(site in record["losses"] for record in records) for site in numbers}
    reported = {site for record in records for site, own in record["losses"].items() if own}
    silent = tuple(site for site in numbers if answered[site] and site not in reported)
    left, came = facts.left_sites, facts.came_to_sites
    return Traffic(
        left=tuple(_kinds(left, _left_meanings(recipe, losses=bool(reported)), numbers)),
        came=tuple(_kinds(came, _came_meanings(recipe), numbers)),
        sites=tuple(_sites(facts, numbers, answered)),
        left_total=size(_total(left)),
        came_total=size(_total(came)),
        left_step=_a_step(left, Judgement.kind, answered),
        came_step=_a_step(came, Judge.kind, answered),
        stayed=tuple(_stayed(recipe)),
        caution=tuple(_caution(recipe)),
        masks=_masks(recipe, kept_masks),
        losses=bool(reported),
        silent=silent,
    )


Counts = Mapping[str, Mapping[str, int]]


def _total(counts: Counts) -> int:
    return sum(sum(kinds.values()) for kinds in counts.values())


def _a_step(counts: Counts, kind: str, answered: Mapping[str, int]) -> str:
    steps = sum(answered.values())
    spent = sum(counts.get(site, {}).get(kind, 0) for site in answered)
    return size(spent / steps) if steps else "\N{EN DASH}"


def _kinds(counts: Counts, meanings: Mapping[str, str], sites: Mapping[str, int]) -> Iterator[Kind]:
    """Kinds of message that occurred, known ones first; unknown ones are listed too."""
    found = dict.fromkeys(kind for kinds in counts.values() for kind in kinds)
    for kind in dict.fromkeys([*meanings, *found]):
        sizes = [counts.get(site, {}).get(kind, 0) for site in sites]
        if kind in found:
            yield Kind(
                kind,
                meanings.get(kind, "A kind of message that this page does not know."),
                size(sum(sizes)),
                tuple(size(each) for each in sizes),
            )


def _sites(
    facts: RunFacts, numbers: Mapping[str, int], answered: Mapping[str, int]
) -> Iterator[SiteTraffic]:
    left, came = facts.left_sites, facts.came_to_sites
    sums = {
        site: (sum(left.get(site, {}).values()), sum(came.get(site, {}).values()))
        for site in numbers
    }
    most = max((max(pair) for pair in sums.values()), default=0) or 1
    for site, (out, into) in sums.items():
        yield SiteTraffic(
            site=site,
            number=numbers[site],
            left=size(out),
            came=size(into),
            left_part=round(100 * out / most, 2),
            came_part=round(100 * into / most, 2),
            step=_a_step(left, Judgement.kind, {site: answered[site]}),
            sockets=" out, ".join(map(size, socket_sums(facts.socket_bytes.get(site, {})))),
        )


def _conditions(recipe: Recipe) -> tuple[str, str]:
    """What a site chooses as conditions, and what is painted from them."""
    if recipe.masks.source == "given":
        return "masks (of those that it was given; none is a patient's)", "given masks"
    if recipe.condition.kind == "class" and recipe.draws_conditions:
        return "classes (drawn at random; none is a patient's)", "classes drawn at random"
    chosen, name = _OF_CONDITION[recipe.condition.kind]
    return chosen, f"the site's own {name}"


def _left_meanings(recipe: Recipe, *, losses: bool) -> dict[str, str]:
    conditions, _ = _conditions(recipe)
    reported = "losses as plain numbers: the curves above." if losses else "no loss."
    return {
        "card": "Who it is, when it joins or returns: how many cases it has, its share, the names "
        "of its modalities and labels, which part of its cases has each modality, the size of its "
        "images, how many steps and batches it has done, whether its masks may be kept, and "
        f"{conditions} of its first batch.",
        "judgement": "Its answer, every step. Feedback: for each pixel of each synthetic image "
        "that it was sent, how a small change would change the site's loss (a gradient, coded as "
        f"{recipe.wire.feedback}). With it {conditions} of its next batch, the batch's number, and "
        + reported,
        "described": "Figures of the whole data set, before there is a recipe; no image.",
        "saved": "It has kept its state. A step number; nothing else.",
        "closed": "Good-bye. Nothing else.",
        "refusal": "No, and why: a code and a sentence about the protocol, without anything of the "
        "site's data.",
    }


def _came_meanings(recipe: Recipe) -> dict[str, str]:
    _, conditions = _conditions(recipe)
    return {
        "open": "Take part in this run. The run's identity, the recipe's hash and the step.",
        "judge": f"Judge these synthetic images, painted from {conditions} "
        f"(pixels coded as {recipe.wire.images}).",
        "describe": "Send the fingerprint of your data, before there is a recipe.",
        "save": "Keep your state. A step number.",
        "close": "The run is over.",
    }


def _stayed(recipe: Recipe) -> Iterator[Stayed]:
    yield Stayed("Images", "No message of a site has a place for one.")
    yield Stayed(
        "Discriminators", "Each site's own network: neither weights nor gradients of them."
    )
    yield Stayed("Names", "No file name, no path, no name or number of a patient.")
    if recipe.condition.kind == "mask":
        yield Stayed(
            "Whose mask is whose", "The masks themselves leave, in batches, without a name."
        )


def _caution(recipe: Recipe) -> Iterator[str]:
    noise = "No noise was added to it, so this run has no guarantee of differential privacy."
    if recipe.privacy.kind == "discriminator":
        noise = (
            "The discriminators were trained with noise (DP-SGD); each site's ledger says what "
            "guarantee of differential privacy that comes to."
        )
    yield (
        "Feedback is not an image, but it is worked out from real images at the site and can carry "
        f"traces of them. {noise}"
    )
    if recipe.loss.paired_l1:
        yield (
            f"This recipe also compares each synthetic image with the real image of the same mask "
            f"(loss.paired_l1 = {recipe.loss.paired_l1:g}). The sign of that part of the feedback "
            "tells, pixel by pixel, whether the real image is brighter or darker. A coordinator "
            "that painted what it liked could find real pixels in this way: use such a recipe only "
            "where the coordinator is trusted with the images."
        )
    if recipe.sends_own_masks:
        yield (
            "Masks are outlines drawn in real patients. A rare shape may be recognised by someone "
            "who knows the patient."
        )


def _masks(recipe: Recipe, kept: int) -> str:
    if recipe.condition.kind != "mask":
        return ""
    if recipe.masks.release and not kept:
        return "The coordinator kept no masks: none of the sites allows it."
    if recipe.masks.release:
        return (
            "The coordinator kept masks, as the recipe and the sites allow (masks.release): "
            f"{kept} different ones lie in the run folder. Anyone with access to that folder can "
            "read them."
        )
    return "The coordinator used the masks to paint and did not keep them (masks.release is off)."
