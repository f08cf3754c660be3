"""A site's policy on what may leave: a file that its steward writes and no coordinator sees."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal, Self, final

from pydantic import Field, ValidationError

from asyndgan.errors import PolicyError, WithheldError
from asyndgan.privacy.measured_recipes import Outside, kind_of, outside
from asyndgan.recipe import Recipe, Section, explained, known_keys
from asyndgan.texts import Title, bounded_text, parsed_toml, replace_text, sha256_of

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
WITHIN: Final = ("never", "learned")  # `leaves.masks` with which no patient's mask or class leaves

QUESTIONS: Final = {
    "fingerprint": "leaves.fingerprint",
    "audit": "leaves.audits",
    "evaluation": "leaves.evaluations",
}
"""What a coordinator asks without a recipe, and the key that decides."""

FeedbackCoding = Literal["float32", "float16", "int8", "int4"]


@final
class LeavesSection(Section):
    """What may leave the site."""

    feedback: tuple[FeedbackCoding, ...] = Field(
        ("float16", "int8", "int4"),
        description="codings of feedback; empty: no feedback leaves, so no recipe runs",
    )
    losses: bool = Field(
        True,
        description="the generator's loss at the site in each step, as numbers; if a coordinator "
        "sends a patient's image, they can reveal whether that patient takes part",
    )
    discriminator_losses: bool = Field(
        False,
        description="also the losses of the discriminators: they reveal which patients each has "
        "learned from, and so who takes part. Even if false, those on synthetic images leave if "
        "losses is true, privacy.epsilon is set and the recipe has privacy.kind 'discriminator'",
    )
    cases: bool = Field(True, description="the site's number of cases")
    masks: Literal["never", "learned", "transient", "released"] = Field(
        "learned",
        description="patients' label maps, or classes: 'never'; 'learned', none leaves, but a "
        "generator may learn what they look like; 'transient', they leave for the step that "
        "paints from them; or 'released', for the coordinator to keep. From masks that left, who "
        "has a patient's mask told who took part with an AUC of 0.957, with the picture alone "
        "of 0.760 (phantoms; docs/results/membership.md)",
    )
    fingerprint: bool = Field(
        False,
        description="the fingerprint that 'site.toml' names, so that a recipe can be planned. It "
        "is rounded, and figures of fewer patients than allows.fewest_patients are left out",
    )
    audits: int = Field(
        0, ge=0, le=10**6,
        description="audits that may leave, in total over all runs; 0: none. In each the site "
        "attacks a generator that the coordinator sends, with all its patients, and sends rounded "
        "figures. Of a generator that was made to paint one person's image they tell whether that "
        "person took part",
    )  # fmt: skip
    evaluations: int = Field(
        0, ge=0, le=10**6,
        description="evaluations that may leave, in total over all runs; 0: none. In each the site "
        "judges a network that the coordinator sends on its held-out patients, and sends, for each "
        "label that allows.fewest_patients of them have, their number, a rounded score and, of "
        "five patients or more, its interval. Of a network that was made to recognise one person's "
        "image they can tell whether that person was held out",
    )  # fmt: skip

    @property
    def codings(self) -> str:
        """Codings of feedback in words."""
        return ", ".join(self.feedback) or "none"


@final
class AllowsSection(Section):
    """What a recipe may ask for."""

    paired_l1: bool = Field(
        False, description="a term that compares with real images; its gradient reveals real pixels"
    )
    fewest_patients: int = Field(
        5, ge=1,
        description="fewest patients that must remain after holding out, for a recipe and for each "
        "modality. Recipes with differential privacy are exempt if privacy.epsilon is set. A "
        "generator of one patient shows only that patient",
    )  # fmt: skip
    unmeasured: bool = Field(
        False,
        description="false: only recipes of the measured family run, and those of 'approved' "
        "('asyndgan policy check' says what others could reveal). If privacy.epsilon is set, "
        "recipes with differential privacy are exempt. true: recipes outside the family run too",
    )
    approved: tuple[Digest, ...] = Field(
        (),
        description="digests ('asyndgan recipe show') of recipes that may run although they are "
        "outside that family, or 'unasked' is false; the rest of the policy still applies; empty: "
        "none",
    )
    such: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}:[0-9]{1,9}$")], ...] = Field(
        (),
        description="kinds of recipes that run like those of 'approved', each with its most "
        "steps; 'asyndgan site console' and 'asyndgan site approve --such' write them; "
        "empty: none",
    )
    refused: tuple[Digest, ...] = Field(
        (),
        description="digests of recipes that may not run, whatever else allows them; 'asyndgan "
        "site console' writes them; empty: none",
    )
    unasked: bool = Field(
        True,
        description="true: what the rest allows runs without a question; false: only the digests "
        "of 'approved' and the kinds of 'such' run, and any other recipe waits for the steward's "
        "answer",
    )
    known_start: bool = Field(
        False,
        description="initial discriminators, order of cases, augmentation and held-out patients "
        "follow from the recipe's seed, so that a run can be repeated to the bit; a coordinator "
        "can then recognise the images of a first step, and find patients by their names",
    )
    submitters: tuple[str, ...] = Field(
        (),
        description="people who may begin runs in a FLARE federation of others, by the name that "
        "its server reports; a federation of ours has one, coordinator@asyndgan.local; empty: all",
    )
    most_recipes: int | None = Field(
        None, ge=1,
        description="different recipes with which a coordinator may begin runs here, in total; "
        "each reveals, before any answer, whether the site begins and how many cases the recipe "
        "selects; left out: 4,096",
    )  # fmt: skip
    most_answers: int | None = Field(
        None, ge=1,
        description="answers of the site in total, over all runs; a step answered anew counts, and "
        "so does a start that sends patients' masks, but not the same bytes once more; left out: "
        "no limit",
    )  # fmt: skip
    most_answers_per_patient: int | None = Field(
        None, ge=1,
        description="the same limit, as a multiple of the patients from whom the current run "
        "learns: the fewer they are, the fewer answers a network needs to memorise them; left out: "
        "no limit",
    )  # fmt: skip


@final
class PrivacyFloorSection(Section):
    """The least differential privacy that a recipe must give each patient."""

    epsilon: float | None = Field(
        None, gt=0, le=1000,
        description="most that all runs together may spend on each patient; only recipes with "
        "differential privacy then run; left out: no limit, and no differential privacy required",
    )  # fmt: skip
    delta: float = Field(
        1e-5, gt=0, lt=1, description="of that epsilon; choose it well below 1 / patients"
    )
    unprotected_masks: bool = Field(
        False,
        description="true: patients' masks may leave without added noise, although epsilon does "
        "not cover them",
    )


@final
class Policy(Section):
    """What may leave a site and what it takes part in. The defaults are meant for patients."""

    name: Title = Field("default", description="for the site's own records")
    leaves: LeavesSection = LeavesSection()
    allows: AllowsSection = AllowsSection()
    privacy: PrivacyFloorSection = PrivacyFloorSection()

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Reads a policy; raises `PolicyError` on anything unknown, or of the wrong kind."""
        try:
            tables = parsed_toml(text)
        except ValueError as error:
            raise PolicyError(f"the policy is not valid TOML: {error}") from error
        try:
            return cls.model_validate(tables, strict=True)
        except ValidationError as error:
            known = list(known_keys(cls))
            faults = explained(error, known, "asyndgan policy show")
            raise PolicyError(f"the policy:\n{faults}") from error

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Reads a policy file; raises `PolicyError` as `from_toml`, or if it cannot be read."""
        try:
            text = bounded_text(path, links=True)
        except (OSError, ValueError) as error:
            raise PolicyError(
                f"'{path}' is no policy file that can be read. Name a site's policy.toml, or write "
                "one: 'asyndgan policy show > policy.toml'."
            ) from error
        return cls.from_toml(text)

    def digest(self) -> str:
        """SHA-256 of the resolved policy, in hexadecimal."""
        plain = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return sha256_of(plain)

    def keep(self, folder: Path) -> None:
        """Writes the policy to `DIGEST.toml`, for readers of a ledger; may raise `PolicyError`."""
        path = folder / f"{self.digest()}.toml"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_text(path, self.to_toml(), mode=0o600)
        except OSError as error:
            raise PolicyError(
                f"{path}, the policy in force, cannot be written ({error.strerror or error}), so "
                "nothing may leave. Free space, then try again."
            ) from error

    def covers(self, recipe: Recipe) -> bool:
        """Whether this policy holds a recipe's differential privacy for a guarantee.

        Without a limit on epsilon any noise, however little, would count as private.
        """
        return recipe.privacy.kind != "none" and self.privacy.epsilon is not None

    def fewest(self, recipe: Recipe) -> int:
        """Fewest patients of whom a recipe may learn here; 0 if differential privacy covers it."""
        return 0 if self.covers(recipe) else self.allows.fewest_patients

    def unmeasured(self, recipe: Recipe) -> list[Outside]:
        """Where a recipe is outside the family, unless it need not be inside."""
        if self.covers(recipe) or self.allows.unmeasured or self._approves(recipe):
            return []
        return outside(recipe)

    def _approves(self, recipe: Recipe) -> bool:
        """Whether the steward approved it, or such recipes of as many steps."""
        such = (each.partition(":") for each in self.allows.such)
        return recipe.digest() in self.allows.approved or any(
            kind == kind_of(recipe) and recipe.training.steps <= int(most) for kind, _, most in such
        )

    def check_submitter(self, submitter: str) -> None:
        """Checks that somebody may begin runs; raises `PolicyError` if not."""
        if self.allows.submitters and submitter not in self.allows.submitters:
            raise PolicyError(
                f"{submitter} may not begin runs here (allows.submitters)", ("allows.submitters",)
            )

    def may_leave(self, what: str) -> int:
        """How many answers to one of `QUESTIONS` may leave in all; of fingerprints 1: any."""
        return int(getattr(self.leaves, QUESTIONS[what].removeprefix("leaves.")))

    def check_question(self, what: str, sent: int = 0) -> None:
        """Checks that an answer to one of `QUESTIONS` may leave; raises `PolicyError` if not.

        `sent` are those that have left; of fingerprints none is counted.
        """
        if self.privacy.epsilon is not None:
            reason = f"limits epsilon, which covers no {what}"
            raise WithheldError(f"this site's policy {reason}.", ("privacy.epsilon",))
        if what != "fingerprint" and not self.leaves.cases:
            reason = f"withholds its number of cases, which {what}s tell"
            raise WithheldError(f"this site's policy {reason}.", ("leaves.cases",))
        key, most = QUESTIONS[what], self.may_leave(what)
        if not most:
            raise WithheldError(f"this site's policy lets no {what} out ({key}).", (key,))
        if sent >= most:
            raise WithheldError(f"this site has sent all {what}s that {key} allows.", (key,))

    def check_asked(self) -> None:
        """Checks that one of `QUESTIONS` is answered; raises `PolicyError` if none is."""
        reasons: list[PolicyError] = []
        for what in QUESTIONS:
            try:
                return self.check_question(what)
            except PolicyError as error:
                reasons.append(error)
        keys = dict.fromkeys(key for reason in reasons for key in reason.keys)
        raise PolicyError(" And ".join(map(str, reasons)), tuple(keys))

    def most_answers(self, patients: int | None) -> int | None:
        """Answers that a site gives in all, by its patients (None: not known); None: any number."""
        each = self.allows.most_answers_per_patient
        bounds = [self.allows.most_answers, each and patients and each * patients]
        return min((bound for bound in bounds if bound), default=None)

    def refused_by(
        self, recipe: Recipe, site: str | None = None, *, patients: int | None = None
    ) -> list[tuple[str, str]]:
        """The keys that refuse a recipe, each with its reason; empty if none does.

        The name of a `site` sets its steps by the timeline; `patients` take part at it.
        """
        reasons = [
            (key, text.format(p=self, r=recipe))
            for key, asks, text in REFUSED
            if asks(self, recipe)
        ]
        fewest, digest = self.fewest(recipe), recipe.digest()
        if patients is not None and patients < fewest:
            modality = "" if recipe.table else ", or has a modality of so few"
            reason = f"it learns of {patients} patients or records here{modality}"
            reasons.append(
                ("allows.fewest_patients", f"{reason}; allows.fewest_patients is {fewest}")
            )
        if beyond := self.unmeasured(recipe):
            keys = ", ".join(each.key for each in beyond)
            reason = f"it is outside what was measured ({keys}), so answers may reveal who takes "
            reason += f"part; its digest {digest} is not in allows.approved"
            reasons.append(("allows.approved", reason))
        elif not (self.allows.unasked or self._approves(recipe)):
            reason = "its steward has not approved it: allows.unasked is false, and its digest "
            reason += f"{digest} is not in allows.approved"
            reasons.append(("allows.approved", reason))
        if digest in self.allows.refused:
            reasons.append(("allows.refused", f"its digest {digest} is in allows.refused"))
        return reasons + self._answer_refusals(recipe, site)

    def decided(self, recipe: Recipe, *, approve: bool, such: bool = False) -> Self:
        """The policy after its steward has approved a recipe, or such recipes, or refused both."""
        allows, digest = self.allows, recipe.digest()
        lists = {
            name: [each for each in getattr(allows, name) if each != digest]
            for name in ("approved", "refused")
        }
        kind = kind_of(recipe)
        if such or not approve:
            lists["such"] = [each for each in allows.such if not each.startswith(kind)]
        if approve and such:
            lists["such"].append(f"{kind}:{recipe.training.steps}")
            return self._allowing(lists)
        free = allows.unmeasured or self.covers(recipe) or not outside(recipe)
        if not (approve and allows.unasked and free):
            lists["approved" if approve else "refused"].append(digest)
        return self._allowing(lists)

    def _allowing(self, lists: dict[str, list[str]]) -> Self:
        changed = {name: tuple(digests) for name, digests in lists.items()}
        return self.model_copy(update={"allows": self.allows.model_copy(update=changed)})

    def _answer_refusals(self, recipe: Recipe, site: str | None) -> list[tuple[str, str]]:
        """The limit per patient is not checked here: the reply would reveal their number."""
        presence = recipe.presence_of(site)
        steps = sum(map(len, presence))
        starts = len(presence) if recipe.sends_own_conditions else 0
        most = self.allows.most_answers
        if most is None or steps + starts <= most:
            return []
        asked = f"{site} takes part in {steps} steps" if site else f"training.steps is {steps}"
        if starts == 1:
            asked += " and the start sends masks as well"
        elif starts:
            asked += f" and its {starts} starts send masks as well"
        return [("allows.most_answers", f"{asked}; allows.most_answers is {most}")]

    def check(
        self, recipe: Recipe, site: str | None = None, *, patients: int | None = None
    ) -> None:
        """Raises `PolicyError` with every reason of `refused_by`, for the site's people alone."""
        reasons = self.refused_by(recipe, site, patients=patients)
        if reasons:
            why = "; ".join(text for _, text in reasons)
            raise PolicyError(
                f"policy '{self.name}' refuses recipe '{recipe.name}': {why}.",
                tuple(key for key, _ in reasons),
            )


