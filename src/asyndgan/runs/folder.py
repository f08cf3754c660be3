"""A run folder: everything that later commands need; of the sites, only what they sent.

recipe.toml              the resolved recipe
identity                 the run's identity, used until run.json exists
run.json                 `RunFacts`
metrics.jsonl            one line per step
generator.safetensors    the averaged generator of a finished run
checkpoints/             the coordinator's last two checkpoints
generators/              the averaged generator of every checkpoint, if asked for
masks/                   masks that sites released, if the recipe says so (labelsTr, dataset.json)
samples/                 sample grids, if masks are released
tensorboard/             scalars and sample grids
sites/NAME/              a simulated site's own state, which in a federation stays at the site
"""

import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import nn

from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.errors import BusyError, RunError
from asyndgan.locks import held
from asyndgan.received import link_in, opened
from asyndgan.recipe import Recipe, explained
from asyndgan.runs.schema import (
    Connections,
    Count,
    Hex,
    Labels,
    Moved,
    Names,
    Record,
    Seconds,
    Sites,
    Steps,
)
from asyndgan.texts import MOST_BYTES, Title, bounded_text, parsed_json, replace_text
from asyndgan.training import SHARED_LOOK, Scope, new_generator
from asyndgan.training.checkpoint import (
    MOST_STATE,
    load_network,
    network_state,
    read,
    step_file,
    write,
)

State = Literal["running", "interrupted", "failed", "finished"]


Place = tuple[int, int]
"""Position of a reader in a file: the file's inode, and the offset in bytes."""

EARLIER = "earlier"
"""Key, in place of a connection's name, of the sum over connections that ended long ago."""

KEPT_CONNECTIONS = 8

MOST_METRICS: Final = 2**30
"""Largest `metrics.jsonl` in bytes; reading it takes some ten times as much memory."""

FIRST_VERSION: Final = 5
"""`GENERATOR_VERSION` of runs whose files do not say which."""

SHARED_SINCE: Final = 6
"""`GENERATOR_VERSION` since which sites that lack a modality share one look."""


@final
@dataclass
class RunFacts:
    """Facts about a run, stored for later commands.

    Attributes:
        run: identity, hexadecimal.
        version: version of asyndgan.
        recipe_digest: SHA-256 of the resolved recipe.
        engine: name of the engine.
        state: `running`, `interrupted`, `failed` or `finished`.
        steps: number of steps done.
        seconds: seconds spent in training, over all attempts.
        modalities: modalities that the generator paints.
        labels: name of each label by number.
        space: rows and columns.
        sites: cases, share (normalised) and modalities of each site, by its name.
        taught: in how many steps the generator learned from each site; empty in files that do not
            say, of runs in which all did.
        left_sites: bytes that left each site, by kind.
        came_to_sites: bytes that went to each site, by kind.
        socket_bytes: bytes that left and came to each site over each of its network connections,
            as counted by its operating system; empty for sites without such counts.
        generator_sha256: SHA-256 of `generator.safetensors`.
        generator_step: step of that generator if the best one was selected; 0 means the last step.
        patient_pattern: pattern that found the patients in the names of cases; empty if each site
            has its own, as in a federation.
        torch: version of PyTorch that began the training.
        generator_version: `GENERATOR_VERSION` that began the training; 5 in files that do not say.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    run: Hex
    version: Title
    recipe_digest: Hex
    engine: Title
    state: State = "running"
    steps: Count = 0
    seconds: Seconds = 0.0
    modalities: Names = field(default_factory=list)
    labels: Labels = field(default_factory=dict)
    space: Annotated[list[Count], Field(max_length=3)] = field(default_factory=list)
    sites: Sites = field(default_factory=dict)
    taught: Steps = field(default_factory=dict)
    left_sites: Moved = field(default_factory=dict)
    came_to_sites: Moved = field(default_factory=dict)
    socket_bytes: Connections = field(default_factory=dict)
    generator_sha256: Hex = ""
    generator_step: Count = 0
    patient_pattern: Annotated[str, Field(max_length=1000)] = DEFAULT_PATIENT_PATTERN
    torch: Title = ""
    generator_version: Count = FIRST_VERSION

    @property
    def scope(self) -> Scope:
        """Scope of the run: its modalities, labels and image size.

        Raises:
            RunError: if the facts do not hold a valid scope.
        """
        try:
            return Scope.from_plain(vars(self))
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError("run.json does not say what the run paints.") from error

    @property
    def teachers(self) -> dict[str, dict[str, Any]]:
        """Those of `sites` that the generator learned from: one may come and never judge."""
        taught = self.taught or self.sites
        return {site: about for site, about in self.sites.items() if site in taught}

    def look_of(self, site: str) -> str:
        """The look that a site's images are painted in: its own, if it holds every modality."""
        held = self.sites.get(site, {}).get("modalities", self.modalities)
        own = set(self.modalities) <= set(held) or not self.shares_looks
        return site if own else SHARED_LOOK

    def looks(self) -> dict[str, list[str]]:
        """The looks that the generator learned, with the sites that are painted in each."""
        looks: dict[str, list[str]] = {}
        for site in self.teachers:
            looks.setdefault(self.look_of(site), []).append(site)
        return looks

    def judged_in(self) -> dict[str, set[str]]:
        """The modalities that some site judged in each look."""
        return {
            look: {name for site in alike for name in self.sites[site]["modalities"]}
            for look, alike in self.looks().items()
        }

    @property
    def whole(self) -> list[str]:
        """Sites in whose look every modality was judged, by them or by others that share it."""
        judged = self.judged_in()
        return [s for s in self.teachers if set(self.modalities) <= judged[self.look_of(s)]]

    @property
    def shares_looks(self) -> bool:
        """Whether sites that lack a modality were trained in one look, not each in its own."""
        return self.generator_version >= SHARED_SINCE

    def check_pattern(self, patient_pattern: str) -> None:
        """Checks that patients are identified by the same pattern as in the run, if it is known.

        Raises:
            RunError: if the pattern differs.
        """
        # Compared, never compiled: it may be from a stranger, and matching could take forever.
        if self.patient_pattern not in ("", patient_pattern):
            raise RunError(
                "this run told patients by another pattern of their names, and the same has to "
                f"tell them now: --patient-pattern {shlex.quote(self.patient_pattern)}"
            )


