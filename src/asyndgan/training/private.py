"""Differentially private training of a discriminator (DP-SGD, Abadi et al. 2016, algorithm 1).

Feedback is post-processing of what is already private. Not covered are conditions sent in the
clear, and what the card declares (number of cases, modalities, labels); see docs/privacy.md.
"""

import warnings
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from asyndgan.arrays import Condition, Images, Scalar, Window, WindowCondition
from asyndgan.models import Verdict
from asyndgan.models.losses import AdversarialLoss
from asyndgan.models.shifts import disturbed
from asyndgan.privacy.chance import normal_noise
from asyndgan.recipe import Recipe
from asyndgan.store import Batch

AT_ONCE = 32  # Patients whose gradients are held in memory at a time

Maps = Callable[[Tensor], Condition]


@final
class PrivateDiscriminator:
    """Updates a discriminator so that noise hides each patient's clipped contribution.

    Its norms must act on one image at a time; only the `real` part of the loss looks at patients.
    """

    def __init__(
        self, discriminator: nn.Module, adversarial: AdversarialLoss, recipe: Recipe, maps: Maps
    ) -> None:
        self.discriminator = discriminator
        self.adversarial = adversarial
        self.recipe = recipe
        self.maps = maps
        self.parameters = [p for p in discriminator.parameters() if p.requires_grad]
        if recipe.privacy.kind == "discriminator":
            for module in discriminator.modules():
                module.register_forward_pre_hook(_in_rows)

    def learn(self, optimiser: torch.optim.Optimizer, real: Batch, synthetic: Batch) -> Scalar:
        """One update; returns the loss on synthetic images, as that on real ones is not private.

        `real` has a case of each randomly drawn patient, perhaps none; `synthetic` is public.
        """
        private = self.noised(self.clipped_sum(real))
        images, maps = self._disturbed(synthetic.images, self.maps(synthetic.conditions))
        judged = self._score(self.discriminator, images, maps)
        loss = 0.5 * self.adversarial.synthetic(judged)
        public = torch.autograd.grad(loss, self.parameters)
        patients = self.recipe.privacy.patients  # as expected: how many were drawn is private
        for parameter, noisy, known in zip(self.parameters, private, public, strict=True):
            parameter.grad = 0.5 * noisy / patients + known
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    def clipped_sum(self, real: Batch) -> list[Tensor]:
        """Sum of the patients' loss gradients, each clipped in L2 norm, or 0 if not finite."""
        count = len(real.images)
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        # A few at a time: each one's gradient is as large as the network.
        for part in torch.arange(count).split(AT_ONCE) if count else ():
            more_sums = self._clipped_part(Batch(real.images[part], real.conditions[part]))
            total = [sums + more for sums, more in zip(total, more_sums, strict=True)]
        return total

    def _clipped_part(self, real: Batch) -> list[Tensor]:
        images, maps = self._disturbed(real.images, self.maps(real.conditions))
        from opacus import GradSampleModule  # slow to import; only private runs need it

        watched = GradSampleModule(self.discriminator, loss_reduction="mean")
        try:
            with warnings.catch_warnings():
                # Layers that read images or masks have no input with a gradient, and need none.
                warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
                self.adversarial.real(self._score(watched, images, maps)).backward()
            each: list[Tensor] = [
                p.grad_sample  # type: ignore[attr-defined]  # (patients, *shape), by GradSampleModule
                for p in self.parameters
            ]
        finally:
            watched.to_standard_module()
            for parameter in self.parameters:
                parameter.grad = None
        lengths = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in each]).norm(dim=0)
        factor = (self.recipe.privacy.clip / lengths.clamp(min=1e-12)).clamp(max=1)
        # A gradient that is not finite counts as zero, which is within the clip.
        # A refusal would reveal something of the patient, and no noise would cover it.
        finite = lengths.isfinite()
        return [torch.einsum("n,n...->...", factor[finite], gradient[finite]) for gradient in each]

    def _disturbed(self, images: Images, maps: Condition) -> tuple[Window, WindowCondition]:
        random = torch.Generator()
        random.seed()  # augmentation hides no patient, so any seed will do
        return disturbed(images, maps, self.recipe.discriminator.augment, random)

    def noised(self, sums: list[Tensor]) -> list[Tensor]:
        """Sums of clipped gradients with the noise that the recipe asks for."""
        deviation = self.recipe.privacy.noise * self.recipe.privacy.clip
        return [own + deviation * normal_noise(tuple(own.shape)).to(own.device) for own in sums]

    def _score(self, network: nn.Module, images: Images, maps: Condition) -> Tensor:
        verdict: Verdict = network(images, maps)
        if verdict.score is None:
            raise TypeError("a private discriminator needs realness logits.")
        return verdict.score


def _in_rows(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Gives a layer its maps row by row: with channels last, Opacus's gradients are wrong."""
    return tuple(each.contiguous() if isinstance(each, Tensor) else each for each in inputs)
