"""The optimiser of generator and discriminators, its rate, and the generator's moving average."""

from inspect import unwrap
from typing import Final, final

import torch

from asyndgan.arrays import Scalar
from asyndgan.recipe import Recipe

BETAS: Final = (0.5, 0.999)  # decay of Adam's moments, as in DCGAN (Radford et al. 2016)


@final
class _Adam(torch.optim.Adam):
    """Adam whose methods do not import torch's compiler: a second of each process's start."""

    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


def adam(network: torch.nn.Module, rate: float) -> torch.optim.Adam:
    """The Adam optimiser that coordinator and sites use, with `BETAS`."""
    parameters = list(network.parameters())
    # Networks of other packages may not be contiguous.
    if all(each.device.type == "cpu" and each.is_contiguous() for each in parameters):
        optimiser = _Adam(parameters, lr=rate, betas=BETAS, fused=True)
        optimiser.register_step_pre_hook(_in_order)
        return optimiser
    return _Adam(parameters, lr=rate, betas=BETAS)


def _in_order(optimiser: torch.optim.Optimizer, args: object, keywords: object) -> None:
    """Makes gradients contiguous, as parameters are: torch's fused CPU kernel does not check it."""
    for parameter in (p for group in optimiser.param_groups for p in group["params"]):
        if parameter.grad is not None:
            parameter.grad = parameter.grad.contiguous()


def update(optimiser: torch.optim.Optimizer, loss: Scalar) -> None:
    """Takes one optimiser step on a loss and clears the gradients."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    # Gradients of these parameters only: the loss may depend on other networks as well.
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def rate_factor(recipe: Recipe, step: int) -> float:
    """Factor on the learning rate at a step: 1 at first, then falling linearly towards zero."""
    done = step / recipe.training.steps
    start = recipe.optimiser.decay_from
    return 1.0 if done < start else max(0.0, 1 - (done - start) / max(1 - start, 1e-9))


def average_decay(recipe: Recipe, step: int) -> float:
    """Fraction of the averaged generator that a step keeps; it grows to the recipe's value."""
    return min(recipe.training.ema, (1 + step) / (10 + step))


def follow(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Moves an averaged network towards another by a fraction of 1 - decay."""
    with torch.no_grad():
        for mean, value in zip(
            average.state_dict().values(), network.state_dict().values(), strict=True
        ):
            # Integer counters, which a network of another package may have, are copied.
            mean.lerp_(value, 1 - decay) if mean.is_floating_point() else mean.copy_(value)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
