"""A run folder: everything that later commands need; of the sites only what they sent.

recipe.toml              the resolved recipe
identity                 the run's identity, used until run.json exists
run.json                 `RunFacts`
metrics.jsonl            one line per step
generator.safetensors    the averaged generator of a finished run
checkpoints/             the coordinator's last two checkpoints
masks/                   masks that sites released, if the recipe says so (labelsTr, dataset.json)
samples/                 sample grids, if masks are released
tensorboard/             scalars and sample grids
audits/SITE/             what sites of a federation answered: audit.json, evaluation.json
sites/NAME/              a simulated site's own state, which in a federation stays at the site
"""

import hashlib
import json
import secrets
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, final

from pydantic import TypeAdapter, ValidationError

from asyndgan import __version__
from asyndgan.errors import BusyError, RecipeError, RunError
from asyndgan.lazy import Late
from asyndgan.locks import held
from asyndgan.received import link_in, opened
from asyndgan.recipe import Recipe, explained
from asyndgan.runs.facts import Record, RunFacts
from asyndgan.texts import MOST_BYTES, bounded_text, parsed_json, replace_text
from asyndgan.training.steps import MOST_STATE, stored_steps

if TYPE_CHECKING:
    from torch import nn

# Most commands that look at a run need no generator, and importing torch takes a second.
scopes: Any = Late("asyndgan.training.scope")
checkpoint: Any = Late("asyndgan.training.checkpoint")

MOST_METRICS: Final = 2**30
"""Largest `metrics.jsonl` in bytes; reading it takes some ten times as much memory."""

