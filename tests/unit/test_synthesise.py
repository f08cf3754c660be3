"""What a generator is given to paint from."""

import pytest
import torch

from asyndgan.errors import RunError
from asyndgan.painting.synthesise import check_labels_of


@pytest.mark.parametrize("unknown", [2, 4])
def test_a_label_that_the_generator_was_never_shown_is_refused_even_if_a_higher_one_was(
    unknown: int,
) -> None:
    known = {0: "background", 1: "core", 3: "edge"}
    check_labels_of([torch.tensor([[0, 1], [3, 3]])], known)
    with pytest.raises(RunError, match=f"hold label {unknown}; this generator knows 0, 1, 3"):
        check_labels_of([torch.tensor([[0, unknown], [3, 3]])], known)
