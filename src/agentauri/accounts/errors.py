"""What this package refuses."""

from agentauri.errors import Conflict, NotFound, Unauthenticated


class InvalidApiKey(Unauthenticated):
    """Unknown, wrong, malformed, revoked or expired: the caller cannot tell which."""

    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("Invalid or expired API key")


class KeyNotFound(NotFound):
    code = "api_key_not_found"


class OrganizationNotFound(NotFound):
    code = "organization_not_found"


class OrganizationAmbiguous(Conflict):
    code = "organization_ambiguous"
