"""What the doctor finds, told by what it looked at."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator

from gateway.doctor.diagnosis import Diagnosis
from tests.upstreams.conftest import certificate

__all__ = ["answering", "certificate", "gathered", "told"]


async def gathered(diagnoses: AsyncIterator[Diagnosis]) -> list[Diagnosis]:
    return [diagnosis async for diagnosis in diagnoses]


def told(diagnoses: AsyncIterator[Diagnosis]) -> dict[str, tuple[str, str]]:
    """State and text by what they are about; nothing is told twice."""
    found = asyncio.run(gathered(diagnoses))
    assert len({diagnosis.what for diagnosis in found}) == len(found)
    return {diagnosis.what: (str(diagnosis.state), diagnosis.text) for diagnosis in found}


@contextlib.contextmanager
def answering(answer=b""):
    """A port that says this to whatever it is sent, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    with peer:
                        peer.recv(65_536)
                        peer.sendall(answer)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
