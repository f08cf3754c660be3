"""Networks and optimisers as safetensors files, written whole or not at all."""

import hashlib
import json
import logging
import math
import os
import re
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from asyndgan.errors import RunError
from asyndgan.received import opened
from asyndgan.texts import half_of, parsed_json, stored_whole
from asyndgan.training.steps import MOST_STATE, step_file, stored_steps

log = logging.getLogger(__name__)

State = tuple[dict[str, Tensor], dict[str, Any]]  # Tensors, and a JSON object stored with them

KEPT = 2  # Checkpoints that a party keeps: two, so that the one being written is never the only one
MOST_COUNT = 2**53  # Numbers of steps and batches lie below it, as in messages
KEPT_RUNS = 8  # Number of other runs whose states a site keeps
MOST_HEADER = 2**24  # Most bytes of a state's header, which names the tensors
MOST_TENSORS = 2**16  # Most tensors of a state; reading a header takes some microseconds for each
_DIGEST = "sha256"  # Key of a state's digest among its facts

_seeding = Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws initial weights from a seed, one thread at a time; torch's global state stays."""
    with _seeding, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}


def network_state(name: str, network: nn.Module) -> dict[str, Tensor]:
    """A network's tensors under `name/`."""
    return {f"{name}/{key}": value for key, value in network.state_dict().items()}


