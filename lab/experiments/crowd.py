"""Strangers on a federation's port, who never say who they are.

    python -m lab.experiments.crowd PORT NUMBER [CERTIFICATE KEY]

Opens NUMBER connections to this machine's PORT and opens one anew whenever the server closes it,
until killed. In turn they say nothing, send half of a TLS greeting, send it byte by byte, or speak
TLS without a certificate; with CERTIFICATE and KEY, some show that one and are then silent. A line
is written when all were opened.
"""

import argparse
import asyncio
import ssl
from contextlib import suppress
from itertools import cycle

KINDS = ("silent", "half a greeting", "byte by byte", "no certificate")
WITH = "another's certificate"
AGAIN_S = 2.0
"""Seconds until a connection that was closed is opened again."""


def greeting() -> bytes:
    """The first message of a TLS handshake, as a client sends it."""
    out = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    line = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="nobody")
    with suppress(ssl.SSLWantReadError):
        line.do_handshake()
    return out.read()


async def stranger(kind: str, port: int, certificate: list[str], opened: asyncio.Event) -> None:
    """Connects again and again, and is silent once it has done what its kind does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's authorities
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if kind == WITH:
        context.load_cert_chain(*certificate)
    secure = context if kind in (WITH, "no certificate") else None
    said = greeting()
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "localhost", port, ssl=secure, ssl_handshake_timeout=3600 if secure else None
            )
            opened.set()
            if kind == "half a greeting":
                writer.write(said[: len(said) // 2])
            elif kind == "byte by byte":
                for byte in said:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.5)
            await reader.read()
            writer.close()
        opened.set()
        await asyncio.sleep(AGAIN_S)


async def main() -> None:
    """Keeps all connections open."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("port", type=int)
    asked.add_argument("number", type=int)
    asked.add_argument("certificate", nargs="*")
    port, number, certificate = vars(asked.parse_args()).values()
    kinds = cycle([*KINDS, *([WITH] if certificate else [])])
    opened = [asyncio.Event() for _ in range(number)]
    crowd = [
        asyncio.create_task(stranger(kind, port, certificate, one))
        for one, kind in zip(opened, kinds, strict=False)
    ]
    # Who speaks TLS is not connected before the server answers, which it may not.
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*(one.wait() for one in opened)), timeout=5)
    print("there", flush=True)
    await asyncio.gather(*crowd)


if __name__ == "__main__":
    asyncio.run(main())
