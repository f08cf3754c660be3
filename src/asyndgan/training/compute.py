"""The precision and the number of threads in which a party's own networks compute fastest."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import torch
from torch import Tensor

from asyndgan.models.parts import arithmetic, build_discriminator, native_bfloat16
from asyndgan.models.shifts import disturbed
from asyndgan.recipe import Recipe
from asyndgan.training.scope import Scope, generator_inputs, new_generator

Choice = TypeVar("Choice")

GAIN: Final = 0.9  # part of a plainer choice's time that a faster one may take at most

_ROUNDS, _PATIENCE_S = 3, 5.0
_TIMED_PIXELS = 2**17


def measured_precision(recipe: Recipe, device: torch.device) -> str:
    """`float32` or `bfloat16`: what the recipe names or, for `auto`, the faster of the two here.

    A processor may have instructions for bfloat16 and yet compute convolutions faster in float32.
    """
    asked = recipe.training.precision
    if asked != "auto":
        return asked
    private = recipe.privacy.kind == "discriminator"  # which clips gradients in float32
    if private or (device.type == "cpu" and not native_bfloat16()):
        return "float32"
    with torch_threads(1):  # more are slow wherever another process computes
        step = _step(recipe, recipe.training.batch, device, judging=True)
        return fastest(("float32", "bfloat16"), step)


def measured_threads(recipe: Recipe, images: int, precision: str, device: torch.device) -> int:
    """Threads on which the generator paints and learns `images` of a step fastest."""
    most = torch.get_num_threads() if device.type == "cpu" else 1
    if most == 1:
        return 1
    step = _step(recipe, min(images, recipe.training.chunk), device, judging=False)

    def on(threads: int) -> None:
        torch.set_num_threads(threads)
        step(precision)

    with torch_threads(most):
        return fastest([n for n in (1, 2, 4, 8, 16, 32) if n <= most], on)


def expected_seconds(recipe: Recipe, sites: int, device: torch.device) -> float:
    """Seconds of one step of all sites, where one machine computes them one after the other.

    Networks alone are timed, so it is right to a factor of about two.
    """
    whole = recipe.training.batch
    # Images of 512 pixels would take minutes: fewer are timed, for whom it takes as long each.
    batch = max(1, min(whole, _TIMED_PIXELS // math.prod(recipe.space)))
    fewer = recipe.training.model_copy(update={"batch": batch})
    precision = measured_precision(recipe.model_copy(update={"training": fewer}), device)
    with torch_threads(1):
        painting, both = (
            _seconds([precision], _step(recipe, batch, device, judging=judging))[precision]
            for judging in (False, True)
        )
    # A site judges real and synthetic images to learn, and the synthetic ones again to answer.
    paintings = 2 if recipe.generator.diversity else 1
    return sites * whole / batch * (paintings * painting + 3 * max(0.0, both - painting))


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Has torch compute on this many threads, and afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest(choices: Iterable[Choice], use: Callable[[Choice], None]) -> Choice:
    """The choice whose use takes least time; an earlier one, unless it is slower by `GAIN`."""
    best = _seconds(choices, use)
    chosen, *others = best
    for choice in others:
        if best[choice] < GAIN * best[chosen]:
            chosen = choice
    return chosen


def _seconds(choices: Iterable[Choice], use: Callable[[Choice], None]) -> dict[Choice, float]:
    """Seconds that the use of each choice takes: the best of rounds in which all take turns."""
    best = dict.fromkeys(choices, math.inf)
    use(next(iter(best)))  # what is set up at first use counts for no choice
    begun = time.monotonic()
    for done in range(_ROUNDS):
        if done and time.monotonic() - begun > _PATIENCE_S:
            break
        for choice in best:
            start = time.perf_counter()
            use(choice)
            best[choice] = min(best[choice], time.perf_counter() - start)
    return best


def _step(
    recipe: Recipe, count: int, device: torch.device, *, judging: bool
) -> Callable[[str], None]:
    """Paints, backpropagates and, if `judging`, judges, with random conditions of likely sizes."""
    labels = {number: name for name, number in recipe.image.labels.items()} or {0: "", 1: ""}
    scope = Scope(recipe.image.painted or ("",), labels, recipe.space)
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng([]):
        generator = new_generator(recipe, scope).to(device)
        judge = build_discriminator(recipe, scope.sizes(recipe)).to(device) if judging else None
    shape = (count,) if recipe.condition.kind == "class" else (count, *scope.space)
    conditions = torch.randint(max(labels) + 1, shape, generator=random)
    inputs = generator_inputs(recipe, scope, conditions, [""] * count, random, device)

    def step(precision: str) -> None:
        with arithmetic(precision, device):
            images: Tensor = generator(*inputs)
            outputs: list[Tensor | None] = [images]
            if judge:
                kinds, drawn = recipe.discriminator.augment, torch.Generator().manual_seed(0)
                said = judge(*disturbed(images, inputs[0], kinds, drawn))
                outputs = [said.score, said.segmentation]
        torch.stack([part.float().mean() for part in outputs if part is not None]).sum().backward()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return step
