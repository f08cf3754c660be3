"""The one way in which this package starts a process."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

GROUPS: Final = (
    "ASYNDGAN_", "ATEN_", "COVERAGE_", "CUBLAS_", "CUDA_", "DNNL_", "GOMP_", "GRPC_", "HIP_",
    "HSA_", "KMP_", "LC_", "MALLOC_", "MKL_", "NVFLARE_", "OMP_", "ONEDNN_", "OPENBLAS_",
    "PYTORCH_", "ROCR_", "SSL_CERT_", "TORCH_", "XDG_",
)  # fmt: skip
NAMES: Final = frozenset({
    "FL_LOG_LEVEL", "HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME",
    "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_VISIBLE_DEVICES", "OPENSSL_CONF", "PATH",
    "PYTHONUSERBASE", "TEMP", "TMP", "TMPDIR", "TZ", "USER",
    "all_proxy", "grpc_proxy", "http_proxy", "https_proxy", "no_grpc_proxy", "no_proxy",
})  # fmt: skip
"""Variables that a process inherits, beside `GROUPS` of them: no secrets of other programs."""


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of a process that is started, in which Python imports nothing from where it is.

    They are `more`, the caller's of `GROUPS` and `NAMES`, and absolute parts of `PYTHONPATH`. A
    stranger's kit, run or data may hold a `torch.py`.
    """
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(GROUPS) or name in NAMES or name.lower() in NAMES
    }
    known = {**(more or {}), **own, "PYTHONSAFEPATH": "1"}
    known["PYTHONPATH"] = os.pathsep.join(path for path in paths if Path(path).is_absolute())
    return known


def start(module: str, *words: object, **options: Any) -> "subprocess.Popen[bytes]":
    """Starts a module with these words in a session of its own: Ctrl-C is for its parent."""
    return subprocess.Popen(  # noqa: S603  (our own interpreter and module)
        [sys.executable, "-u", "-P", "-m", module, *map(str, words)],
        start_new_session=True,
        **{"env": environment(), **options},
    )


def tell(command: Sequence[str], text: str, timeout_s: float) -> None:
    """Runs a command of this machine's administrator with a text as its input.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be started, failed, or took longer.
    """
    subprocess.run(  # noqa: S603  (of the administrator's own settings)
        command,
        input=text.encode(),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=timeout_s,
        check=True,
    )
