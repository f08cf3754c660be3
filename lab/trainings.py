"""Training of a suite's generators in parallel, with reuse and resumption.

All state lies in the suite's output folder: an interrupted suite resumes where it stopped, and a
suite that gained a model trains only that model.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, product
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Final, final

import torch

from asyndgan.errors import AsyndganError, RunError
from asyndgan.judging.bench import OnProgress, write_whole
from asyndgan.recipe import Recipe
from asyndgan.runs import RunFolder
from asyndgan.runs.mask_learning import learned_masks, learns_masks
from asyndgan.runs.train import train
from asyndgan.texts import bounded_text, parsed_json
from asyndgan.training import GENERATOR_VERSION
from lab.digests import digest_of_files
from lab.fedavg import LOCAL_STEPS
from lab.fedgan import train_fedgan
from lab.suite import ModelSection, SetSection, Suite


def run_folder(
    out: Path,
    part: SetSection,
    model: ModelSection,
    seed: int,
    *,
    fold: int = 0,
    kind: str = "",
) -> Path:
    """Run folder of one generator of a suite; `kind`: `FEDGAN_RUN`, `of_site`, or the federated."""
    # Names cannot contain "+", so a model's run never shares a folder with another's FedGAN.
    name = f"{model.name}{kind}{f'+fold{fold}' if fold else ''}-{seed}"
    return out / "runs" / part.name / name


FEDGAN_RUN: Final = "+fedgan"


def of_site(name: str) -> str:
    """The kind of a run that one site alone takes part in."""
    return f"+only-{name}"


def trainings_of(suite: Suite, data: Path, out: Path, device: str) -> Iterator["Training"]:
    """All generators of a suite; they are trained before any segmentation network."""
    for seed, fold, part in product(range(suite.seeds), range(suite.folds), suite.sets):
        sites = {name: data / part.folder / name for name in part.sites}
        for model in suite.models:
            kinds = {"": sites} | ({FEDGAN_RUN: sites} if model.fedgan else {})
            if model.local:
                kinds |= {of_site(name): {name: folder} for name, folder in sites.items()}
            for kind, own in kinds.items():
                yield Training(
                    suite.recipe(part, model, seed, fold),
                    own,
                    run_folder(out, part, model, seed, fold=fold, kind=kind),
                    fedgan=kind == FEDGAN_RUN,
                    device=device,
                    without={site: names for site, names in model.without.items() if site in own},
                )


@final
@dataclass(frozen=True)
class Training:
    """One generator to train; `run` may be called in another process.

    Attributes:
        recipe: the resolved recipe.
        sites: folder of each site's data, by the site's name.
        out: the run folder.
        fedgan: train by averaging weights (FedGAN).
        device: device of the networks.
        without: modalities excluded from the training, by the site's name.
    """

    recipe: Recipe
    sites: dict[str, Path]
    out: Path
    fedgan: bool
    device: str = "cpu"
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def folder(self) -> RunFolder:
        """The run folder; the run may not have started."""
        return RunFolder(self.out)

    @property
    def name(self) -> str:
        """Its set, model and seed."""
        return f"{self.out.parent.name}/{self.out.name}"

    @property
    def _inputs_file(self) -> Path:
        return self.out.with_name(f"{self.out.name}.json")

    @cached_property
    def _inputs(self) -> dict[str, Any]:
        """Everything that the run depends on besides its recipe."""
        return {
            "generator_version": GENERATOR_VERSION,
            "device": self.device,
            "sites": {name: digest_of_files(folder) for name, folder in self.sites.items()},
            **({"local_steps": LOCAL_STEPS} if self.fedgan else {}),
            **(
                {"without": {s: list(own) for s, own in self.without.items()}}
                if self.without
                else {}
            ),
        }

    def about(self) -> dict[str, Any]:
        """Digests of the run's inputs and of its generator; requires a run that has started."""
        facts = self.folder.facts()
        return {
            "recipe": self.recipe.digest(), **self._inputs,
            "asyndgan": facts.version, "torch": facts.torch,
            "generator_sha256": facts.generator_sha256,
        }  # fmt: skip

    def finished(self) -> bool:
        """Whether the folder holds a finished run of this training.

        Raises:
            RunError: the folder holds a run of another recipe, of other data or of a version that
                trains a different generator.
        """
        if not self.folder.facts_file.exists():
            return False
        if self.folder.recipe().digest() != self.recipe.digest():
            raise RunError(
                f"{self.out} holds a run of another recipe. Rename the model in the suite, or "
                "remove the folder."
            )
        stored = bounded_text(self._inputs_file) if self._inputs_file.exists() else "{}"
        if parsed_json(stored) != self._inputs:
            raise RunError(
                f"{self.out} was trained from other sites or images than the suite names now, on "
                "another device, or by another version. Remove the "
                "folder to train it anew."
            )
        return self.folder.facts().state == "finished"

    def steps_done(self) -> int:
        """Number of steps done, according to the run's metrics."""
        records = self.folder.metrics()
        return records[-1]["step"] if records else 0

    def run(self) -> None:
        """Trains on one thread; resumes from the newest checkpoint if there is one."""
        torch.set_num_threads(1)
        write_whole(self._inputs_file, json.dumps(self._inputs).encode())
        if self.fedgan:
            train_fedgan(self.recipe, self.sites, self.out, device=self.device)
            return
        resume, masks = self.folder.facts_file.exists(), None
        how: dict[str, Any] = {
            "device": self.device, "without": self.without,
        }  # fmt: skip
        if learns_masks(self.recipe, None, self.out, resume=resume):
            masks = learned_masks(self.recipe, self.sites, self.out, resume=resume, **how)
        train(self.recipe, self.sites, self.out, masks=masks, resume=resume, **how)


