"""Runs the module of FLARE that the first word names, until its starter has gone, however it went.

Its standard input has to be a pipe of the starter.
"""

import os
import runpy
import sys
import threading


def _follow() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_follow, daemon=True).start()
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
