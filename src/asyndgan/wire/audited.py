"""What an audit or an evaluation at a site comes to: rounded figures over all of its patients."""

import math
from typing import Annotated, Final, Self, final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from asyndgan.texts import Name, Title

Patients = Annotated[int, Field(ge=0, le=10**9)]
Figure = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)] | None
"""A number; None stands for nan."""
Score = Annotated[float, Field(ge=0, le=1)] | None

LEAST_FOR_INTERVAL: Final = 5
"""Fewest patients of an interval: its ends nearly are single patients' figures of fewer."""


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def rounded(self) -> Self:
        """To hundredths, each figure in the direction in which no verdict becomes milder."""
        numbers = ((name, value) for name, value in self if isinstance(value, float))
        return self.model_copy(update={name: _rounded(name, value) for name, value in numbers})


@final
class AttackFigures(_Figures):
    """One way of telling members from others; see `auditing.membership.Attack`."""

    name: Title
    auc: Figure
    low: Figure
    high: Figure
    p_value: Figure
    epsilon: Figure
    corrected: Figure
    explained: bool


@final
class GroupFigures(_Figures):
    """What tells members from others apart from membership; see `auditing.groups.Groups`."""

    measure: Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
    auc: Figure
    p_value: Figure


@final
class CopyFigures(_Figures):
    """Near copies of members; see `auditing.copies.NearCopies`."""

    found: Patients
    nearest: Figure
    nearest_other: Figure
    p_value: Figure


@final
class AuditFigures(_Figures):
    """The findings of an audit of one site."""

    members: Patients  # on whom the run was trained here
    others: Patients  # whom it held out here
    groups: GroupFigures
    attacks: Annotated[list[AttackFigures], Field(max_length=8)]
    copies: CopyFigures
    own_masks: Patients  # masks of the set that are a member's

    def bounded(self, fewest: int) -> Self | None:
        """The figures as they may leave, rounded; None if a group has fewer patients."""
        if min(self.members, self.others) < fewest:
            return None
        return self.model_copy(
            update={
                "groups": self.groups.rounded(),
                "attacks": [one.rounded() for one in self.attacks],
                "copies": self.copies.rounded(),
            }
        )  # fmt: skip


@final
class ScoreFigures(_Figures):
    """How well a model finds a label, or tells a class from the others, at one site."""

    name: Name  # of the label or class
    patients: Patients  # who have the label; of records the fewer, of the class or the others
    score: Score  # mean Dice over these patients, or AUC
    low: Score
    high: Score

    @model_validator(mode="after")
    def _has_both_ends(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.low or 0) > (self.high or 0):
            raise ValueError("an interval has two ends, the lower one first")
        return self

    def rounded(self) -> Self:
        """To hundredths, without an interval of few patients."""
        told = ("score", "low", "high") if self.patients >= LEAST_FOR_INTERVAL else ("score",)
        kept = {name: getattr(self, name) for name in told}
        scores = {name: value if value is None else round(value, 2) for name, value in kept.items()}
        return self.model_copy(update={"low": None, "high": None, **scores})


@final
class EvaluationFigures(_Figures):
    """The scores of a model that saw no real patient, on those whom one site held out."""

    scores: Annotated[list[ScoreFigures], Field(min_length=1, max_length=1024)]

    def bounded(self, fewest: int) -> Self | None:
        """The figures as they may leave, rounded; None if every one is of fewer patients."""
        kept = [one.rounded() for one in self.scores if one.patients >= max(fewest, 2)]
        return self.model_copy(update={"scores": kept}) if kept else None


def _rounded(name: str, value: float) -> float:
    up = name == "low" or (name == "high" and value >= 0.5)
    return (math.ceil if up else math.floor)(value * 100) / 100
