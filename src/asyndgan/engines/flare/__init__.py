"""Hospitals over NVIDIA FLARE: identities, mutual TLS and jobs are FLARE's; the run is ours.

FLARE is installed with `pip install 'asyndgan[flare]'`. A FLARE job carries nothing but requests
and answers of one site (`relay/flare.py`); the coordinator (`transport.py`) and each site's compute
(`service.py`) live beside it, in processes of their own, so that nothing that happens to FLARE
costs them what they have learned.
"""
