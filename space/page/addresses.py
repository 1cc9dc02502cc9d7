"""Whose request it is."""

import ipaddress
import os

from starlette.types import Scope

BEHIND = "SPACE_ID" in os.environ or "HF_DTL_PROXY" in os.environ
"""Whether this runs as a Space, or as its owner says, behind a proxy that says for whom it asks."""
if not BEHIND:
    os.environ["FORWARDED_ALLOW_IPS"] = ""  # else the server believes whoever asks from its own machine


def address_of(scope: Scope) -> str:
    """Where a request comes from; behind a proxy, the last public address that it was passed on for.

    What stands before that one a visitor may have written himself.
    """
    client = scope.get("client")
    if BEHIND:
        told = ",".join(v.decode("latin-1") for k, v in scope["headers"] if k == b"x-forwarded-for").split(",")
        for word in map(str.strip, reversed(told)):
            try:
                if ipaddress.ip_address(word).is_global:
                    return word
            except ValueError:
                break
    return str(client[0]) if client else ""