def train_all(trainings: Sequence[Training], workers: int, on_progress: OnProgress | None) -> None:
    """Runs the trainings that are not finished, each in its own process.

    If one fails, the others still run to their end.

    Raises:
        RunError: a training failed; raised after all have ended, with the reason of the first
            failure.
    """
    waiting = [training for training in trainings if not training.finished()]
    steps = sum(training.recipe.training.steps for training in trainings)
    before = steps - sum(training.recipe.training.steps for training in waiting)
    ahead = iter(waiting)
    failed: dict[str, str] = {}
    running: dict[Future[str], Training] = {}
    # A fork of this process, in which torch has run, may hang; one in which it was imported does
    # not. Trainings are submitted only when a worker is free: none is left queued after Ctrl-C.
    forks = get_context("forkserver")
    forks.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, mp_context=forks, initializer=end_with_parent) as pool:
        while True:
            for training in islice(ahead, workers - len(running)):
                running[pool.submit(_attempt, training)] = training
            if not running:
                break
            for future in wait(running, timeout=5, return_when=FIRST_COMPLETED).done:
                training = running.pop(future)
                if reason := future.result():
                    failed[training.name] = reason
            if on_progress:
                done = before + sum(training.steps_done() for training in waiting)
                names = ", ".join(training.name for training in running.values())
                on_progress(names or "generators", done, steps)
    for name, reason in failed.items():
        trained = f"{len(waiting) - len(failed)} of {len(waiting)} trainings ended well"
        raise RunError(f"{name}: {reason} ({trained}.)")


PATIENCE_S: Final = 60.0
"""How long a training whose suite has ended may take to stop by itself, in seconds."""


def end_with_parent() -> None:
    """Ends this process when its parent does, however that ends: nobody would wait for its work."""
    parent = parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # a training writes a checkpoint and stops
        time.sleep(PATIENCE_S)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _attempt(training: Training) -> str:
    """Trains and returns the reason of a failure: not every exception survives pickling."""
    try:
        training.run()
    except AsyndganError as error:
        return str(error)
    finally:
        parent = parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)
    return ""
