"""The only door out of a site.

`Endpoint` puts nothing on a connection but the bytes of a `Released`, and only `Release` makes one.
Everything that must not leave is stopped here, so there is one place to review. What the policy
does not allow never becomes bytes. What leaves is written to the ledger first.
"""

from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import final

import torch

from asyndgan.errors import NotFiniteError, PolicyError, ProtocolError, WithheldError
from asyndgan.privacy.accounting import Account, mechanism_of
from asyndgan.privacy.ledger import FEEDBACK, MASKS, Ledger, check_not_removed
from asyndgan.privacy.policy import SIMULATION, WITHIN, Policy
from asyndgan.recipe import Recipe
from asyndgan.wire.codec import Coding
from asyndgan.wire.messages import (
    ANSWERS,
    CASES_WITHHELD,
    Answered,
    Card,
    Described,
    Judgement,
    Message,
    Refusal,
    pack,
)

WITH_CONDITIONS = Card | Judgement  # Answers that hold what a generator paints from next
WITHOUT_RECIPE = Described | Answered | Refusal  # Answers that may leave where there is none
NO_RECIPE = "there is no recipe, so only a fingerprint, an audit or an evaluation may leave."
LOSSES = ("adversarial", "segmentation", "paired_l1")  # of the generator, by names that may leave
OWN_LOSSES = ("discriminator", "discriminator_synthetic")  # no number of another name leaves
LEDGER_FIELDS = ("run", "kind", "step", "payload", "norm", "masks", "bare", "repeated")

_KEY = object()


@final
@dataclass(frozen=True)
class Released:
    """An answer that may leave the site, as bytes."""

    kind: str  # of the message
    payload: bytes  # the bytes that travel
    run: str  # identity of the run
    step: int | None  # the step that it answers; None if there is none
    norm: float | None  # L2 norm of its feedback before coding; None if there is none
    masks: int  # number of patients' label maps or classes in it
    bare: str  # its contents that no limit on epsilon covers; see `ledger.Entry`
    repeated: int = 0  # number of images that it judges and that came in an earlier step; see there
    key: InitVar[object] = None  # proof that `Release` made it

    def __post_init__(self, key: object) -> None:
        if key is not _KEY:
            raise ProtocolError("only Release lets an answer out of a site.")


