"""What a party of ours must not say."""

from __future__ import annotations


class Nonsense(ValueError):
    """An answer that means nothing. Its text says what is wrong, never what was said."""
