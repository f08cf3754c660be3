"""A site whose card lies when a run begins: what the others lose by it, and who is told."""

from collections.abc import Mapping
from typing import Any

import pytest

from asyndgan.errors import CohortError, QuorumError, RecipeError
from asyndgan.recipe import Recipe
from asyndgan.recipe.sections import LARGEST_SHARE
from asyndgan.runs.proposal import proposal
from asyndgan.texts import LONGEST_NEWS
from asyndgan.training import Coordinator
from asyndgan.training.quorum import normalised
from asyndgan.training.scope import Scope
from asyndgan.wire.messages import ANSWERS, Card, pack, unpack

RUN = "abc123"
LABELS = {"0": "background", "1": "organ", "2": "lesion"}
NAMED = "image.labels={background=0, organ=1, lesion=2}"
SITES = ("east", "north", "south")


def lie(federation: Any, **lies: Mapping[str, Any]) -> None:
    """Has sites send, over their line, cards with other fields than their own."""

    def forge(site: str, answer: bytes) -> bytes:
        card = unpack(answer, ANSWERS, limit=federation.exchange.limit)
        if site not in lies or not isinstance(card, Card):
            return answer
        return pack(card.model_copy(update=dict(lies[site])), {"conditions": "label8"})

    federation.line.tap = forge


def modalities(count: int) -> dict[str, list[Any]]:
    """Fields of a card with one real modality and so many that are made up."""
    return {"modalities": ["T1", *(f"M{n}" for n in range(count))], "parts": [1.0] * (count + 1)}


@pytest.fixture
def three(make_cohort, make_sites):
    """A federation of three sites, of 6, 3 and 4 cases, that hold the same."""

    def make(recipe):
        counts = zip(SITES, (6, 3, 4), strict=True)
        return make_sites(recipe, {name: make_cohort(recipe, cases=n) for name, n in counts})

    return make


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"labels": LABELS | {"63": "evil"}}, "site north has label 63 'evil', which this run"),
        (modalities(61), "site north has T1, M0, .*; this run paints T1 at"),
    ],
)
def test_what_the_recipe_names_no_card_adds_to(fields, reason, tiny, three):
    recipe = tiny(NAMED, "image.modalities=['T1']", "generator.style=2")
    federation = three(recipe)
    lie(federation, north=fields)
    with pytest.raises(CohortError, match=reason):
        federation.begin()
    coordinator = Coordinator.begin(recipe, federation.exchange, run=RUN, needed={"east", "south"})
    assert set(coordinator.members) == {"east", "south"}
    assert coordinator.scope == Scope(("T1",), {0: "background", 1: "organ", 2: "lesion"}, (16, 16))
    assert [coordinator.roster.look_of(site) for site in ("east", "south")] == ["east", "south"]
    (note,) = coordinator.events
    assert note.startswith("north is not there: site north has")
    assert coordinator.step().updated


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"labels": LABELS | {"1023": "evil"}}, "north has label 1023 'evil', .* none above 63"),
        (modalities(61), "hold 62 modalities, north alone 62, .* paints 16 at most"),
    ],
)
def test_a_recipe_that_names_nothing_lets_a_card_ask_for_so_much_and_no_more(
    fields, reason, tiny, three
):
    federation = three(tiny())
    lie(federation, north=fields)
    with pytest.raises(CohortError, match=reason):
        federation.begin()


def test_labels_without_end_are_painted_where_the_recipe_names_them(tiny, three):
    federation = three(tiny("image.labels={background=0, organ=1, lesion=2, rare=1023}"))
    lie(federation, north={"labels": LABELS | {"1023": "rare"}})
    assert max(federation.begin().scope.labels) == 1023
    with pytest.raises(RecipeError, match="two labels have one number"):
        tiny("image.labels={organ=1, lesion=1}")
    with pytest.raises(RecipeError, match="less than 1024"):
        tiny("image.labels={organ=1024}")


@pytest.mark.parametrize("liar", ["east", "north"])
def test_of_labels_that_contradict_each_other_the_odd_one_out_is_named_first(liar, tiny, three):
    federation = three(tiny())
    lie(federation, **{liar: {"labels": LABELS | {"2": "vessel"}}})
    others = ", ".join(f"site {site}" for site in SITES if site != liar)
    with pytest.raises(CohortError, match=f"^site {liar} calls .*vessel'; {others} call label 2"):
        federation.begin()


def test_a_card_with_another_size_is_named(tiny, three):
    federation = three(tiny())
    lie(federation, south={"space": [16, 32]})
    with pytest.raises(CohortError, match=r"other sizes than .*'south': \[16, 32\]}"):
        federation.begin()


def shown(recipe: Recipe, federation: Any) -> tuple[str, Coordinator]:
    """What is to be confirmed, and the coordinator that begins then."""
    texts: list[str] = []

    def confirm(scope: Scope, cards: Mapping[str, Card]) -> None:
        assert not any(site.step for site in federation.sites.values())
        texts.append(proposal(recipe, scope, cards))

    coordinator = Coordinator.begin(recipe, federation.exchange, run=RUN, confirm=confirm)
    (text,) = texts
    return text, coordinator


