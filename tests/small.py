"""Settings that make a recipe that ships as small as its networks allow."""

SMALL = [
    "image.size=16",
    "generator.width=4",
    "generator.blocks=1",
    "discriminator.width=4",
    "discriminator.layers=1",
]
