"""A run folder: everything that later commands need, and nothing that a site did not send.

recipe.toml              the resolved recipe
run.json                 `RunFacts`
metrics.jsonl            a line a step
generator.safetensors    the averaged generator of a finished run
checkpoints/             the coordinator's last two
masks/                   those that sites released, if the recipe says so (labelsTr, dataset.json)
samples/                 sample grids, if masks are released
tensorboard/             scalars and sample grids
sites/NAME/              what the site keeps for itself; on this machine only because this is a
                         simulation of several sites
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, final

from torch import nn

from asyndgan.data.nnunet import DEFAULT_PATIENT_PATTERN
from asyndgan.errors import RunError
from asyndgan.locks import held
from asyndgan.recipe import Recipe
from asyndgan.texts import bounded_text, parsed_json, replace_text
from asyndgan.training import Scope, new_generator
from asyndgan.training.checkpoint import (
    load_network,
    network_state,
    read,
    step_file,
    write,
)

State = Literal["running", "interrupted", "failed", "finished"]


Place = tuple[int, int]
"""Of a reader in a file: which file (its inode), and how far."""

EARLIER = "earlier"
"""In place of a connection's name: the sum of those that ended long ago."""

KEPT_CONNECTIONS = 8


@final
@dataclass
class RunFacts:
    """What a run was, for those who come later.

    Attributes:
        run: identity, hexadecimal.
        version: of asyndgan.
        recipe_digest: SHA-256 of the resolved recipe.
        engine: name of the engine.
        state: `running`, `interrupted`, `failed` or `finished`.
        steps: done.
        seconds: spent in training, all attempts together.
        modalities: what the generator paints.
        labels: name of each label by number.
        space: rows and columns.
        sites: by name: cases, share (normalised), modalities.
        left_sites: bytes that left each site, by kind.
        came_to_sites: bytes that went to each site, by kind.
        socket_bytes: bytes that left and came to each site over each of its network connections,
            as its operating system counted them; of sites where one does.
        generator_sha256: of `generator.safetensors`.
        generator_step: after which that generator was, if not after the last one.
        patient_pattern: that found the patients in the names of cases.
    """

    run: str
    version: str
    recipe_digest: str
    engine: str
    state: State = "running"
    steps: int = 0
    seconds: float = 0.0
    modalities: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    space: list[int] = field(default_factory=list)
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_sites: dict[str, dict[str, int]] = field(default_factory=dict)
    came_to_sites: dict[str, dict[str, int]] = field(default_factory=dict)
    socket_bytes: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    generator_sha256: str = ""
    generator_step: int = 0
    patient_pattern: str = DEFAULT_PATIENT_PATTERN

    @property
    def scope(self) -> Scope:
        """What the run is about.

        Raises:
            RunError: if what the file says of it is none.
        """
        try:
            return Scope.from_plain(vars(self))
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError("run.json does not say what the run paints.") from error

    def check_pattern(self, patient_pattern: str) -> None:
        """Whether patients are told by their names as the run told them.

        Raises:
            RunError: if not.
        """
        # Compared, never compiled: it may come from a stranger, and a pattern can take for ever.
        if patient_pattern != self.patient_pattern:
            raise RunError(
                "this run told patients by another pattern of their names, and the same has to "
                f"tell them now: --patient-pattern '{self.patient_pattern}'."
            )


