"""What was sent and what was answered, kept for audits where the settings say so, and encrypted as it is written.

The server has a public key alone: what it has kept, it cannot read. Each recording is sealed by itself (HPKE, RFC 9180,
with X25519, HKDF-SHA256 and AES-256-GCM); `rayapp audit` makes keys and opens what was kept.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from rayapp.errors import UserError
from serve.config import RetentionConfig

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_SUFFIX = ".hpke"
_CLEAR_SECONDS = 3600.0


class Archive:
    """A folder for each day, with a file for each request. Days that are old enough are removed with all they hold."""

    def __init__(self, config: RetentionConfig) -> None:
        """Raises `UserError` for a key that is none."""
        self._folder, self._days, self._key = config.folder, config.keep_days, read_public_key(config.public_key)

    def keep(self, request_id: str, told: Mapping[str, Any], audio: bytes) -> None:
        """told: what is to be known of the request, which can be written as JSON. audio: as it was sent."""
        header = json.dumps({"request_id": request_id, **told}, ensure_ascii=False).encode()
        folder = self._folder / _today().isoformat()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as aside:  # readable by its owner alone
            aside.write(_SUITE.encrypt(header + b"\n" + audio, self._key))
        Path(aside.name).replace(folder / f"{_mark(request_id)}-{uuid.uuid4().hex}{_SUFFIX}")

    async def clear(self) -> None:
        """Remove the days that are old enough, now and each hour, for ever."""
        while True:
            await asyncio.to_thread(self._clear)
            await asyncio.sleep(_CLEAR_SECONDS)

    def _clear(self) -> None:
        oldest = (_today() - datetime.timedelta(days=self._days)).isoformat()
        for folder in self._folder.glob("????-??-??"):
            if folder.name < oldest:
                shutil.rmtree(folder, ignore_errors=True)  # another ingress may be at it


def new_key(path: Path) -> Path:
    """Write a private key, which its owner alone can read, and beside it the public one, whose path is returned.

    Raises `UserError` where a file is there already: what was sealed for its key could not be opened any more.
    """
    public = path.with_name(f"{path.name}.pub")
    if taken := next((each for each in (path, public) if each.exists()), None):
        raise UserError(f"{taken} is there already; choose another name")
    key = X25519PrivateKey.generate()
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return public


def read_public_key(path: Path) -> X25519PublicKey:
    """Raises `UserError` for a file that holds none."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no public key: {error}; `rayapp audit new-key` makes one") from None
    if not isinstance(key, X25519PublicKey):
        raise UserError(f"{path} is a public key of another kind than X25519; `rayapp audit new-key` makes one")
    return key


def open_kept(folder: Path, request_id: str, private_key: Path) -> list[tuple[dict[str, Any], bytes]]:
    """What was told of each request of an ID, and its audio, in their order: clients may choose one again.

    Raises `UserError` where none was kept, or not for this key.
    """
    try:
        key = serialization.load_pem_private_key(private_key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{private_key} is no private key without a password: {error}") from None
    if not isinstance(key, X25519PrivateKey):
        raise UserError(f"{private_key} is a private key of another kind than X25519; it opens nothing here")
    found = sorted(folder.glob(f"????-??-??/{_mark(request_id)}-*{_SUFFIX}"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise UserError(f"{folder} holds nothing of the request {request_id}")
    kept = []
    for file in found:
        try:
            header, _, audio = _SUITE.decrypt(file.read_bytes(), key).partition(b"\n")
        except (InvalidTag, ValueError):
            raise UserError(f"{file} cannot be opened with {private_key}: it was sealed for another key") from None
        kept.append((json.loads(header), audio))
    return kept


def _mark(request_id: str) -> str:
    """Begins a file's name. A client may choose the ID: it is not to choose a path."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:32]


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()
