"""A site's policy on what may leave: a file that its steward writes and no coordinator sees."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal, Self, final

from pydantic import Field, ValidationError

from asyndgan.errors import PolicyError
from asyndgan.privacy.family import Outside, outside
from asyndgan.recipe import Recipe, Section, explained, known_keys
from asyndgan.texts import Title, bounded_text, parsed_toml, replace_text

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
WITHIN: Final = ("never", "learned")  # `leaves.masks` with which no patient's mask or class leaves

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
        "has a patient's mask told who took part with an AUC of 0.94, with the picture alone of "
        "0.80 (phantoms; docs/results/membership.md)",
    )
    fingerprint: bool = Field(
        False,
        description="the fingerprint that 'site.toml' names, so that a recipe can be planned. It "
        "is rounded, and figures of fewer patients than allows.fewest_patients are left out",
    )

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
        description="digests of recipes outside that family that may run; the rest of the policy "
        "still applies; empty: none",
    )
    known_start: bool = Field(
        False,
        description="initial discriminators, order of cases, augmentation and held-out patients "
        "follow from the recipe's seed, so that a run can be repeated to the bit; a coordinator "
        "can then recognise the images of a first step, and find patients by their names",
    )
    recipes: tuple[Digest, ...] = Field(
        (), description="digests ('asyndgan recipe show'); empty: all that the rest allows"
    )
    submitters: tuple[str, ...] = Field(
        (),
        description="people who may begin runs in a federation, by the name in their certificate, "
        "as the coordinator's machine reports it; empty: all people",
    )
    most_recipes: int | None = Field(
        None, ge=1,
        description="different recipes with which a coordinator may begin runs here, in total; "
        "each reveals, before any answer, whether the site begins and how many cases the recipe "
        "selects; left out: 4,096",
    )  # fmt: skip
    most_answers: int | None = Field(
        None, ge=1,
        description="answers of the site in total, over all runs; a repeated step counts, and so "
        "does a start that sends patients' masks, unless its card repeats the one before; left "
        "out: no limit",
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
            raise PolicyError(f"the policy:\n{explained(error, known)}") from error

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Reads a policy file; raises `PolicyError` as `from_toml`, or if it cannot be read."""
        try:
            text = bounded_text(path, links=True)
        except (OSError, ValueError) as error:
            raise PolicyError(f"'{path}' is no policy file that can be read.") from error
        return cls.from_toml(text)

    def digest(self) -> str:
        """SHA-256 of the resolved policy, in hexadecimal."""
        plain = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(plain.encode()).hexdigest()

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
        allows = self.allows
        if self.covers(recipe) or allows.unmeasured or recipe.digest() in allows.approved:
            return []
        return outside(recipe)

    def check_fingerprint(self) -> None:
        """Checks that a fingerprint may leave; raises `PolicyError` if not."""
        if not self.leaves.fingerprint:
            raise PolicyError("this site's policy lets no fingerprint out (leaves.fingerprint).")
        if self.privacy.epsilon is not None:
            raise PolicyError(
                "this site's policy limits epsilon, which covers no fingerprint; so none may leave."
            )

    def most_answers(self, patients: int | None) -> int | None:
        """Answers that a site gives in all, by its patients (None: not known); None: any number."""
        each = self.allows.most_answers_per_patient
        bounds = [self.allows.most_answers, each and patients and each * patients]
        return min((bound for bound in bounds if bound), default=None)

    def refusals(
        self, recipe: Recipe, site: str | None = None, *, patients: int | None = None
    ) -> list[str]:
        """The reasons why this policy refuses a recipe; empty if it does not.

        The name of a `site` sets its steps by the timeline; `patients` take part at it.
        """
        reasons = [text.format(p=self, r=recipe) for asks, text in REFUSED if asks(self, recipe)]
        fewest = self.fewest(recipe)
        if patients is not None and patients < fewest:
            modality = "" if recipe.table else ", or has a modality of so few"
            reasons.append(
                f"it learns of {patients} patients or records here{modality}; "
                f"allows.fewest_patients is {fewest}"
            )
        if beyond := self.unmeasured(recipe):
            keys = ", ".join(each.key for each in beyond)
            reasons.append(
                f"it is outside what was measured ({keys}), so answers may reveal who takes part; "
                f"its digest {recipe.digest()} is not in allows.approved"
            )
        if self.allows.recipes and recipe.digest() not in self.allows.recipes:
            reasons.append(f"its digest {recipe.digest()} is not in allows.recipes")
        return reasons + self._answer_refusals(recipe, site)

    def _answer_refusals(self, recipe: Recipe, site: str | None) -> list[str]:
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
        return [f"{asked}; allows.most_answers is {most}"]

    def check(
        self, recipe: Recipe, site: str | None = None, *, patients: int | None = None
    ) -> None:
        """Raises `PolicyError` with every reason of `refusals`, for the site's people alone."""
        reasons = self.refusals(recipe, site, patients=patients)
        if reasons:
            raise PolicyError(
                f"policy '{self.name}' refuses recipe '{recipe.name}': {'; '.join(reasons)}."
            )


# fmt: off
REFUSED: Final[tuple[tuple[Callable[[Policy, Recipe], object], str], ...]] = (
    (lambda p, r: r.wire.feedback not in p.leaves.feedback,
     "wire.feedback is {r.wire.feedback}; leaves.feedback is {p.leaves.codings}"),
    (lambda p, r: r.loss.paired_l1 and not p.allows.paired_l1,
     "loss.paired_l1 is {r.loss.paired_l1:g}, so feedback gives real pixels away; allows.paired_l1 "
     "is false"),
    (lambda p, r: r.image.source == "masks" and p.leaves.masks == "never" and not p.covers(r),
     "image.source is masks, so the generator learns what patients' masks look like, without "
     "differential privacy; leaves.masks is never"),
    (lambda p, r: r.sends_own_conditions and p.leaves.masks in WITHIN,
     "condition.kind is {r.condition.kind} and they are the site's own, so masks or classes of "
     "patients or records leave; leaves.masks is {p.leaves.masks}"),
    (lambda p, r: r.masks.release is True and p.leaves.masks != "released",
     "masks.release is true, so the coordinator keeps masks; leaves.masks is {p.leaves.masks}"),
    (lambda p, r: r.table and r.table.source == "fingerprints" and not p.leaves.fingerprint,
     "table.source is fingerprints, so the recipe holds what fingerprints tell of records; "
     "leaves.fingerprint is false"),
    (lambda p, r: r.privacy.kind == "none" and p.privacy.epsilon is not None,
     "privacy.kind is none; privacy.epsilon is {p.privacy.epsilon:g}"),
    (lambda p, r: p.covers(r) and r.privacy.conditions == "unprotected"
     and not p.privacy.unprotected_masks,
     "privacy.conditions is unprotected, so masks or classes leave in the clear; "
     "privacy.unprotected_masks is false"),
)
# fmt: on
"""What a policy `p` does not allow a recipe `r` to ask for, and the reason to give."""

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
