"""The page of a site's steward: what is asked of the site, what is allowed, and what has left."""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

from asyndgan.engines import flare_part
from asyndgan.errors import AsyndganError, PolicyError, RecipeError, RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.privacy import Policy
from asyndgan.privacy.deciding import verdict, write_policy
from asyndgan.privacy.ledger import head_file, summary
from asyndgan.privacy.measured_recipes import outside
from asyndgan.privacy.policy import ASKED, QUESTIONS
from asyndgan.recipe import Recipe
from asyndgan.reports.asked import DIFFER, costs, differences, leaving, purpose
from asyndgan.reports.local import NOTHING, FormServer
from asyndgan.reports.page import rendered
from asyndgan.tables.schema import is_table
from asyndgan.texts import counted, sha256_of
from asyndgan.wire.messages import Audited, Evaluated

log = logging.getLogger(__name__)

SHOWN: Final = 20  # newest requests that the page shows
LAST: Final = 5  # lines of the ledger that the page shows
ANSWERS: Final = {each.what: each.kind for each in (Audited, Evaluated)}
"""Kinds of the messages whose number the policy limits, by what is asked for."""

DONE: Final = {
    "approve": "The recipe of run {run} is approved.",
    "such": "The recipe of run {run} is approved, and so are further ones like it.",
    "refuse": "The recipe of run {run} is refused, and further ones like it are not approved. "
    "Nothing leaves for it any more.",
    "each": "No further recipe is approved for being like another.",
    "ask": "From now on each recipe waits for your answer.",
    "unasked": "Recipes that the policy allows run without a question.",
    "more": "One more {run} may leave.",
    "none": "No further {run} leaves.",
}


