"""Seals made of an API key: one for each key and Idempotency-Key, and fingerprints without two meanings."""

from __future__ import annotations

from gateway.sealing import derive_with

SEAL = derive_with(b"gw_secret", b"create-7")


def test_a_seal_belongs_to_its_api_key_and_its_idempotency_key():
    others = [derive_with(b"gw_other", b"create-7"), derive_with(b"gw_secret", b"create-8")]
    sealed = SEAL.close(b"answer", b"asked")
    assert SEAL.open(sealed, b"asked") == b"answer"
    assert SEAL.open(sealed, b"asked otherwise") is None
    for other in others:
        assert other.lookup != SEAL.lookup
        assert other.open(sealed, b"asked") is None
        assert other.sign(b"a") != SEAL.sign(b"a")


def test_what_is_asked_has_one_fingerprint_only():
    assert SEAL.sign(b"/a", b"b") == SEAL.sign(b"/a", b"b")
    assert len({SEAL.sign(*parts) for parts in [(b"/a", b"b"), (b"/ab", b""), (b"/", b"ab"), (b"/ab",)]}) == 4
