"""A recipe: everything that shapes a run, as one frozen and validated value.

A recipe reads no file and no environment variable; `asyndgan.runs` finds recipes by name. Two
parties that hold the same `Recipe.digest()` train the same thing.
"""

from asyndgan.recipe.faults import explained, shown
from asyndgan.recipe.image import ImageSection, Intensity
from asyndgan.recipe.recipe import Recipe, known_keys
from asyndgan.recipe.sections import (
    LABELS_LIMIT,
    DiscriminatorSection,
    GeneratorSection,
    IntegritySection,
    QuorumSection,
    Section,
)
