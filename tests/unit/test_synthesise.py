"""What a generator is given to paint from."""

import pytest
import torch

from asyndgan.errors import RunError
from asyndgan.painting.augmenting import rarity
from asyndgan.painting.synthesise import check_labels_of


@pytest.mark.parametrize("unknown", [2, 4])
def test_a_label_that_the_generator_was_never_shown_is_refused_even_if_a_higher_one_was(
    unknown: int,
) -> None:
    known = {0: "background", 1: "core", 3: "edge"}
    check_labels_of([torch.tensor([[0, 1], [3, 3]])], known)
    with pytest.raises(RunError, match=f"hold label {unknown}; this generator knows 0, 1, 3"):
        check_labels_of([torch.tensor([[0, unknown], [3, 3]])], known)


def test_masks_with_rare_labels_or_sizes_weigh_up_to_four_times_the_median() -> None:
    masks = torch.zeros(20, 8, 8, dtype=torch.int64)
    masks[:, :4] = 1
    masks[0, 0, 0] = 2  # the only one with label 2
    masks[1] = 1  # the only one that is full of label 1
    weights = rarity(masks)
    assert (weights / weights[2]).tolist() == pytest.approx([4, 4] + [1] * 18)
