"""Connects hospitals over NVIDIA FLARE, which provides identities, mutual TLS and jobs.

A FLARE job only carries the sealed requests and answers of one site (`app.py`, `sealing.py`). The
coordinator (`transport.py`) and each site's data process (`service.py`) run beside it.
"""
