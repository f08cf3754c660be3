"""asyndgan: train one image generator across sites whose images never leave them.

The protocol is that of Chang et al., "Synthetic Learning: Learn From Distributed Asynchronized
Discriminator GAN Without Sharing Medical Image Data", CVPR 2020.
"""

from importlib.metadata import version

__version__ = version("asyndgan")
