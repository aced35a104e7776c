"""What callers may read about the people behind an installation."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from msgspec import Struct

from agentauri.config.reader import Reader


class DiscoveryConfig(Struct, frozen=True, kw_only=True):
    """Without `security_email` or `security_url` there is no security.txt."""

    contact_email: str = "contact@agentauri.ai"
    contact_github: str = "https://github.com/agentauri"
    documentation_url: str = "https://docs.agentauri.ai"
    security_email: str | None = None
    security_url: str | None = None
    security_policy_url: str | None = None
    security_acknowledgments_url: str | None = None
    security_hiring_url: str | None = None


def read_discovery(r: Reader) -> DiscoveryConfig:
    own = DiscoveryConfig()
    email, url = "an e-mail address", "an http:// or https:// URL"
    return DiscoveryConfig(
        contact_email=r.parse("CONTACT_EMAIL", own.contact_email, _email, email),
        contact_github=r.parse("CONTACT_GITHUB", own.contact_github, web_address, url),
        documentation_url=r.parse("DOCUMENTATION_URL", own.documentation_url, web_address, url),
        security_email=r.parse("SECURITY_CONTACT_EMAIL", None, _email, email),
        security_url=r.parse("SECURITY_CONTACT_URL", None, web_address, url),
        security_policy_url=r.parse("SECURITY_POLICY_URL", None, web_address, url),
        security_acknowledgments_url=r.parse("SECURITY_ACKNOWLEDGMENTS_URL", None, web_address, url),
        security_hiring_url=r.parse("SECURITY_HIRING_URL", None, web_address, url),
    )


def web_address(raw: str) -> str:
    parts = urlsplit(raw)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\x00-\x1f]", raw):
        raise ValueError
    return raw


def _email(raw: str) -> str:
    if not re.fullmatch(r"[^\s@]+@[^\s@]+", raw):
        raise ValueError
    return raw
