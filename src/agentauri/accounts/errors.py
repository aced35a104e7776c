"""What this package refuses."""

from agentauri.errors import Conflict, Forbidden, NotFound, RateLimited, Unauthenticated


class InvalidApiKey(Unauthenticated):
    """Unknown, wrong, malformed, revoked or expired: the caller cannot tell which."""

    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("Invalid or expired API key")


class InvalidToken(Unauthenticated):
    """Not signed by us, expired, or of a session or user that has ended: the caller cannot tell which."""

    code = "invalid_token"

    def __init__(self) -> None:
        super().__init__("Invalid or expired token")


class InvalidCredentials(Unauthenticated):
    """No such account, another password, or an account without one: the caller cannot tell which."""

    code = "invalid_credentials"

    def __init__(self) -> None:
        super().__init__("The name or the password is wrong.")


class InvalidRefreshToken(Unauthenticated):
    code = "invalid_refresh_token"

    def __init__(self) -> None:
        super().__init__("Invalid or expired refresh token")


class AccountDisabled(Forbidden):
    code = "account_disabled"

    def __init__(self) -> None:
        super().__init__("This account is disabled.")


class AccountLocked(RateLimited):
    code = "account_locked"

    def __init__(self, retry_after: float) -> None:
        super().__init__("Too many failed attempts; this login is locked for a while.", retry_after)


class UsernameExists(Conflict):
    code = "username_exists"

    def __init__(self) -> None:
        super().__init__("This user name is taken.")


class EmailExists(Conflict):
    code = "email_exists"

    def __init__(self) -> None:
        super().__init__("This e-mail address is taken.")


class OwnerOfOrganizations(Conflict):
    code = "owner_of_organizations"

    def __init__(self) -> None:
        super().__init__("You own an organization with other members; transfer it or remove them first.")


class UserNotFound(NotFound):
    code = "user_not_found"


class SessionNotFound(NotFound):
    code = "session_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such session.")


class KeyNotFound(NotFound):
    code = "api_key_not_found"


class OrganizationNotFound(NotFound):
    code = "organization_not_found"


class OrganizationAmbiguous(Conflict):
    code = "organization_ambiguous"


class KeyEnded(Conflict):
    """The key is revoked, has expired or was replaced: it cannot be changed any more."""


class MemberNotFound(NotFound):
    code = "member_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such member.")


class MemberExists(Conflict):
    def __init__(self) -> None:
        super().__init__("This user is a member already.")


class OwnerStays(Conflict):
    def __init__(self) -> None:
        super().__init__("The owner has that role until the organization is transferred.")


class OnlyOwner(Forbidden):
    def __init__(self) -> None:
        super().__init__("Only the owner can do this to an admin.")


class PersonalOrganization(Conflict):
    def __init__(self) -> None:
        super().__init__("A personal organization stays with its user.")


class SlugExists(Conflict):
    code = "slug_exists"

    def __init__(self) -> None:
        super().__init__("The owner has an organization of this slug.")


class NotYours(Forbidden):
    """Nobody gives a key what she may not do herself."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
