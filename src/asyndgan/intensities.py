"""The range of prepared intensities; apart from `arrays`, which needs torch."""

IMAGE_LOW = -1.0
"""Intensity that means "nothing" (air, background) in every prepared image."""

IMAGE_HIGH = 1.0
"""Brightest intensity of a prepared image; generators end in tanh to stay below it."""