_FACTS: TypeAdapter[RunFacts] = TypeAdapter(RunFacts)
_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@final
class RunFolder:
    """Paths and files of one run.

    It may come from somebody else, so nothing is read of a folder that holds a link.

    Args:
        path: the folder; may be a link itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.toml"
        self.facts_file = path / "run.json"
        self.identity_file = path / "identity"
        self.metrics_file = path / "metrics.jsonl"
        self.generator_file = path / "generator.safetensors"
        self.checkpoints = path / "checkpoints"
        self.generators = path / "generators"
        self.masks = path / "masks"
        self.samples = path / "samples"
        self.tensorboard = path / "tensorboard"
        self._without_links = False

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> Self:
        """Creates a run folder.

        Raises:
            RunError: if it holds a run already, or another training is at work in it.
        """
        folder = cls(path)
        if folder.facts_file.exists():  # a folder with only a recipe is a run that never began
            raise RunError(
                f"{path} holds a run already; continue it with --resume or choose another folder."
            )
        # Hidden files, such as the lock's or a desktop's, are nobody's data.
        kept = [p for p in path.iterdir() if p.name[:1] != "."] if path.is_dir() else []
        if kept and not folder.recipe_file.exists():
            raise RunError(
                f"{path} holds something that is no run; name a new folder, or an empty one."
            )
        path.mkdir(parents=True, exist_ok=True)
        with folder.held():
            folder.recipe_file.write_text(recipe.to_toml(), "utf-8")
        return folder

    def held(self) -> AbstractContextManager[None]:
        """Locks the folder against other trainings; raises `BusyError` if one has it."""
        return held(
            self.path,
            f"another training is at work in {self.path}; wait for it, or choose another folder.",
        )

    def busy(self) -> bool:
        """Whether a training has the folder now."""
        try:
            with self.held():
                return False
        except BusyError:
            return True

    @property
    def has_masks(self) -> bool:
        """Whether the coordinator kept masks: the recipe asked for it and a site allowed it."""
        return any((self.masks / "labelsTr").glob("[!.]*.png"))

    def site_state(self, site: str) -> Path:
        """Folder in which a simulated site keeps its own state."""
        return self.path / "sites" / site

    def identity(self) -> str:
        """Identity under which sites know the run; the same in all attempts, even failed ones."""
        if self.facts_file.exists():
            return self.facts().run
        if not self.identity_file.exists():
            replace_text(self.identity_file, secrets.token_hex(16))
        return self._text(self.identity_file).strip()

    def recipe(self) -> Recipe:
        """Reads the resolved recipe.

        Raises:
            RunError: if the folder holds none.
        """
        return Recipe.from_toml(self._text(self.recipe_file))

    def facts(self) -> RunFacts:
        """Reads the run's facts.

        Raises:
            RunError: if the folder holds no run, or `run.json` is not what a run writes.
        """
        text = self._text(self.facts_file)
        try:
            return _FACTS.validate_python(_table(text))
        except ValidationError as error:
            known = [one.name for one in fields(RunFacts)]
            raise _damaged(self.facts_file, explained(error, known)) from error
        except ValueError as error:
            raise _damaged(self.facts_file, f"  {error}.") from error

    def _text(self, file: Path) -> str:
        """Content of one of the folder's texts."""
        self.check_links()
        try:
            return bounded_text(file)
        except OSError as error:
            raise RunError(f"{self.path} is no run folder; train one with 'asyndgan train'.") from (
                error
            )
        except ValueError as error:
            raise _damaged(file, f"  {error}.") from error

    def check_links(self) -> None:
        """Looks once, before anything is read, whether the folder holds a link.

        Raises:
            RunError: it does; whoever made it might have the reader's own patients read.
        """
        if not self._without_links and (link := link_in(self.path)):
            raise RunError(
                f"{link} is a link, and a run folder may hold none: it could lead to what only you "
                "can read. If you made it, put there what it leads to."
            )
        self._without_links = True

    def write_facts(self, facts: RunFacts) -> None:
        """Replaces `run.json` atomically."""
        replace_text(self.facts_file, json.dumps(asdict(facts), indent=2) + "\n")

    def write_generator(self, network: nn.Module, facts: RunFacts) -> str:
        """Writes the averaged generator; returns the SHA-256 of the file."""
        about = {"run": facts.run, "recipe": facts.recipe_digest, "step": facts.steps}
        write(self.generator_file, network_state("average", network), about)
        return self.generator_digest()

    def generator_digest(self) -> str:
        """SHA-256 of the generator file itself, in hexadecimal; `run.json` is not consulted.

        Raises:
            RunError: it cannot be read.
        """
        self.check_links()
        try:
            with opened(self.generator_file, MOST_STATE) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            raise RunError(f"{self.generator_file} cannot be read: {error}.") from error

    def generator(self, step: int | None = None) -> nn.Module:
        """Loads the averaged generator of a finished run, ready to paint.

        Args:
            step: step of a generator kept during training (`keep_generators` of `train`); None
                means the final one.

        Raises:
            RunError: if the run has not finished, kept no generator of this step, or the final
                one's file is not the one that the training wrote.
        """
        facts, file = self.facts(), self.generator_file
        if step is not None:
            file = step_file(self.generators, step)
        elif not file.exists():
            raise RunError(
                f"the run in {self.path} is {facts.state} at step {facts.steps}; "
                "finish it with 'asyndgan train ... --resume'."
            )
        elif facts.generator_sha256 and self.generator_digest() != facts.generator_sha256:
            raise RunError(
                f"{file} is another generator than the one that {self.facts_file.name} says was "
                "trained here. Put back the file that the training wrote."
            )
        network = new_generator(self.recipe(), facts.scope)
        load_network("average", network, read(file)[0])
        return network.eval().requires_grad_(False)

    def metrics(self) -> list[Record]:
        """One record per step, oldest first; a line cut off by a crash is left out."""
        return self.metrics_from((0, 0))[0]

    def metrics_from(self, place: Place) -> tuple[list[Record], Place]:
        """Reads the records after a place in the file; also returns the place to continue from.

        If the file was replaced in the meantime, because the run went back to a checkpoint, it is
        read from the beginning.

        Raises:
            RunError: a line is no record, or not of a later step than the one before.
        """
        self.check_links()
        if not self.metrics_file.exists():
            return [], (0, 0)
        try:
            with opened(self.metrics_file, MOST_METRICS) as file:
                own = os.fstat(file.fileno()).st_ino
                start = place[1] if place[0] == own else 0
                file.seek(start)
                records: list[Record] = []
                while line := file.readline(MOST_BYTES):
                    if not line.endswith(b"\n") and len(line) < MOST_BYTES:
                        break  # still being written, or cut off
                    records.append(_record(line, records[-1]["step"] if records else -1))
                    start += len(line)
        except ValidationError as error:
            faults = explained(error, [*Record.__annotations__])
            raise _damaged(self.metrics_file, faults) from error
        except (OSError, ValueError) as error:
            raise _damaged(self.metrics_file, f"  {error}.") from error
        return records, (own, start)

    def forget_metrics_from(self, step: int) -> None:
        """Removes the records from `step` on, as those steps will be repeated."""
        kept = [record for record in self.metrics() if record["step"] < step]
        replace_text(self.metrics_file, "".join(json.dumps(record) + "\n" for record in kept))


