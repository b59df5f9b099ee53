"""How https targets are trusted."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.tree import TlsSection


def client_context(settings: TlsSection) -> ssl.SSLContext:
    """A context that verifies certificate and name. Raises OSError or ssl.SSLError for an unreadable `ca_file`."""
    return ssl.create_default_context(cafile=settings.ca_file)
