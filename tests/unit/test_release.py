"""Whether audits permit a release is told alike of images and of records."""

from dataclasses import dataclass, field

import pytest

from asyndgan.auditing.release import first_refusal, said_by
from asyndgan.errors import RunError


@dataclass(frozen=True)
class AuditOf:
    objection: str
    confirmed: dict[str, bool] = field(default_factory=lambda: {"west": True, "east": True})


def refusal(audit: AuditOf, name: str) -> str:
    return said_by(name, audit.objection)


@pytest.mark.parametrize(
    ("own", "others", "told"),
    [
        ("", ["", ""], ""),
        ("copies", ["others"], "copies"),
        ("", ["", "copies"], "the audit of east, west says copies"),
    ],
)
def test_a_refusal_is_that_of_the_first_audit_that_objects_by_name(own, others, told):
    assert first_refusal(refusal, AuditOf(own), [AuditOf(one) for one in others]) == told


def test_a_run_without_its_generator_is_a_reason_too():
    def lost(audit, name):
        raise RunError("there is no generator.")

    assert first_refusal(lost, AuditOf(""), []) == "there is no generator"