def load_network(name: str, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts the tensors under `name/` into a network; raises `RunError` if they do not fit."""
    stored = _under(name, tensors)
    begun = {k: v for k, v in network.state_dict().items() if torch.isfinite(v).all()}
    _check_finite(name, {key: stored[key] for key in stored.keys() & begun.keys()})
    try:
        network.load_state_dict(stored)
    except RuntimeError as error:
        raise _misfit(name) from error


def optimiser_state(name: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's tensors under `name/<parameter>/`."""
    state: dict[int, dict[str, Tensor]] = optimiser.state_dict()["state"]
    return {
        f"{name}/{parameter}/{key}": torch.as_tensor(value)
        for parameter, values in state.items()
        for key, value in values.items()
    }


def load_optimiser(
    name: str, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Puts the tensors under `name/` into an Adam optimiser; raises `RunError` if they do not fit.

    Every shape is checked: torch's fused Adam writes beyond the end of a smaller tensor.
    """
    stored = _under(name, tensors)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    fits = True
    for number, parameter in enumerate(parameters):
        wanted = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        moments = {f: stored.pop(f"{number}/{f}") for f in wanted if f"{number}/{f}" in stored}
        if moments:  # a parameter that never had a gradient has no state
            state[number] = moments
            fits &= {f: value.shape for f, value in moments.items()} == wanted
            fits &= all(value.is_floating_point() for value in moments.values())
    if stored or not fits:
        raise _misfit(name)
    for values in state.values():
        _check_finite(name, values)
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _check_finite(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuses numbers that no training keeps: what is averaged over steps would never lose them."""
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise RunError(
            f"the checkpoint's '{name}' holds numbers that are not finite, which no run writes; "
            "take the file that the run wrote, or start a new run."
        )


def _misfit(name: str) -> RunError:
    return RunError(
        f"the checkpoint's '{name}' does not fit the recipe's network; "
        "resume with the recipe that the run was started with."
    )


@contextmanager
def taking_up() -> Iterator[None]:
    """Turns errors while a checkpoint, perhaps a stranger's, is restored into a `RunError`."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunError(
            "the checkpoint lacks facts that this run needs, or has others in their place; remove "
            "it to go on without, or start a new run."
        ) from error


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Writes tensors and a JSON object to one file; a crash leaves the old file or the new one.

    The object also gets their digest, by which `read` notices other bytes. It is no signature.
    """
    contiguous = {key: value.detach().contiguous() for key, value in tensors.items()}
    about = {**about, _DIGEST: _digest_of(contiguous, about)}
    with stored_whole(path) as half:
        half.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(contiguous, half, metadata={"about": json.dumps(about, sort_keys=True)})
        except SafetensorError as error:  # a full disk raises it
            number = re.search(r"os error (\d+)", str(error))
            known = (int(number[1]), os.strerror(int(number[1]))) if number else (str(error),)
            raise OSError(*known) from error


def read(path: Path, *, with_tensors: bool = True) -> State:
    """Reads a file that `write` wrote; raises `RunError` if it is no whole checkpoint."""
    try:
        with _checked(path) as place, safe_open(place, framework="pt") as file:
            about = parsed_json((file.metadata() or {}).get("about", "null"))
            keys = file.keys() if with_tensors else ()
            tensors = {key: file.get_tensor(key) for key in keys}
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path} is not a whole checkpoint; remove it to go on without.") from error
    if not isinstance(about, dict):
        raise RunError(f"{path} is no checkpoint of asyndgan.")
    written = about.pop(_DIGEST, None)
    if with_tensors and written != _digest_of(tensors, about):
        raise RunError(
            f"{path} is not as it was written, such as on a failing disk; remove it to go on "
            "without."
        )
    return tensors, about


def _digest_of(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """SHA-256 of names, types, shapes and bytes of tensors, and of a JSON object."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for key, value in sorted(tensors.items()):
        digest.update(f"{key!r} {value.dtype} {[*value.shape]}".encode())
        digest.update(value.cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _checked(path: Path) -> Iterator[Path]:
    """A path whose file's header is of bounded size; raises `OSError` or `ValueError` if not."""
    with opened(path, MOST_STATE, links=True) as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else MOST_HEADER + 1
        # Each tensor has a brace of its own, which JSON can write in no other way.
        if size > MOST_HEADER or file.read(size).count(b"{") > MOST_TENSORS:
            raise ValueError(
                f"its header is no sensible one, or of more than {MOST_TENSORS} tensors"
            )
        same = Path(f"/dev/fd/{file.fileno()}")  # safetensors would open another file put in place
        yield same if same.exists() else path


def count_in(about: Mapping[str, Any], key: str) -> int:
    """A number of steps or batches that a checkpoint states; `RunError` if it states none."""
    count = about.get(key)
    if type(count) is not int or not 0 <= count < MOST_COUNT:
        raise RunError(f"the checkpoint's '{key}' is no number of steps; start a new run.")
    return count


def shares_in(about: Mapping[str, Any]) -> dict[str, float]:
    """Shares by site; `ValueError` if one is not above 0, or infinite."""
    shares = {site: float(share) for site, share in about.items()}
    if not all(0 < share < math.inf for share in shares.values()):
        raise ValueError("a share that no site can have")
    return shares


def channels_in(about: Mapping[str, Any], count: int) -> dict[str, list[int]]:
    """Channels by site; `IndexError` or `TypeError` if one is not among so many."""
    return {site: [range(count)[one] for one in channels] for site, channels in about.items()}


def newest(folder: Path, step: int | None = None) -> State | None:
    """The newest readable state in a folder of states, of `step` at most; None if there is none."""
    for kept in reversed(stored_steps(folder)):
        if step is None or kept <= step:
            try:
                return read(step_file(folder, kept))
            except RunError as error:
                log.warning("%s", error)  # its writing was cut short; try the one before
    return None


def to_resume(folder: Path) -> State | None:
    """The state to resume from, None: nothing was saved; `RunError` if no file is whole."""
    state = newest(folder)
    if not state and (kept := stored_steps(folder)):
        read(step_file(folder, kept[-1]))
    return state


def place_of(folder: Path, run: str) -> Path:
    """The folder of a run's states within a party's."""
    return folder / f"run-{run}"


def place_holding(folder: Path, run: str) -> tuple[Path, dict[str, Any]] | None:
    """Folder of a party's states of a run, and the facts of the newest whole one; None if none.

    It also finds what earlier versions wrote.
    """
    for place in (place_of(folder, run), folder):
        state = newest(place)
        if state and state[1].get("run") == run:
            return place, state[1]
    return None


def forget_old(folder: Path) -> None:
    """Removes all but the newest `KEPT` states of a folder, and what a killed `write` left."""
    for step in stored_steps(folder)[:-KEPT]:
        step_file(folder, step).unlink(missing_ok=True)
    for half in folder.glob(half_of(folder / "step-*").name):
        half.unlink(missing_ok=True)


def forget_old_runs(place: Path) -> None:
    """Removes a party's states of runs other than that of `place`, but for `KEPT_RUNS`."""
    others = sorted({*place.parent.glob("run-*")} - {place}, key=lambda one: one.stat().st_mtime)
    for old in others[:-KEPT_RUNS]:
        shutil.rmtree(old)


def forget_after(folder: Path, step: int) -> None:
    """Removes the states of all steps beyond `step`."""
    for kept in stored_steps(folder):
        if kept > step:
            step_file(folder, kept).unlink(missing_ok=True)
