"""Connects hospitals over NVIDIA FLARE, which provides identities, mutual TLS and jobs.

FLARE is installed with `pip install '.[flare]'`. A FLARE job only carries the requests and
answers of one site (`relay/flare.py`). The coordinator (`transport.py`) and each site's compute
(`service.py`) run beside it in processes of their own, so no failure of FLARE loses training
progress.
"""
