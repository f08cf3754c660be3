"""Connects hospitals over NVIDIA FLARE, which provides identities, mutual TLS and jobs.

FLARE is installed with `pip install '.[flare]'` and used by its public interface. A FLARE job only
carries the sealed requests and answers of one site (`app.py`, `sealing.py`). The coordinator
(`transport.py`) and each site's data process (`service.py`) run beside it in processes of their
own, so no failure of FLARE loses training progress, and none of its processes holds data.
"""
