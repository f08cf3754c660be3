"""Entry point of a site's process; `Processes` passes the file descriptor of its socket."""

import signal
import socket
import sys

from asyndgan.engines.processes import serve

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator decides when a run ends
    serve(socket.socket(fileno=int(sys.argv[1])))
