"""Sets up a site on this machine, in the same way for every engine."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from pydantic import TypeAdapter

from asyndgan.errors import CohortError, DataError, ProtocolError, RunError
from asyndgan.intake.dataset import DataSet
from asyndgan.intake.findings import findings, refuse
from asyndgan.models.parts import usable_device
from asyndgan.privacy import SIMULATION, Openings, Policy, Release, Released
from asyndgan.privacy.door import open_release
from asyndgan.protocol import ASKED_LIMIT, Endpoint, Handler, message_limit
from asyndgan.recipe import Recipe
from asyndgan.store import Cohort, derived_seed
from asyndgan.store.fitting import shared_modalities
from asyndgan.store.info import DatasetInfo
from asyndgan.store.prepare import masks_as_images
from asyndgan.store.splits import OPEN, Chooser, held_out_by
from asyndgan.store.survey import Survey
from asyndgan.tables.cohort import load_records
from asyndgan.tables.planning import fingerprint_in
from asyndgan.tables.schema import is_table
from asyndgan.texts import bounded_text, replace_text, storing
from asyndgan.training import Site
from asyndgan.training.compute import measured_precision
from asyndgan.wire.audited import AuditFigures, EvaluationFigures
from asyndgan.wire.messages import Asked, Describe, Described, Message, pack

log = logging.getLogger(__name__)

_CHOOSER: Final = TypeAdapter(Chooser)

PRECISION_FILE: Final = "precision.txt"  # in a site's states of a run: its precision
CHOOSER_FILE: Final = "hold_out.json"  # in a site's states of a run: how patients were held out


@final
@dataclass(frozen=True)
class SiteSetup:
    """A site's folders and settings."""

    name: str  # name of the site
    data: Path  # folder of its images and masks
    state: Path  # folder of its own checkpoints
    share: float | None = None  # its weight among the sites; None means its number of cases
    # policy file written by its steward. None: everything a recipe asks for may leave the site,
    # since nothing leaves the machine.
    policy: Path | None = None
    # folder of its ledger and account, which outlive runs; None means `state`
    records: Path | None = None
    device: str = "cpu"  # torch device on which its networks compute
    # of its process, where it has one of its own (engines `processes` and `flare`)
    threads: int = 1
    without: tuple[str, ...] = ()  # modalities in the folder that are not used
    # file of `asyndgan fingerprint`, from which the coordinator may plan a recipe; None: none is
    # sent
    fingerprint: Path | None = None
    # of its networks' arithmetic. Empty: what the recipe names or, for `auto`, what is faster here;
    # a run keeps what it began with.
    precision: str = ""

    def to_plain(self) -> dict[str, Any]:
        """Converts the setup to JSON-serialisable values, to be passed to another process."""
        plain: dict[str, Any] = _SETUP.dump_python(self, mode="json")
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "SiteSetup":
        """Restores a setup from the result of `to_plain`."""
        return _SETUP.validate_python(plain)


_SETUP: Final = TypeAdapter(SiteSetup)


def load_cohort(
    setup: SiteSetup,
    recipe: Recipe,
    chooser: Chooser | None = None,
    *,
    data: DataSet | None = None,
    tell: Callable[[str], None] | None = None,
) -> Cohort:
    """Loads a site's cases, images or records, by the recipe, without its held-out patients.

    The `chooser` is None for what the states of the run say; `tell` is given each note on the data.
    Raises `DataError` for faults of the data, `CohortError` if they do not fit the recipe.
    """
    if chooser is None:
        chooser = chooser_at(setup.state) or OPEN
    if recipe.table or is_table(setup.data):
        return load_records(recipe, setup.data, setup.name, chooser)
    data = data or DataSet(setup.data)
    cases = data.cases(
        recipe.image,
        _modalities(setup, recipe, data.info),
        unmasked=recipe.condition.kind != "mask" and recipe.image.source != "masks",
        incomplete=True,
    )
    masked = recipe.sends_own_masks or recipe.image.source == "masks"
    faults = findings(Survey.of(cases, recipe.image, masked=masked))
    if recipe.privacy.kind == "none":
        # Under differential privacy nothing that the coordinator sees may depend on patients, and
        # it would see that the site cannot begin.
        refuse(faults, f"site {setup.name}")
    if tell:
        for finding in faults:
            tell(f"site {setup.name}: {finding}")
    if recipe.image.source == "masks":
        cases = masks_as_images(cases, data.info.labels)
    kept, _ = held_out_by(recipe, cases, chooser)
    return Cohort.from_cases(
        kept,
        everyone=cases,
        chooser=chooser,
        labels=data.info.labels,
        condition=recipe.condition.kind,
        seed=derived_seed(recipe.training.seed, "cohort", setup.name),
        flip=recipe.training.flip,
        move=recipe.training.move,
        maps=recipe.image.source == "masks",
    )


def _modalities(setup: SiteSetup, recipe: Recipe, info: DatasetInfo) -> tuple[str, ...] | None:
    """Modalities of the site that are used; None if the recipe alone decides."""
    if not setup.without:
        return None
    shared = shared_modalities(info, recipe.image)
    held = tuple(name for name in shared if name not in setup.without)
    if not held or set(setup.without) - set(info.modalities):
        raise CohortError(
            f"site {setup.name} is to go without {', '.join(setup.without)}. Its folder has "
            f"{', '.join(info.modalities)}: name some of these, and leave one that is painted."
        )
    return held


