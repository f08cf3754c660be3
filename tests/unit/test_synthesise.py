"""What a generator is given to paint from."""

import pytest
import torch

from asyndgan.errors import RunError
from asyndgan.models.sizes import at_once
from asyndgan.painting.painter import check_labels_of


@pytest.mark.parametrize("unknown", [2, 4])
def test_a_label_that_the_generator_was_never_shown_is_refused_even_if_a_higher_one_was(unknown):
    known = {0: "background", 1: "core", 3: "edge"}
    check_labels_of([torch.tensor([[0, 1], [3, 3]])], known)
    with pytest.raises(RunError, match=f"hold label {unknown}; this generator knows 0, 1, 3"):
        check_labels_of([torch.tensor([[0, unknown], [3, 3]])], known)


@pytest.mark.parametrize(
    ("space", "images"), [((64, 64), 32), ((1024, 1024), 2), ((64, 64, 64), 8), ((256,) * 3, 1)]
)
def test_fewer_large_images_are_painted_at_once(space, images):
    assert at_once(space) == images
