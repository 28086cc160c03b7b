"""Keys that the operator gives by systemd (systemd.exec(5), *Credentials*): read by the keeper, which alone may, for the server.

The unit says `LoadCredential=pyfaas-secrets-key:/path` or `LoadCredentialEncrypted=…`; systemd puts a file of that name into a
directory that only the unit's user can read, and names the directory in the environment. Neither launcher nor VM ever has the text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pyfaas.errors import Code, PyfaasError

NAME = "pyfaas-secrets-key"
_MOST_BYTES = 1 << 16


def find(environ: Mapping[str, str]) -> str:
    """Return the credential's text, "" when there is none. Raises invalid_request for one that cannot be read."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return ""
    path = os.path.join(directory, NAME)
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1).decode("ascii", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise PyfaasError(Code.INVALID_REQUEST, f"the credential {path} cannot be read: {error.strerror}") from None
    if not text.strip() or len(text) > _MOST_BYTES:
        raise PyfaasError(Code.INVALID_REQUEST, f"the credential {path} holds no keys: each is a line ID BASE64KEY CREATED, the current one first")
    return text
