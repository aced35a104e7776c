"""What can go wrong, sorted by what the caller can do about it.

    AgentAuriError                 code: stable string, message: a sentence for the caller
    ├─ Invalid                     the request breaks a rule; change it
    ├─ Unauthenticated             no credential, or one we refuse
    ├─ Forbidden                   a known caller without the right
    ├─ NotFound                    no such thing, or not yours to know about
    ├─ Conflict                    the thing is not in a state that allows this
    ├─ PaymentRequired             a plan or credit is missing
    ├─ RateLimited                 come back after `retry_after` seconds
    └─ Unavailable                 weather: a store, node or name server is away; retrying is sane

Concrete errors live beside the code that raises them and choose one of these kinds. Anything else that
escapes is a bug.
"""


class AgentAuriError(Exception):
    """Base of every error we raise on purpose."""

    code: str = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class FieldError(Exception):
    """One refused field: its path in the caller's own words, and the rule it breaks."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def under(self, prefix: str) -> "FieldError":
        """The same error seen from one level further out."""
        joint = "" if self.field.startswith("[") or not self.field else "."
        return FieldError(f"{prefix}{joint}{self.field}", self.message)


class Invalid(AgentAuriError):
    """A rule refuses the request; `errors` names every refused field."""

    code = "validation_error"

    def __init__(self, message: str, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        self.errors = errors

    @classmethod
    def fields(cls, *errors: FieldError) -> "Invalid":
        """Refuse these fields, with the usual summary as message."""
        count = len(errors)
        return cls(f"{count} field{'s were' if count != 1 else ' was'} refused.", errors)


class Unauthenticated(AgentAuriError):
    code = "unauthorized"


class Forbidden(AgentAuriError):
    code = "forbidden"


class QuotaExceeded(Forbidden):
    """There are as many of these already as there may be; `plan` is whose limit it is, None where it is everybody's."""

    code = "quota_exceeded"

    def __init__(self, name: str, limit: int, used: int, plan: str | None = None) -> None:
        super().__init__(f"The limit of {limit} {name.replace('_', ' ')} is reached.")
        self.name = name
        self.limit = limit
        self.used = used
        self.plan = plan


class NotFound(AgentAuriError):
    code = "not_found"


class Conflict(AgentAuriError):
    code = "conflict"


class PaymentRequired(AgentAuriError):
    code = "payment_required"


class RateLimited(AgentAuriError):
    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(AgentAuriError):
    """Weather. Whoever catches it waits and tries again."""

    code = "service_unavailable"