# fmt: off
REFUSED: Final[tuple[tuple[str, Callable[[Policy, Recipe], object], str], ...]] = (
    ("leaves.feedback", lambda p, r: r.wire.feedback not in p.leaves.feedback,
     "wire.feedback is {r.wire.feedback}; leaves.feedback is {p.leaves.codings}"),
    ("allows.paired_l1", lambda p, r: r.loss.paired_l1 and not p.allows.paired_l1,
     "loss.paired_l1 is {r.loss.paired_l1:g}, so feedback gives real pixels away; allows.paired_l1 "
     "is false"),
    ("leaves.masks",
     lambda p, r: r.image.source == "masks" and p.leaves.masks == "never" and not p.covers(r),
     "image.source is masks, so the generator learns what patients' masks look like, without "
     "differential privacy; leaves.masks is never"),
    ("leaves.masks", lambda p, r: r.sends_own_conditions and p.leaves.masks in WITHIN,
     "condition.kind is {r.condition.kind}, with the site's own, so masks or classes of "
     "patients or records leave; leaves.masks is {p.leaves.masks}"),
    ("leaves.masks", lambda p, r: r.masks.release and p.leaves.masks != "released",
     "masks.release is true, so the coordinator keeps masks; leaves.masks is {p.leaves.masks}"),
    ("leaves.fingerprint",
     lambda p, r: r.table and r.table.source == "fingerprints" and not p.leaves.fingerprint,
     "table.source is fingerprints, so the recipe holds what fingerprints tell of records; "
     "leaves.fingerprint is false"),
    ("privacy.epsilon", lambda p, r: r.privacy.kind == "none" and p.privacy.epsilon is not None,
     "privacy.kind is none; privacy.epsilon is {p.privacy.epsilon:g}"),
    ("privacy.unprotected_masks", lambda p, r: p.covers(r) and r.privacy.conditions == "unprotected"
     and not p.privacy.unprotected_masks,
     "privacy.conditions is unprotected, so masks or classes leave in the clear; "
     "privacy.unprotected_masks is false"),
)
# fmt: on
"""Keys of a policy `p`, what each forbids a recipe `r`, and the reason to give."""

ASKED: Final = ("allows.approved",)
"""Keys that refuse a recipe until its steward approves it; any other key refuses it for good."""

# Lets out all that a recipe asks for; meant for runs in which nothing leaves the machine
SIMULATION = Policy(
    name="simulation",
    leaves=LeavesSection(
        feedback=("float32", "float16", "int8", "int4"),
        discriminator_losses=True,
        masks="released",
        fingerprint=True,
    ),
    allows=AllowsSection(paired_l1=True, fewest_patients=1, unmeasured=True, known_start=True),
)