@final
class StewardPage(FormServer):
    """Serves the page of a site.

    Its buttons write `policy.toml`, which alone decides; the site reads it with the next request.
    Raises `RunError` if the folder is no site's, or the port is taken.
    """

    most = 2000

    def __init__(self, kit: Path, port: int = 0) -> None:
        service = flare_part("service")
        self.kit, self.name = kit, service.name_of(kit)
        self.settings = service.SiteFile.of(kit)
        self.books = kit / "records"
        self.counted: tuple[Path, int | None] | None = None
        super().__init__(port)

    @property
    def patients(self) -> int | None:
        """Number of the site's patients; None where it is not known: of a table, of faulty data."""
        data, number = self.settings.data, None
        if not self.counted or self.counted[0] != data:
            with suppress(AsyndganError):
                number = None if is_table(data) else len({*DataSet(data).patients.values()})
            self.counted = data, number
        return self.counted[1]

    def shown(
        self, told: str = "", *, refused: str = "", typed: Mapping[str, str] = NOTHING
    ) -> str:
        """The page; nothing is typed into it."""
        alarms, books = list[str](), None
        try:
            self.settings = flare_part("service").SiteFile.of(self.kit)  # it may name other data
        except AsyndganError as error:
            alarms.append(str(error))
        ledger = self.books / "ledger.jsonl"
        try:
            if ledger.exists() or head_file(ledger).exists():
                lines, totals = summary(ledger, LAST)
                books = {"lines": lines[::-1], **totals}
                if totals["repeated"]:
                    alarms.append(
                        f"{counted(totals['repeated'], 'image')} came again in another step, which "
                        "a generator in training hardly paints. Ask the coordinator."
                    )
        except AsyndganError as error:
            alarms.append(f"{error} End what 'site start' runs, and keep the folder records.")
        alarms += [
            f"{path} cannot be read, so this request is not shown. Remove the file: the next time "
            "that the coordinator asks writes it anew."
            for path in flare_part("requests").unreadable(self.kit)
        ]
        policy, asked = None, list[dict[str, Any]]()
        try:
            policy = Policy.from_file(self.settings.policy)
            asked = [self._asked(each, policy, books) for each in self._requests()[:SHOWN]]
        except AsyndganError as error:
            alarms.append(f"{error} Until it is corrected nothing leaves.")
        return rendered(
            "steward.html.jinja",
            {
                "name": self.name, "told": told, "refused": refused, "alarms": alarms,
                "asked": asked, "policy": policy, "books": books,
                "file": self.settings.policy.name, "patients": self.patients,
            },
        )  # fmt: skip

    def _requests(self) -> list[Any]:
        found: list[Any] = flare_part("requests").kept(self.kit)
        return found

    def _asked(
        self, request: Any, policy: Policy, books: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """What the page tells of a request: `state` is waits, allowed, refused or changed."""
        when = time.strftime("%d %B %Y, %H:%M", time.localtime(request.time))
        about = {"run": request.run, "who": request.submitter, "when": when, "recipe": None}
        question = request.run if request.run in QUESTIONS else "fingerprint"
        about |= {"log": request.refused, "number": request.number}
        left = books["of_kind"].get(ANSWERS.get(question), 0) if books else 0
        most = policy.may_leave(question)
        about |= {"question": question, "key": QUESTIONS[question], "left": left, "most": most}
        about |= {"counted": not request.recipe and question in ANSWERS, "digest": _of(request)}
        try:
            policy.check_submitter(request.submitter)
            if not request.recipe:
                policy.check_question(question, left)
                return about | {"state": "allowed", "reasons": []}
            recipe = Recipe.from_toml(request.recipe)
        except (PolicyError, RecipeError) as error:
            waits = about["counted"] and getattr(error, "keys", ()) == (QUESTIONS[question],)
            return about | {"state": "waits" if waits else "refused", "reasons": [str(error)]}
        keys = {key for key, _ in policy.refused_by(recipe, self.name)}
        records = self.books if (self.books / "ledger.jsonl").exists() else None
        try:
            reasons, notes = verdict(policy, recipe, self.patients, self.name, records)
        except AsyndganError as error:
            reasons, notes = [str(error)], []
        state = "refused" if reasons or request.refused else "allowed"
        if keys and keys <= {*ASKED}:
            state = "waits"
        near, changed = differences(recipe)
        return about | {
            "state": state, "recipe": recipe, "digest": recipe.digest(), "reasons": reasons,
            "notes": notes, "purpose": purpose(recipe), "near": near, "changed": changed,
            "leaving": list(leaving(recipe, policy)), "outside": outside(recipe), "differ": DIFFER,
            "costs": list(
                costs(
                    recipe, policy, self.name, patients=self.patients,
                    answered=books["answers"] if books else 0,
                )
            ),
            "may_approve": keys <= {*ASKED, "allows.refused"} and bool(keys),
        }  # fmt: skip

    def decide(self, said: Mapping[str, str]) -> str:
        """Writes a decision, if policy and recipe are those that were shown."""
        return decide(self.kit, said)


def decide(kit: Path, said: Mapping[str, str]) -> str:
    """Writes a decision on what was shown of a site into its policy; returns what was done.

    Args:
        kit: the site's folder.
        said: `action`, one of `DONE`, and the digest of the `policy`; for a recipe also the `run`
            that asks for it, and its `digest`.

    Raises:
        RunError: the policy or the recipe is not the one that was shown.
        KeyError: something was not said.
    """
    action, file = said["action"], flare_part("service").SiteFile.of(kit).policy
    done, policy = DONE[action], Policy.from_file(file)
    if policy.digest() != said["policy"]:
        raise RunError("The policy changed after it was shown. Read it, then decide again.")
    run = digest = ""
    if action in ("approve", "such", "refuse"):
        run, digest = said["run"], said["digest"]
        recipe = asked_recipe(kit, run)
        if recipe is None or recipe.digest() != digest:
            raise RunError(
                f"The recipe of run {run[:64]} changed after it was shown, or is no longer "
                "asked for. Nothing was written. Read it, then decide again."
            )
        policy = policy.decided(recipe, approve=action != "refuse", such=action == "such")
    elif action in ("more", "none"):
        run, books = said["run"], kit / "records" / "ledger.jsonl"
        kind = ANSWERS[run]
        request = _request(kit, run)
        if request is None or said["digest"] != _of(request):
            raise RunError(f"Another {run} was asked for since. Nothing was written: look again.")
        left = summary(books, 1)[1]["of_kind"].get(kind, 0) if books.exists() else 0
        number = {f"{run}s": left + (action == "more")}
        policy = policy.model_copy(update={"leaves": policy.leaves.model_copy(update=number)})
    else:
        kept = {"such": ()} if action == "each" else {"unasked": action == "unasked"}
        policy = policy.model_copy(update={"allows": policy.allows.model_copy(update=kept)})
    write_policy(file, policy)
    log.info("%s %s %s", action, run, digest)
    return done.format(run=run)


def _of(request: Any) -> str:
    """The digest of a request, by which a decision is of it and of no later one."""
    return sha256_of(request.model_dump_json())


def asked_recipe(kit: Path, run: str) -> Recipe | None:
    """The recipe that is asked for in a run, if any."""
    request = _request(kit, run)
    return Recipe.from_toml(request.recipe) if request and request.recipe else None


def _request(kit: Path, run: str) -> Any:
    """The request that is kept of a run or question; None: there is none."""
    return next((each for each in flare_part("requests").kept(kit) if each.run == run), None)
