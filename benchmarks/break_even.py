"""From how many local steps a round on would FedGAN send fewer bytes than feedback does?

    python benchmarks/break_even.py RUN ...

A round of FedGAN moves generator and discriminator (float32) to a site and back; a step of ours
moves what the run counted. K* is the number of steps whose feedback weighs as much as one round.
"""

import sys
from pathlib import Path

from torch import nn

from asyndgan.models import build_discriminator, condition_channels
from asyndgan.runs import RunFolder


def weight(network: nn.Module) -> int:
    """Bytes of a network in float32."""
    return 4 * sum(tensor.numel() for tensor in network.state_dict().values())


def main() -> None:
    """Prints the table."""
    print("| run | generator | discriminator | a FedGAN round | our step | K* |")
    print("|---|---|---|---|---|---|")
    for argument in sys.argv[1:]:
        run = RunFolder(Path(argument))
        facts, recipe = run.facts(), run.recipe()
        discriminator = build_discriminator(
            recipe,
            condition_channels=condition_channels(
                recipe.condition.kind, max(facts.scope.labels) + 1
            ),
            image_channels=len(facts.modalities),
        )
        sizes = weight(run.generator()), weight(discriminator)
        step = facts.bytes_a_step
        round_ = 2 * sum(sizes)
        print(
            f"| {Path(argument).name} | {sizes[0] / 1e6:.2f} MB | {sizes[1] / 1e6:.2f} MB "
            f"| {round_ / 1e6:.1f} MB | {step / 1e3:.1f} kB | {round_ / step:.0f} |"
        )


if __name__ == "__main__":
    main()