@final
class RunFolder:
    """Paths and files of one run.

    Args:
        path: the folder.
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

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> Self:
        """A new run folder.

        Raises:
            RunError: if there is a run already, or another training is at work.
        """
        folder = cls(path)
        if folder.facts_file.exists():  # a recipe alone: a run that never began
            raise RunError(
                f"{path} holds a run already; continue it with --resume or choose another folder."
            )
        path.mkdir(parents=True, exist_ok=True)
        with folder.held():
            folder.recipe_file.write_text(recipe.to_toml(), "utf-8")
        return folder

    def held(self) -> AbstractContextManager[None]:
        """Keeps other trainings out of this folder; raises `RunError` if another one has it."""
        return held(
            self.path,
            f"another training is at work in {self.path}; wait for it, or choose another folder.",
        )

    def site_state(self, site: str) -> Path:
        """Where a simulated site keeps its own things."""
        return self.path / "sites" / site

    def identity(self) -> str:
        """Under which sites know the run: the same in every attempt, also before one succeeds."""
        if self.facts_file.exists():
            return self.facts().run
        if not self.identity_file.exists():
            replace_text(self.identity_file, secrets.token_hex(16))
        return bounded_text(self.identity_file).strip()

    def recipe(self) -> Recipe:
        """The resolved recipe.

        Raises:
            RunError: if the folder holds none.
        """
        try:
            text = bounded_text(self.recipe_file)
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path} is no run folder; train one with 'asyndgan train'.") from (
                error
            )
        return Recipe.from_toml(text)

    def facts(self) -> RunFacts:
        """What the run was.

        Raises:
            RunError: if the folder holds no run.
        """
        try:
            return RunFacts(**parsed_json(bounded_text(self.facts_file)))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{self.path} is no run folder; train one with 'asyndgan train'.") from (
                error
            )

    def write_facts(self, facts: RunFacts) -> None:
        """Replaces `run.json` as a whole."""
        replace_text(self.facts_file, json.dumps(asdict(facts), indent=2) + "\n")

    def write_generator(self, network: nn.Module, facts: RunFacts) -> str:
        """Keeps the averaged generator; returns the SHA-256 of the file."""
        about = {"run": facts.run, "recipe": facts.recipe_digest, "step": facts.steps}
        write(self.generator_file, network_state("average", network), about)
        return self.generator_digest()

    def generator_digest(self) -> str:
        """SHA-256 of the file that paints, in hexadecimal, whatever `run.json` says of it."""
        return hashlib.sha256(self.generator_file.read_bytes()).hexdigest()

    def generator(self, step: int | None = None) -> nn.Module:
        """The averaged generator of a finished run, ready to paint.

        Args:
            step: of one that was kept on the way; see `train`.

        Raises:
            RunError: if the run has not finished, or kept none of this step.
        """
        facts, file = self.facts(), self.generator_file
        if step is not None:
            file = step_file(self.generators, step)
        elif not file.exists():
            raise RunError(
                f"the run in {self.path} is {facts.state} at step {facts.steps}; "
                "finish it with 'asyndgan train ... --resume'."
            )
        network = new_generator(self.recipe(), facts.scope)
        load_network("average", network, read(file)[0])
        return network.eval().requires_grad_(False)

    def metrics(self) -> list[dict[str, Any]]:
        """A record a step, oldest first; a line that was cut off by a crash is left out."""
        return self.metrics_from((0, 0))[0]

    def metrics_from(self, place: Place) -> tuple[list[dict[str, Any]], Place]:
        """Records from a place in the file on, and the place after them, to go on from.

        A file that took its place meanwhile, of a run that went back to a checkpoint, is read from
        its beginning.
        """
        if not self.metrics_file.exists():
            return [], (0, 0)
        with self.metrics_file.open("rb") as file:
            own = os.fstat(file.fileno()).st_ino
            start = place[1] if place[0] == own else 0
            file.seek(start)
            records: list[dict[str, Any]] = []
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written, or cut off
                records.append(json.loads(line))
                start += len(line)
        return records, (own, start)

    def forget_metrics_from(self, step: int) -> None:
        """Drops records of steps that will be done again."""
        kept = [record for record in self.metrics() if record["step"] < step]
        replace_text(self.metrics_file, "".join(json.dumps(record) + "\n" for record in kept))


def by_site(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Bytes counted by (site, kind), nested."""
    nested: dict[str, dict[str, int]] = {}
    for (site, kind), size in sorted(counts.items()):
        nested.setdefault(site, {})[kind] = size
    return nested


def socket_sums(connections: Mapping[str, Sequence[int]]) -> list[int]:
    """Bytes that left and came over all of a site's connections."""
    return [sum(counts) for counts in zip(*connections.values(), strict=True)]


def counted_on(
    known: Mapping[str, list[int]], connections: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """A site's bytes by connection, with what is counted now.

    Of those that have ended some are told apart, since another attempt may go on with them; the
    others become one sum: their number has no bound, and a run's file has.
    """
    counts = {**known, **{name: list(both) for name, both in connections.items()}}
    ended = [name for name in counts if name not in connections and name != EARLIER]
    if len(ended) > KEPT_CONNECTIONS:
        gone = {name: counts.pop(name) for name in (EARLIER, *ended) if name in counts}
        counts[EARLIER] = socket_sums(gone)
    return counts
