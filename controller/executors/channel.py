"""Lines of JSON over a socket: how controller, supervisors and workers talk. Never pickles."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

CHUNK_BYTES = 1 << 16


class Channel:
    """One end of a connection that carries one JSON object a line.

    Sending is safe from several threads; receiving belongs to one.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._sending = threading.Lock()
        self.closed = False

    def fileno(self) -> int:
        """The socket's file descriptor, for selectors."""
        return self._socket.fileno()

    @property
    def local_address(self) -> str:
        """Host part of this end's address."""
        return str(self._socket.getsockname()[0])

    def send(self, message: Mapping[str, Any]) -> bool:
        """Send one object. False if the other end is gone."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            with self._sending:
                self._socket.sendall(line)
        except OSError:
            return False  # what the other end said before is still to be received
        return True

    def receive(self) -> list[dict[str, Any]]:
        """The objects that are complete after one read, which waits if nothing is there yet.

        Sets `closed` when the other end is gone; what it sent before is still returned.
        """
        try:
            chunk = self._socket.recv(CHUNK_BYTES)
        except OSError:
            chunk = b""
        if not chunk:
            self.closed = True
            return []
        self._buffer += chunk
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        return [json.loads(line) for line in lines]

    def drain(self, seconds: float) -> list[dict[str, Any]]:
        """What the other end still said before it went; gives up after `seconds` of silence."""
        self._socket.settimeout(seconds)
        received = []
        while not self.closed:
            received += self.receive()
        return received

    def close(self) -> None:
        """Close the socket."""
        self.closed = True
        self._socket.close()