def by_site(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Nests byte counts by (site, kind) as site to kind to bytes."""
    nested: dict[str, dict[str, int]] = {}
    for (site, kind), size in sorted(counts.items()):
        nested.setdefault(site, {})[kind] = size
    return nested


def socket_sums(connections: Mapping[str, Sequence[int]]) -> list[int]:
    """Bytes that left and came, summed over all of a site's connections."""
    return [sum(counts) for counts in zip(*connections.values(), strict=True)]


def counted_on(
    known: Mapping[str, list[int]], connections: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """Updates a site's byte counts by connection with the current ones.

    Up to `KEPT_CONNECTIONS` ended connections stay separate, since another attempt may continue
    them. If there are more, all ended ones are merged into the sum `EARLIER`, as their number is
    unbounded.
    """
    counts = {**known, **{name: list(both) for name, both in connections.items()}}
    ended = [name for name in counts if name not in connections and name != EARLIER]
    if len(ended) > KEPT_CONNECTIONS:
        gone = {name: counts.pop(name) for name in (EARLIER, *ended) if name in counts}
        counts[EARLIER] = socket_sums(gone)
    return counts


def _record(line: bytes, before: int) -> Record:
    record = _RECORD.validate_python(_table(line.decode("utf-8")))
    if record["step"] <= before:
        raise ValueError(f"step {record['step']} follows step {before}")
    return record


def _table(text: str) -> dict[str, Any]:
    table = parsed_json(text)
    if not isinstance(table, dict):
        raise ValueError("no object")
    return table


def _damaged(file: Path, found: str) -> RunError:
    return RunError(f"{file} is not what a run writes:\n{found}\nTake the run's folder as it was.")
