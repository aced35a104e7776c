"""Who asks, and what they may touch: users and their login sessions, organizations and their members, keys and scopes.

A key is recognised by its HMAC and belongs to its organization; a user by a token that names her session. What either
may do in an organization is its `Standing`. What they do is written down in the transaction of the deed. Nothing here
knows HTTP.
"""

from agentauri.accounts.api_keys import ApiKeyService as ApiKeyService
from agentauri.accounts.audit import SYSTEM as SYSTEM
from agentauri.accounts.audit import Actor as Actor
from agentauri.accounts.audit import AuditEntry as AuditEntry
from agentauri.accounts.audit import AuditFilter as AuditFilter
from agentauri.accounts.audit import AuditTrail as AuditTrail
from agentauri.accounts.audit import Target as Target
from agentauri.accounts.errors import InvalidApiKey as InvalidApiKey
from agentauri.accounts.errors import InvalidToken as InvalidToken
from agentauri.accounts.errors import KeyNotFound as KeyNotFound
from agentauri.accounts.errors import MemberNotFound as MemberNotFound
from agentauri.accounts.errors import OrganizationAmbiguous as OrganizationAmbiguous
from agentauri.accounts.errors import OrganizationNotFound as OrganizationNotFound
from agentauri.accounts.lockout import counted_as as counted_as
from agentauri.accounts.members import MemberService as MemberService
from agentauri.accounts.organizations import OrganizationDraft as OrganizationDraft
from agentauri.accounts.organizations import OrganizationPatch as OrganizationPatch
from agentauri.accounts.organizations import OrganizationService as OrganizationService
from agentauri.accounts.passwords import PasswordHasher as PasswordHasher
from agentauri.accounts.scopes import ADMIN_ALL as ADMIN_ALL
from agentauri.accounts.scopes import ROLES as ROLES
from agentauri.accounts.scopes import SCOPES as SCOPES
from agentauri.accounts.sessions import LoginSession as LoginSession
from agentauri.accounts.sessions import Sessions as Sessions
from agentauri.accounts.standing import Standings as Standings
from agentauri.accounts.tokens import AccessTokens as AccessTokens
from agentauri.accounts.tokens import Claims as Claims
from agentauri.accounts.types import Anonymous as Anonymous
from agentauri.accounts.types import ApiKey as ApiKey
from agentauri.accounts.types import ApiKeyPrincipal as ApiKeyPrincipal
from agentauri.accounts.types import AuthFailure as AuthFailure
from agentauri.accounts.types import Environment as Environment
from agentauri.accounts.types import GivenRole as GivenRole
from agentauri.accounts.types import KeyDraft as KeyDraft
from agentauri.accounts.types import KeyFilter as KeyFilter
from agentauri.accounts.types import KeyId as KeyId
from agentauri.accounts.types import KeyPatch as KeyPatch
from agentauri.accounts.types import KeyRotation as KeyRotation
from agentauri.accounts.types import KeyStats as KeyStats
from agentauri.accounts.types import KeyType as KeyType
from agentauri.accounts.types import Member as Member
from agentauri.accounts.types import NewKey as NewKey
from agentauri.accounts.types import Organization as Organization
from agentauri.accounts.types import OwnOrganization as OwnOrganization
from agentauri.accounts.types import Permission as Permission
from agentauri.accounts.types import Principal as Principal
from agentauri.accounts.types import Role as Role
from agentauri.accounts.types import RotatedKey as RotatedKey
from agentauri.accounts.types import Standing as Standing
from agentauri.accounts.types import User as User
from agentauri.accounts.types import UserPrincipal as UserPrincipal
from agentauri.accounts.users import EMAIL_LENGTH as EMAIL_LENGTH
from agentauri.accounts.users import USERNAME as USERNAME
from agentauri.accounts.users import AccountChanges as AccountChanges
from agentauri.accounts.users import Caller as Caller
from agentauri.accounts.users import LoggedIn as LoggedIn
from agentauri.accounts.users import Registration as Registration
from agentauri.accounts.users import UserService as UserService
