"""The content of `audit.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, final

from pydantic import BeforeValidator, Field, StrictBool, TypeAdapter

from asyndgan.auditing.audit import AUDIT_FILE, Audit, decided
from asyndgan.auditing.reconstruction import PixelsRead
from asyndgan.auditing.schema import Faded, Whole
from asyndgan.judging.table import read_result
from asyndgan.painting.sets import OF_SITES
from asyndgan.painting.synthesise import RELEASED
from asyndgan.runs.facts import Hex
from asyndgan.texts import Line, Name, SiteName

OTHER_MASKS: Final = "--masks OTHER, a folder of masks of nobody who took part"


@final
@dataclass(frozen=True)
class AuditRecord:
    """An audit and its subject.

    Attributes:
        audit: its findings.
        pixels: what a coordinator reads of some sites' images.
        generator: SHA-256 of the generator.
        masks: digest of the masks from which the audited set was painted.
        fading: labels that the set shows more or less clearly.
        painting_version: version of the painting.
        modalities: names of the modalities that were compared.
        canaries: start of the names of both groups; empty if they are not canaries.
        confirmed: by site of members, whether its own state confirms that they took part.
        source: description of where the masks came from; empty if not known.
        trial: that the run is a trial; empty if it is none.
    """

    audit: Audit
    pixels: list[PixelsRead]
    generator: Annotated[Hex, Field(alias="generator_sha256")]
    masks: Annotated[Hex, Field(alias="masks_sha256")]
    fading: Faded
    painting_version: Whole
    modalities: frozenset[Name]
    canaries: Line
    confirmed: Annotated[dict[SiteName, StrictBool], Field(min_length=1)]
    source: Annotated[Line, Field(alias="masks")] = ""
    trial: Line = ""

    def __post_init__(self) -> None:
        if self.confirmed.keys() != self.audit.groups.members.keys():
            raise ValueError("members are of other sites than those that are named")

    def __repr__(self) -> str:
        found = [("groups", self.audit.groups.verdict)]
        found += [(one.name, self.decided(one.verdict)) for one in self.audit.attacks]
        found += [("copies", self.decided(self.audit.copies.verdict))]
        found += [("pixels", one.verdict) for one in self.pixels]
        return "\n".join(["Audit:", *(f"{name}: {verdict}" for name, verdict in found)])

    def decided(self, verdict: str) -> str:
        """A verdict on what the generator reveals, without alarm if the run is a trial."""
        return decided(verdict, self.trial)

    @property
    def painted_from(self) -> str:
        """From whose masks the audited set was painted; empty if not known or from none."""
        if not self.source or self.source.startswith("none"):
            return ""
        if not self.of_members:
            return (
                "the audited set was painted from masks of which none was recognised as a member's "
                f"({self.source})"
            )
        equal = f"{self.audit.own_masks} of them are a member's, as it is or was sent"
        return (
            f"the audited set was painted from masks of the members ({self.source}; {equal}), so "
            "it shows the members' anatomy even if the generator remembers no image. An audit with "
            f"{OTHER_MASKS}, tells what the generator alone reveals"
        )

    @property
    def of_members(self) -> bool:
        """Whether the audited set was painted from masks of the members, as they are or moved."""
        return bool(self.audit.own_masks) or self.source.startswith((RELEASED, OF_SITES))

    @property
    def owned(self) -> str:
        """Why the set may not be released because of its masks; empty if it may."""
        if not self.of_members:
            return ""
        return (
            "the set was painted from masks of the members, so it shows the members' anatomy. "
            f"Audit with {OTHER_MASKS}, and paint from the same masks"
        )


_RECORD: Final[TypeAdapter[AuditRecord]] = TypeAdapter(
    Annotated[AuditRecord, BeforeValidator(lambda tables: {**tables, "audit": tables})]
)


def read_audit(folder: Path) -> AuditRecord:
    """Reads `audit.json` of a folder; raises `RunError` if there is none that can be read."""
    return read_result(folder / AUDIT_FILE, _RECORD, "audit that can be read", "asyndgan audit")
