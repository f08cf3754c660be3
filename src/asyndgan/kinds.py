"""What is done with a finished run, of images or of records: one is chosen, then called.

Arguments and errors are those of `asyndgan.generate`, `evaluate` and `audit`, and of the commands.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from asyndgan.auditing.record import AuditRecord
from asyndgan.auditing.records import RecordsAudit, audit_records, check_released_records
from asyndgan.auditing.release import check_released
from asyndgan.auditing.run import audit_run
from asyndgan.export.writing import written_whole
from asyndgan.intake.dataset import DataSet, told
from asyndgan.judging.asked import evaluated_at_sites, set_digest
from asyndgan.judging.bench import Bench, OnProgress
from asyndgan.judging.of_run import evaluate_run
from asyndgan.judging.records import RecordsEvaluation, evaluate_records
from asyndgan.judging.table import Evaluation
from asyndgan.painting.fading import fading_of
from asyndgan.painting.records import generate_records
from asyndgan.painting.sets import MOVED, write_standard
from asyndgan.painting.synthesise import Origin, chosen_masks, masks_digest
from asyndgan.painting.writing import Storage
from asyndgan.runs import RunFolder
from asyndgan.runs.sites import RunSites
from asyndgan.tables.schema import refuse_for_images

Folders = Mapping[str, Path]
Sets = Mapping[str, DataSet]


@final
@dataclass(frozen=True)
class Images:
    """A run of images."""

    run: RunFolder

    def generate(
        self, out: Path, *, masks: Path | None, draws: int | None, fade: Sequence[str],
        like: Path | None, watch: OnProgress | None,
    ) -> int:  # fmt: skip
        """Paints a synthetic set, by default the one that is judged."""
        named, origin = chosen_masks(self.run, masks)
        fading, storage = fading_of(self.run, fade), self._storage(like, origin)
        with written_whole(out) as half:  # on entry it looks whether it can be written
            return write_standard(
                half, self.run, named, origin, moved=(draws or 1 + MOVED) - 1, fading=fading,
                watch=watch, storage=storage,
            )  # fmt: skip

    def release(
        self, out: Path, audits: Sequence[Path], *, masks: Path | None, fade: Sequence[str],
        like: Path | None, watch: OnProgress | None,
    ) -> tuple[int, str]:  # fmt: skip
        """Paints the set that audits permit; returns its cases and what the audits found."""
        fading = fading_of(self.run, fade)
        check_released(self.run, None, audits, fading=fading)  # before all masks are read
        named, origin = chosen_masks(self.run, masks)
        storage = self._storage(like, origin)
        with written_whole(out) as half:
            audited = check_released(self.run, masks_digest(named), audits, fading=fading)
            evaluated = evaluated_at_sites(self.run, set_digest(self.run, named, fading))
            count = write_standard(
                half, self.run, named, origin, fading=fading, watch=watch,
                findings={"audited": audited, "evaluated": evaluated}, storage=storage,
            )  # fmt: skip
        return count, audited

    def _storage(self, like: Path | None, origin: Origin) -> Storage:
        if like:
            return Storage.like(DataSet(like), self.run, origin.grids)
        return Storage.plain(self.run.recipe().image, origin.grids)

    def evaluate(
        self, sites: Folders, bench: Bench, *, test: Path | None, synthetic: Path | None,
        states: Folders | None = None,
        tell: Callable[[str], None] | None = None, **more: Any,
    ) -> Evaluation:  # fmt: skip
        """Compares segmentation networks; `tell` is given what the data sets hold."""
        opened = RunSites.opened(self.run, sites, states=states)
        judged = {"test set": DataSet(test)} if test else {}
        if tell:
            tell(told({**opened.data, **judged}))
        painted = DataSet(synthetic) if synthetic else None
        return evaluate_run(opened, judged.get("test set"), painted, bench, **more)

    def audit(
        self, sites: Folders, out: Path, *, holdout: Path | None, states: Folders,
        tell: Callable[[Sets, Sets], None] | None = None, **more: Any,
    ) -> AuditRecord:  # fmt: skip
        """Attacks the run with images; `tell` is given the sites' data sets, and the others'."""
        opened = RunSites.opened(self.run, sites, states=states)
        others = {"hold-out set": DataSet(holdout)} if holdout else {}
        if tell:
            tell(opened.data, others)
        return audit_run(opened, out, holdout=others.get("hold-out set"), **more)


@final
@dataclass(frozen=True)
class Records:
    """A run of records, whose commands refuse what is of images."""

    run: RunFolder

    def generate(
        self, out: Path, *, draws: int | None, watch: OnProgress | None, **of_images: object
    ) -> int:
        """Makes a table."""
        refuse_for_images(of_images)
        return generate_records(self.run, out, draws=draws)

    def release(
        self, out: Path, audits: Sequence[Path], *, watch: OnProgress | None, **of_images: object
    ) -> tuple[int, str]:
        """Makes the table that audits permit; returns its records and what the audits found."""
        refuse_for_images(of_images)
        audited = check_released_records(self.run, audits)
        findings = {
            "audited": audited,
            "evaluated": evaluated_at_sites(self.run, set_digest(self.run)),
        }
        return generate_records(self.run, out, findings=findings), audited

    def evaluate(self, sites: Folders, bench: Bench, **how: Any) -> RecordsEvaluation:
        """Compares models that predict the target."""
        return evaluate_records(self.run, sites, bench, **how)

    def audit(self, sites: Folders, out: Path, *, watch: object = None, **how: Any) -> RecordsAudit:
        """Compares records with the nearest synthetic ones."""
        return audit_records(self.run, sites, out, **how)


def kind_of(run: RunFolder) -> Images | Records:
    """How a run is used, by its recipe."""
    return Records(run) if run.recipe().table else Images(run)
