"""Trains on two phantom hospitals, paints from a mask and saves a picture, in a minute.

python examples/minimal.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import asyndgan
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms

out = Path(sys.argv[1] if len(sys.argv) > 1 else "minimal")
write_phantoms(out / "data", size=32, sites=DEFAULT_SITES[:2], patients_scale=0.2)
sites = {"north": out / "data/north", "south": out / "data/south"}
quick = {  # 100 small steps give a rough image; the recipe's own 2,000 give a sharp one
    "image.size": 32, "generator.width": 16, "generator.blocks": 2, "generator.noise": 1,
    "discriminator.width": 16, "optimiser.generator_rate": 2e-3,
    "training.steps": 100, "training.ema": 0.9,
}  # fmt: skip
run = asyndgan.train("default", sites, out / "run", overrides=quick)
print(run)

file = min((out / "data/test/labelsTr").iterdir())  # of a patient whom neither site has
mask = np.asarray(Image.open(file))
rows = [np.hstack([mask - 1.0, *run.paint(mask, look=site)]) for site in run.looks]
picture = Image.fromarray(np.uint8(127.5 * (np.vstack(rows) + 1)))
picture.resize((8 * picture.width, 8 * picture.height)).save(out / "painted.png")
print(f"{out / 'painted.png'}: the mask, {', '.join(run.modalities)}; a row for each site's look")
