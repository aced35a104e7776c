"""The wire: who asks, whether they may, what was asked, and the one form of every answer.

It holds no rule of the house; what it decides is status codes, headers and the order in which a request is refused.
"""

from agentauri.http.app import create_app as create_app
from agentauri.http.app import openapi_document as openapi_document
from agentauri.http.health import ComponentState as ComponentState
from agentauri.http.security_headers import answer_headers as answer_headers
from agentauri.http.server import HttpServer as HttpServer
from agentauri.http.services import Services as Services
