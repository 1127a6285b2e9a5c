"""Who may ask: keys of a file, one a line."""

from __future__ import annotations

import hmac
from hashlib import sha256
from pathlib import Path

from runtimes.errors import InputError, shown

_SHORTEST = 16  # characters


class Keys:
    """The keys of ``--api-key-file``; without a file everybody may ask."""

    def __init__(self, digests: tuple[bytes, ...]) -> None:
        self._digests = digests

    @classmethod
    def read(cls, path: Path | None) -> Keys:
        """Lines with a key each; empty lines and those that begin with # are none.

        Raises :class:`InputError` for a file that cannot be read or holds no usable key. What is
        wrong with a key is said by its line, not by the key.
        """
        if path is None:
            return cls(())
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--api-key-file: cannot read {shown(str(path))} as ASCII text "
                f"({type(error).__name__})"
            ) from error
        digests = []
        for number, line in enumerate(lines, 1):
            key = line.strip()
            if not key or key.startswith("#"):
                continue
            if len(key) < _SHORTEST or not key.isprintable() or " " in key:
                raise InputError(
                    f"--api-key-file: line {number}: expected a key of at least {_SHORTEST} "
                    "characters without spaces; `openssl rand -hex 32` makes one"
                )
            digests.append(sha256(key.encode()).digest())
        if not digests:
            raise InputError(f"--api-key-file: {shown(str(path))} holds no key")
        return cls(tuple(digests))

    @property
    def wanted(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self._digests)

    def allows(self, authorization: str | None) -> bool:
        """Whether a header ``Authorization: Bearer KEY`` has one of the keys.

        It takes the same time whichever key it is, and wherever one differs.
        """
        if not self._digests:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        given = sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return found and scheme.lower() == "bearer"