_FACTS: TypeAdapter[RunFacts] = TypeAdapter(RunFacts)
_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@final
class RunFolder:
    """Paths and files of one run.

    It may come from another party, so a folder that holds a link is refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.toml"
        self.facts_file = path / "run.json"
        self.identity_file = path / "identity"
        self.metrics_file = path / "metrics.jsonl"
        self.generator_file = path / "generator.safetensors"
        self.checkpoints = path / "checkpoints"
        self.masks = path / "masks"
        self.samples = path / "samples"
        self.tensorboard = path / "tensorboard"
        self._without_links = False

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> Self:
        """Creates a run folder; raises `RunError` if it holds anything, or a training has it."""
        folder = cls(path)
        folder._check_unused()
        # Hidden files, such as the lock's or a desktop's, are nobody's data.
        kept = [p for p in path.iterdir() if p.name[:1] != "."] if path.is_dir() else []
        if kept and not folder.recipe_file.exists():
            raise RunError(
                f"{path} holds something that is no run; name a new folder, or an empty one."
            )
        path.mkdir(parents=True, exist_ok=True)
        with folder.held():
            folder.claim(recipe)
        return folder

    def claim(self, recipe: Recipe) -> None:
        """Writes the recipe of the training that has the lock, which others may have replaced."""
        self._check_unused()
        replace_text(self.recipe_file, recipe.to_toml())

    def _check_unused(self) -> None:
        if self.facts_file.exists():  # a folder with only a recipe is a run that never began
            raise RunError(
                f"{self.path} holds a run already; continue it with --resume or choose another "
                "folder."
            )

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
        """Whether the coordinator kept masks: given ones, or such as a site released."""
        return any((self.masks / "labelsTr").glob("[!.]*"))

    @property
    def was_given(self) -> bool:
        """Whether it has kept all masks that it was given; its first checkpoint comes after."""
        begun = bool(stored_steps(self.checkpoints))
        return begun and self.has_masks and self.recipe().given_masks

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
        """The resolved recipe; raises `RunError` if it is not the one that was trained."""
        try:
            recipe = Recipe.from_toml(self._text(self.recipe_file))
        except RecipeError as error:
            raise RunError(
                f"{self.recipe_file} is damaged, or of a run that another version of asyndgan "
                f"began ('asyndgan recipe show {self.recipe_file}' says what is amiss): go on with "
                "that version, or start a new run."
            ) from error
        facts = self.facts() if self.facts_file.exists() else None
        # A recipe of another version may lack keys that this one adds.
        if facts and facts.version == __version__ and facts.recipe_digest != recipe.digest():
            raise RunError(
                f"{self.recipe_file} is another recipe than the one that {self.facts_file.name} "
                "says was trained here. Put back the file that the training wrote."
            )
        if facts and facts.space and tuple(facts.space) != recipe.space:
            raise RunError(
                f"{self.facts_file.name} says images of {tuple(facts.space)}, and "
                f"{self.recipe_file.name} of {recipe.space}. Take the run's folder as it was, or "
                "the version of asyndgan that trained it."
            )
        return recipe

    def check_masked(self, what: str) -> None:
        """Raises `RunError`, which ends with `what`, unless the run paints images from masks."""
        recipe = self.recipe()
        if recipe.condition.kind != "mask" or recipe.table:
            raise RunError(f"the run in {self.path} paints without masks{what}")

    def facts(self) -> RunFacts:
        """What `run.json` says; raises `RunError` if that is not what a run writes."""
        text = self._text(self.facts_file)
        try:
            return _FACTS.validate_python(_table(text))
        except ValidationError as error:
            known = [one.name for one in fields(RunFacts)]
            raise _damaged(self.facts_file, explained(error, known)) from error
        except ValueError as error:
            raise _damaged(self.facts_file, f"  {error}.") from error

    def _text(self, file: Path) -> str:
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
        """Raises `RunError` if the folder holds a link, or could; looks once."""
        if self._without_links:
            return
        try:
            link = link_in(self.path)
        except OSError as error:
            raise RunError(
                f"{error.filename} cannot be read ({error.strerror}), and could hold a link. Let "
                "it be read, or remove it."
            ) from error
        if link:
            raise RunError(
                f"{link} is a link, and a run folder may hold none: it could lead to what only you "
                "can read. If you made it, put there what it leads to."
            )
        self._without_links = True

    def write_facts(self, facts: RunFacts) -> None:
        """Replaces `run.json` atomically."""
        replace_text(self.facts_file, json.dumps(asdict(facts), indent=2) + "\n")

    def write_generator(self, network: "nn.Module", facts: RunFacts) -> str:
        """Writes the averaged generator; returns the SHA-256 of the file."""
        about = {"run": facts.run, "recipe": facts.recipe_digest, "step": facts.steps}
        checkpoint.write(self.generator_file, checkpoint.network_state("average", network), about)
        return self.generator_digest()

    def generator_digest(self) -> str:
        """SHA-256 of the generator file itself, in hexadecimal."""
        self.check_links()
        try:
            with opened(self.generator_file, MOST_STATE) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            raise RunError(f"{self.generator_file} cannot be read: {error}.") from error

    def generator(self) -> "nn.Module":
        """Loads the averaged generator of a finished run, ready to paint.

        Raises `RunError` if the run has not finished, or the file is not the one that it wrote.
        """
        facts, file = self.facts(), self.generator_file
        if not file.exists():
            raise RunError(
                f"the run in {self.path} is {facts.state} at step {facts.steps}; "
                "finish it with 'asyndgan train ... --resume'."
            )
        if facts.generator_sha256 and self.generator_digest() != facts.generator_sha256:
            raise RunError(
                f"{file} is another generator than the one that {self.facts_file.name} says was "
                "trained here. Put back the file that the training wrote."
            )
        network: nn.Module = scopes.new_generator(self.recipe(), facts.scope)
        checkpoint.load_network("average", network, checkpoint.read(file)[0])
        return network.eval().requires_grad_(False)

    def metrics(self) -> list[Record]:
        """One record per step, oldest first; a line cut off by a crash is left out."""
        self.check_links()
        if not self.metrics_file.exists():
            return []
        records: list[Record] = []
        try:
            with opened(self.metrics_file, MOST_METRICS) as file:
                while line := file.readline(MOST_BYTES):
                    if not line.endswith(b"\n") and len(line) < MOST_BYTES:
                        break  # still being written, or cut off
                    records.append(_record(line, records[-1]["step"] if records else 0))
        except ValidationError as error:
            faults = explained(error, [*Record.__annotations__])
            raise _damaged(self.metrics_file, faults) from error
        except (OSError, ValueError) as error:
            raise _damaged(self.metrics_file, f"  {error}.") from error
        return records

    def forget_metrics_after(self, step: int) -> None:
        """Removes the records of steps after `step`, since they will be repeated."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        replace_text(self.metrics_file, "".join(json.dumps(record) + "\n" for record in kept))


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