def policy_of(setup: SiteSetup) -> Policy:
    """Loads the site's policy; raises `PolicyError` if its file cannot be used."""
    return Policy.from_file(setup.policy) if setup.policy else SIMULATION


def chooser_at(state: Path) -> Chooser | None:
    """How a site held patients out, by its states of a run; None: unknown. May raise `RunError`."""
    path = state / CHOOSER_FILE
    if not path.exists():
        return None
    try:
        return _CHOOSER.validate_json(bounded_text(path))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is not as the site wrote it, so the held-out patients are unknown. Put it "
            "back."
        ) from error


def _keep_chooser(setup: SiteSetup, recipe: Recipe, policy: Policy, secret: str) -> Chooser:
    """The chooser that a policy asks for, written beside the site's states for evaluations."""
    chooser = OPEN if policy.allows.known_start else Chooser(secret, policy.fewest(recipe))
    _keep(setup, CHOOSER_FILE, json.dumps(asdict(chooser)))
    return chooser


def _keep(setup: SiteSetup, name: str, text: str) -> None:
    """Writes a file among the site's states of the run."""
    with storing(setup.state / name):
        setup.state.mkdir(parents=True, exist_ok=True)
        replace_text(setup.state / name, text, mode=0o600)


def _precision(setup: SiteSetup, recipe: Recipe, device: torch.device) -> str:
    """The precision in which a site computes a run, kept among its states of the run."""
    path = setup.state / PRECISION_FILE
    if recipe.training.precision != "auto":
        return recipe.training.precision
    if path.exists():
        return "bfloat16" if "bfloat16" in bounded_text(path) else "float32"
    precision = measured_precision(recipe, device)
    _keep(setup, PRECISION_FILE, precision)
    return precision


def set_up(setup: SiteSetup, recipe: Recipe) -> Endpoint:
    """Loads a site's cases and wraps the site in its endpoint.

    Raises `PolicyError`, `LedgerError`, `StorageError`, or as `load_cohort`.
    """
    policy = policy_of(setup)
    policy.check(recipe, setup.name)
    openings = Openings(setup.records or setup.state)
    openings.admit(recipe.digest(), policy.allows.most_recipes)
    chooser = _keep_chooser(setup, recipe, policy, openings.secret)
    data = DataSet(setup.data)  # which opens nothing yet
    cohort = load_cohort(setup, recipe, chooser, data=data, tell=log.warning)
    device = usable_device(setup.device)
    site = Site(
        setup.name,
        cohort,
        recipe.computed_in(setup.precision or _precision(setup, recipe, device)),
        folder=setup.state,
        records=setup.records,
        share=setup.share,
        policy=policy,
        openings=openings,
        device=device,
    )
    return Endpoint(site, limit=message_limit(recipe))


Finder = Callable[[SiteSetup, Asked], AuditFigures | EvaluationFigures]
"""What audits or evaluates with the patients of a site (`auditing.answering`)."""


@final
class Answering(Handler):
    """Answers questions that need no recipe.

    To `Describe` with the fingerprint (a file) that the site's steward has seen alone, and to
    `Audit` and `Evaluate` with what is found.
    """

    def __init__(self, setup: SiteSetup, release: Release, find: Finder) -> None:
        self.setup = setup
        self.release = release
        self.find = find

    def handle(self, request: Message) -> Released:
        """Answers one request; raises `ProtocolError`, `PolicyError` or `DataError`."""
        if isinstance(request, Asked):
            self._check(request)  # before hours of work
            log.warning(
                "the coordinator asks for an %s of run %s", request.answer.what, request.run
            )
            # By it equal answers to other requests count, which would tell something for nothing.
            asked = hashlib.sha256(pack(request, {})).hexdigest()
            found = self.find(self.setup, request)
            self._check(request)
            return self.release.let_out(request.answer(run=request.run, asked=asked, found=found))
        if not isinstance(request, Describe):
            raise ProtocolError(f"there is no recipe yet, so '{request.kind}' is not answered.")
        self.release.adopt(policy_of(self.setup))
        self.release.policy.check_question("fingerprint")
        if self.setup.fingerprint is None:
            raise DataError("there is none: run 'asyndgan fingerprint', name it in site.toml.")
        return self.release.let_out(
            Described(run=request.run, fingerprint=fingerprint_in(self.setup.fingerprint))
        )

    def _check(self, request: Asked) -> None:
        """Checks that the answer may leave, by the policy as the steward has it now."""
        self.release.adopt(policy_of(self.setup))
        self.release.check_question(request.answer)


def answering(setup: SiteSetup, find: Finder) -> Endpoint:
    """The endpoint of a site without a recipe: it answers questions and nothing else.

    Raises `PolicyError`, `LedgerError` or `StorageError`.
    """
    policy = policy_of(setup)
    policy.check_asked()
    records = setup.records or setup.state
    Openings(records).keep()
    release = open_release(None, policy, records, setup.name, 0)
    return Endpoint(Answering(setup, release, find), limit=ASKED_LIMIT)
