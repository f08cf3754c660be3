"""Pictures say what is acquired and what is not."""

from io import BytesIO

import torch
from matplotlib.image import imread

from asyndgan.painting.pictures import plot_paintings
from asyndgan.store import Case, Preparation

STORED = Preparation((8, 8), (1.0, 1.0), (8, 8), (0, 0), (1.0,), (0.0,))


def case(*absent: str) -> Case:
    return Case(
        "a", "a", torch.zeros(2, 8, 8), torch.ones(8, 8, dtype=torch.int64), ("T1", "T2"),
        STORED, absent,
    )  # fmt: skip


def framed(cases: list[Case]) -> int:
    """Number of pixels in the colour of frames, below the title."""
    picture = imread(BytesIO(plot_paintings(cases, None, title="heads")))
    colour = torch.tensor([0xD1, 0x49, 0x5B]) / 255
    near = (torch.from_numpy(picture[40:, :, :3].copy()) - colour).abs().amax(2) < 0.02
    return int(near.sum())


def test_each_painted_channel_has_a_frame_and_no_acquired_one_has():
    assert framed([case(), case()]) == 0
    one, two = framed([case("T2"), case()]), framed([case("T2"), case("T1")])
    assert one > 100
    assert 1.9 * one < two < 2.1 * one
