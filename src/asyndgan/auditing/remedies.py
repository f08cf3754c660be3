"""What to do about an audit's result, as far as it fits the run."""

from collections.abc import Iterator

from asyndgan.auditing.audit import Audit
from asyndgan.auditing.groups import Groups
from asyndgan.runs import RunFolder
from asyndgan.runs.trial import steps_short_of
from asyndgan.texts import counted


def remedies(run: RunFolder, found: Audit) -> list[str]:
    """Sentences on what to do about a result; empty if it permits a release."""
    attacks, advice = found.attacks, []
    unlike = found.whole.groups if found.whole else found.groups
    if not found.copies.passes or any(one.alarms for one in attacks):
        advice.append(
            f"Train {', or '.join(_trainings(run))}; then audit that run. Release nothing of this "
            "one."
        )
    if not unlike.alike:
        advice.append(f"Audit with others who are like the members: {_lacking(unlike)}.")
    decided = [one for one in attacks if not one.explained]
    if few := [one for one in decided if not (one.alarms or one.passes) and one.comparable]:
        members, others = few[0].members, few[0].others
        least = ", at least about twenty of each group" if min(members, others) < 20 else ""
        advice.append(
            f"Audit with more patients than these {counted(members, 'member')} and "
            f"{counted(others, 'other')}{least}."
        )
    if any(not one.comparable for one in decided):
        advice.append("Audit with other patients of the members' own hospitals.")
    return advice


def _trainings(run: RunFolder) -> Iterator[str]:
    """Ways to train in which fewer images are remembered, of those that this run did not take."""
    recipe, facts = run.recipe(), run.facts()
    yield "with more patients"
    if not recipe.training.move and recipe.image.source == "images":
        yield "with --set training.move=true"
    if facts.steps >= 1000 and not steps_short_of(facts, recipe):
        yield f"for fewer than {facts.steps} steps"
    if recipe.privacy.kind == "none":
        yield "under differential privacy (privacy.kind)"


def _lacking(groups: Groups) -> str:
    """Whom to add to, or leave out of, the others."""
    if not groups.others:
        return (
            "patients of the same hospitals, scanners and period, named after their site "
            "(SITE-PATIENT) so that both groups can be matched"
        )
    if not groups.other_mix:
        return "drawn at random from the same hospitals, scanners and period"
    strange = sum(number for site, number in groups.others.items() if site not in groups.members)
    absent = sorted(site for site in groups.members if site not in groups.others)
    steps = [
        *([f"leave out the {counted(strange, 'patient')} of other hospitals"] if strange else []),
        *([f"add patients of {', '.join(absent)}"] if absent else []),
    ]
    return " and ".join(steps) or "the same part of each hospital's patients"
