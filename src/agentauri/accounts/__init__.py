"""Who asks, and what they may touch: organizations, their keys, and the scopes that a key holds.

A key is recognised by its HMAC, is shown once, and belongs to its organization. Nothing here knows HTTP.
"""

from agentauri.accounts.api_keys import ApiKeyService as ApiKeyService
from agentauri.accounts.errors import InvalidApiKey as InvalidApiKey
from agentauri.accounts.errors import KeyNotFound as KeyNotFound
from agentauri.accounts.errors import OrganizationAmbiguous as OrganizationAmbiguous
from agentauri.accounts.errors import OrganizationNotFound as OrganizationNotFound
from agentauri.accounts.organizations import OrganizationService as OrganizationService
from agentauri.accounts.scopes import ADMIN_ALL as ADMIN_ALL
from agentauri.accounts.scopes import SCOPES as SCOPES
from agentauri.accounts.types import Anonymous as Anonymous
from agentauri.accounts.types import ApiKey as ApiKey
from agentauri.accounts.types import ApiKeyPrincipal as ApiKeyPrincipal
from agentauri.accounts.types import AuthFailure as AuthFailure
from agentauri.accounts.types import Environment as Environment
from agentauri.accounts.types import KeyDraft as KeyDraft
from agentauri.accounts.types import NewKey as NewKey
from agentauri.accounts.types import Organization as Organization
from agentauri.accounts.types import Permission as Permission
from agentauri.accounts.types import Principal as Principal
