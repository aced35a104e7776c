"""Secrets at rest: AES-256-GCM under the installation's key, with a key id so that keys can rotate."""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_KEY_ID, _NONCE = 4, 12


class Unreadable(Exception):
    """A sealed value that none of our keys opens: a lost ENCRYPTION_KEY, or bytes that somebody changed."""


class Sealer:
    """Seals with the first key, opens with whichever one sealed.

    A sealed value is version (1 byte), key id (4), nonce (12), ciphertext and tag. `purpose` is bound to the value, so
    that one column's secret cannot be pasted into another.
    """

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = {_key_id(key): AESGCM(key) for key in keys}
        self._first = _key_id(keys[0])

    @property
    def current(self) -> bytes:
        """What every value begins with that is sealed from now on."""
        return _VERSION + self._first

    def seal(self, plain: bytes, purpose: str) -> bytes:
        nonce = os.urandom(_NONCE)
        return self.current + nonce + self._keys[self._first].encrypt(nonce, plain, purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """
        Raises:
            Unreadable: when no key fits, or the value or its purpose was changed.
        """
        body = sealed[1:]
        key = self._keys.get(body[:_KEY_ID])
        if sealed[:1] != _VERSION or key is None:
            raise Unreadable("sealed with a key that ENCRYPTION_KEY does not list")
        nonce, ciphertext = body[_KEY_ID : _KEY_ID + _NONCE], body[_KEY_ID + _NONCE :]
        try:
            return key.decrypt(nonce, ciphertext, purpose.encode())
        except InvalidTag as error:
            raise Unreadable("the sealed value was changed") from error


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"agentauri key id" + key).digest()[:_KEY_ID]
