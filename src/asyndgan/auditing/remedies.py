"""What to do about an audit's result, as far as it fits the run."""

from collections.abc import Iterator

from asyndgan.auditing.audit import Audit
from asyndgan.auditing.membership import BY_MASK
from asyndgan.runs import RunFolder
from asyndgan.runs.trial import steps_short_of
from asyndgan.texts import counted


def remedies(run: RunFolder, found: Audit) -> list[str]:
    """What to do about a result, the first thing first; nothing if it permits a release."""
    attacks, advice = found.attacks, []
    trial = steps_short_of(run.facts(), run.recipe())
    if trial:
        advice.append(f"Audit a finished training of {trial:,} steps: a trial run decides nothing.")
    if not found.groups.alike:
        advice.append(f"Audit with others who are like the members: {_lacking(run, found)}.")
    decided = [one for one in attacks if not one.explained]
    if any(not one.comparable for one in decided):
        advice.append("Audit with other patients of the members' own hospitals.")
    if few := [one for one in decided if not (one.alarms or one.passes) and one.comparable]:
        members, others = few[0].members, few[0].others
        least = ", at least about twenty of each group" if min(members, others) < 20 else ""
        advice.append(
            f"Audit with more patients than these {counted(members, 'member')} and "
            f"{counted(others, 'other')}{least}."
        )
    told = [one for one in attacks if one.alarms]
    if found.own_masks or any(one.name in BY_MASK for one in told):
        theirs = "by their own masks" if found.own_masks else "by masks that resemble theirs"
        advice.append(
            "Audit with --masks OTHER, a folder of masks of nobody who took part: this set shows "
            f"the members' anatomy {theirs}, so it cannot be released."
        )
    by_image = [one for one in told if one.name not in BY_MASK]
    if not trial and (not found.copies.passes or by_image):
        alarm = "If the alarm stays, release" if advice else "Release"
        advice.append(
            f"{alarm} nothing of this run: train {', or '.join(_trainings(run))}; then audit that "
            "run."
        )
    return advice


def _trainings(run: RunFolder) -> Iterator[str]:
    """Ways to train in which fewer images are remembered, of those that this run did not take."""
    recipe, facts = run.recipe(), run.facts()
    yield "with more patients"
    if not recipe.training.move and recipe.image.source == "images":
        yield "with --set training.move=true"
    if facts.steps >= 1000:
        yield f"for fewer than {facts.steps} steps"
    if recipe.privacy.kind == "none":
        yield "under differential privacy (privacy.kind)"


def _lacking(run: RunFolder, found: Audit) -> str:
    """Whom to add to, or leave out of, the others; or whom else to take."""
    held_out, groups = run.recipe().training.hold_out, found.groups
    if held_out and found.given:
        return "leave out --holdout, and the patients whom the run held out are compared"
    further = "" if held_out else (
        "; or train with --set training.hold_out=0.2, and audit that run without --holdout"
    )  # fmt: skip
    if not groups.others:
        return (
            "patients of the same hospitals, scanners and period, named after their site "
            f"(SITE-PATIENT) so that both groups can be matched{further}"
        )
    if not groups.other_mix:
        return f"drawn at random from the same hospitals, scanners and period{further}"
    strange = sum(number for site, number in groups.others.items() if site not in groups.members)
    absent = sorted(site for site in groups.members if site not in groups.others)
    steps = [
        *([f"leave out the {counted(strange, 'patient')} of other hospitals"] if strange else []),
        *([f"add patients of {', '.join(absent)}"] if absent else []),
    ]
    return (" and ".join(steps) or "the same part of each hospital's patients") + further