def test_who_alone_brings_something_and_what_the_others_lose_by_it_is_shown_before_the_first_step(
    tiny, three
):
    recipe = tiny("generator.style=2")
    honest, _ = shown(recipe, three(recipe))
    assert "alone" not in honest and "look" not in honest
    federation = three(recipe)
    lies = {"modalities": ["T1", "CT"], "parts": [1.0, 1.0], "labels": LABELS | {"63": "evil"}}
    lie(federation, north=lies)
    text, coordinator = shown(recipe, federation)
    after = sum(weights.numel() for weights in coordinator.generator.parameters())
    lines = text.splitlines()
    assert f"generator   {after:,} weights" in lines
    assert "north alone brings 'CT', label 63 'evil'." in lines
    assert [line.split() for line in lines if line.startswith(SITES)][:3] == [
        ["east", "6", "46%", "6", "'CT',", "labels", "63"],
        ["north", "3", "23%", "3", "nothing"],
        ["south", "4", "31%", "4", "'CT',", "labels", "63"],
    ]


def test_what_a_run_is_resumed_with_is_confirmed_already(tiny, three):
    federation = three(tiny())
    state = federation.begin().state()
    Coordinator.begin(
        federation.recipe, federation.exchange, run=RUN, checkpoint=state, confirm=pytest.fail
    )


def test_a_name_in_a_card_passes_for_nothing_else(tiny, three):
    recipe, federation = tiny(), three(tiny())
    name = "T2', 'T1'; A site counts by"
    lie(federation, north={"modalities": ["T1", name], "parts": [1.0, 1.0]})
    text, _ = shown(recipe, federation)
    assert all(line.isprintable() for line in text.split("\n"))
    assert repr(name) in text
    for hostile in ("T2\u2028A site counts by", "T2\u202e", "T2\x1b[2J"):
        federation = three(recipe)
        lie(federation, north={"modalities": ["T1", hostile], "parts": [1.0, 1.0]})
        with pytest.raises(QuorumError, match="fields that its schema does not allow"):
            shown(recipe, federation)


@pytest.mark.parametrize(
    ("most", "sites", "expected"),
    [
        ([], 3, LARGEST_SHARE),
        ([], 2, 1.0),  # of two, neither is the odd one out
        (["shares.most=0.5"], 3, 0.5),
    ],
)
def test_of_three_sites_none_counts_for_all_whatever_share_it_declares(
    most, sites, expected, tiny, make_cohort, make_sites
):
    recipe = tiny(*most, "quorum.least=0.1")
    federation = make_sites(recipe, {name: make_cohort(recipe) for name in SITES[:sites]})
    lie(federation, east={"share": 2.0**52})
    text, coordinator = shown(recipe, federation)
    assert coordinator.step().shares["east"] == pytest.approx(expected)
    assert [line.split()[2:4] for line in text.splitlines() if line.startswith("east ")] == [
        [f"{expected:.0%}", f"{2.0**52:g}"]
    ]
    # In a step in which others are silent, the bound is the same.
    federation.line.deaf = {"south"}
    assert coordinator.step().shares["east"] == pytest.approx(expected)


def test_the_bound_leaves_sites_as_unequal_as_the_data_sets_here_as_they_are():
    volumes = {"site_1": 44.0, "site_2": 137.0, "site_3": 22.0}  # hippocampus_3d
    assert normalised(volumes, Recipe().shares.most_of(3)) == normalised(volumes)


def test_a_site_that_comes_or_comes_back_with_a_share_above_all_others_is_told_of(tiny, three):
    def until_there():
        while "south" not in coordinator.members:
            coordinator.invite()

    federation = three(tiny("quorum.least=0.1"))
    federation.line.cut = {"south"}
    coordinator = federation.begin()
    coordinator.step()
    federation.line.cut = set()
    until_there()
    assert coordinator.events == ["south is there, with a new discriminator"]  # it is honest
    federation.line.deaf = {"south"}
    coordinator.step()
    federation.line.deaf = set()
    lie(federation, south={"share": 2.0**52})
    until_there()
    note, back = coordinator.events
    assert note == "south declares a share of 4.5036e+15, and counts for 75% from now on"
    assert back == "south is back, with its discriminator of step 2"
    federation = three(tiny())
    lie(federation, south={"share": 2.0**52})
    unasked = Coordinator.begin(
        federation.recipe, federation.exchange, run=RUN, needed={"east", "north"}
    )
    (note,) = unasked.events
    assert note.startswith("south declares a share of 4.5036e+15, and counts for 75%")


def test_a_line_of_news_is_cut_where_a_cards_names_make_it_too_long(tiny, three):
    coordinator = three(tiny()).begin()
    coordinator.events.append("site south has " + LONGEST_NEWS * "T1, ")
    assert [len(line) for line in coordinator.step().events] == [LONGEST_NEWS]