@final
class Release:
    """Lets answers out, in the recipe's codings, as far as the policy allows.

    Without a recipe only answers to `QUESTIONS` may leave. The ledger is written first (None: for
    policies that limit no answers). `site` sets the number of steps by the timeline; without
    `patients` answers are counted in all, not for each.

    Raises `PolicyError` if the policy does not allow the recipe, or limits answers of which no
    ledger would know.
    """

    def __init__(
        self,
        recipe: Recipe | None,
        policy: Policy = SIMULATION,
        ledger: Ledger | None = None,
        account: Account | None = None,
        site: str | None = None,
        patients: int | None = None,
    ) -> None:
        if recipe:
            policy.check(recipe, site, patients=patients)
        if ledger is None and policy.most_answers(patients):
            raise PolicyError(
                "the policy limits how often this site answers, and there is no ledger that counts "
                "it. Name a folder for the site's books.",
                ("allows.most_answers",),
            )
        self.patients = patients
        self._recipe = recipe
        self.policy = policy
        self.ledger = ledger
        self.account = account or Account(None, None, epsilon=None, delta=policy.privacy.delta)

    @property
    def recipe(self) -> Recipe:
        """The run's recipe; raises `ProtocolError` if there is none yet."""
        if self._recipe is None:
            raise ProtocolError(NO_RECIPE)
        return self._recipe

    def let_out(self, answer: Message, *, repeated: int = 0) -> Released:
        """Turns an answer into bytes that may leave.

        `repeated` is how many of the images that it judges came before, for the ledger. Raises
        `LedgerError` if that cannot be written, `NotFiniteError` for feedback, `PolicyError` or,
        if it is not a site's answer, `ProtocolError`.
        """
        if ANSWERS.get(answer.kind) is not type(answer):
            raise ProtocolError(f"'{answer.kind}' is no answer of a site; it stays inside.")
        if self._recipe is None and not isinstance(answer, WITHOUT_RECIPE):
            raise ProtocolError(NO_RECIPE)
        if isinstance(answer, Judgement) and not torch.isfinite(answer.feedback).all():
            raise NotFiniteError(f"the feedback of step {answer.step} is not finite.")
        answer = self._allowed(answer)
        codings: dict[str, Coding] = {}
        norm, masks, bare = None, 0, self._bare(answer)
        if isinstance(answer, Judgement):
            codings, norm = {"feedback": self.recipe.wire.feedback}, float(answer.feedback.norm())
        if isinstance(answer, WITH_CONDITIONS) and MASKS in bare:
            masks = len(answer.conditions)
        payload, step = pack(answer, codings), getattr(answer, "step", None)
        told = (answer.run, step, norm, masks, " ".join(bare), repeated)
        return self.let_out_again(Released(answer.kind, payload, *told, key=_KEY))

    def _bare(self, answer: Message) -> tuple[str, ...]:
        if isinstance(answer, Described):
            return ("fingerprint",)
        if isinstance(answer, Answered):
            return (answer.what,)
        uncovered = isinstance(answer, Judgement) and not self.policy.covers(self.recipe)
        own = isinstance(answer, WITH_CONDITIONS) and self.recipe.sends_own_conditions
        return (*((FEEDBACK,) if uncovered else ()), *((MASKS,) if own else ()))

    def _allowed(self, answer: Message) -> Message:
        """The answer without what the policy withholds; refused if that cannot be taken out."""
        fewest = self.policy.allows.fewest_patients
        match answer:
            case Described():
                self.policy.check_question("fingerprint")
                seen = answer.fingerprint.bounded(fewest)
                return answer.model_copy(update={"fingerprint": _of_enough(seen, "records")})
            case Answered():
                self.check_question(type(answer))
                found = answer.found.bounded(fewest)
                return answer.model_copy(update={"found": _of_enough(found, "patients")})
            case Card():
                self._check_conditions(answer)
                return answer.model_copy(update=self._withheld_of_card(answer))
            case Judgement():
                self._check_conditions(answer)
                return answer.model_copy(update={"losses": self._losses(answer)})
        return answer

    def _check_conditions(self, answer: Card | Judgement) -> None:
        own = self.recipe.sends_own_conditions
        if own or isinstance(answer, Judgement):
            self.check_count()
        if self.policy.leaves.masks in WITHIN and (own or answer.conditions.ndim > 1):
            raise WithheldError("this site's policy lets no masks or classes out.")

    def _withheld_of_card(self, card: Card) -> dict[str, object]:
        leaves, withheld = self.policy.leaves, {}
        if not leaves.cases:
            withheld = {"cases": CASES_WITHHELD, "parts": [1.0] * len(card.parts), "few": False}
        if leaves.masks != "released" and self.recipe.sends_own_masks:
            withheld["keep"] = False
        return withheld

    def _losses(self, answer: Judgement) -> dict[str, float]:
        leaves = self.policy.leaves
        if self.recipe.wire.feedback not in leaves.feedback:
            raise WithheldError("this site's policy lets no feedback out in this coding.")
        every = leaves.discriminator_losses or self.policy.covers(self.recipe)
        names = (*LOSSES, *(OWN_LOSSES if every else ())) if leaves.losses else ()
        return {name: value for name, value in answer.losses.items() if name in names}

    def check_count(self) -> None:
        """Raises `PolicyError` if the site has answered as often as its policy allows."""
        most = self.policy.most_answers(self.patients)
        if self.ledger and most and self.ledger.tally.answers >= most:
            raise WithheldError("this site has answered as often as its policy allows.")

    def adopt(self, policy: Policy) -> None:
        """Goes on by the policy of a steward who has changed it meanwhile; it is kept as well.

        For questions alone: the account stays as it was opened.
        """
        digest = policy.digest()
        if self.ledger and self.ledger.policy != digest:
            policy.keep(self.ledger.path.parent / "policies")
            self.ledger.policy = digest
        self.policy = policy

    def check_question(self, answer: type[Answered]) -> None:
        """Raises `PolicyError` if no such answer may leave, or no further one."""
        sent = self.ledger.tally.of_kind[answer.kind] if self.ledger else 0
        self.policy.check_question(answer.what, sent)

    def let_out_again(self, released: Released) -> Released:
        """Records bytes that leave, first or as they were lost; raises `LedgerError`."""
        if self.ledger:
            told = {name: getattr(released, name) for name in LEDGER_FIELDS}
            if self._recipe is not None and self._recipe.privacy.kind != "none":
                told |= {
                    "noise": self._recipe.privacy.noise,
                    "epsilon": self.account.epsilon(),
                    "delta": self.account.delta,
                }
            self.ledger.append(**told, uses=self.account.uses())
        return released

    def close(self) -> None:
        """Closes the ledger, which another process may then have; nothing leaves any more."""
        if self.ledger:
            self.ledger.close()

    def refuse(self, run: str, code: str, reason: str) -> Released:
        """Lets out a refusal: a code and a sentence of our own, no foreign exception's text."""
        line = "".join(letter if letter.isprintable() else " " for letter in reason)
        return self.let_out(Refusal(run=run, code=code, reason=line))


def _of_enough(figures: object, what: str) -> object:
    if figures is None:
        raise WithheldError(f"its figures are of fewer {what} than allows.fewest_patients.")
    return figures


def open_release(
    recipe: Recipe | None, policy: Policy, records: Path | None, site: str, patients: int
) -> Release:
    """Opens the door out of a site, which writes in its books; without a recipe, for questions.

    Raises `LedgerError` if the ledger cannot be trusted or had, `PolicyError` if the books
    contradict the policy, or it refuses the recipe.
    """
    ledger = None
    if records:
        file = records / "ledger.jsonl"
        check_not_removed(file, [records / "policies", records / "privacy.json"])
        ledger = Ledger(file, policy.digest(), recipe.digest() if recipe else "")
    account = Account(
        records / "privacy.json" if records else None,
        mechanism_of(recipe, patients) if recipe else None,
        epsilon=policy.privacy.epsilon,
        delta=policy.privacy.delta,
    )
    if records and ledger:
        policy.keep(records / "policies")
        account.check_against(ledger.tally, unprotected_masks=policy.privacy.unprotected_masks)
    return Release(recipe, policy, ledger, account, site, patients)
