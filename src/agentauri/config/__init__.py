"""Every setting, read and checked once at start.

`load()` is the only reader of the environment and of `.env` in the working folder; the environment wins. An unset or
empty variable means its default. Every fault is reported in one go, with the variable's name and what it takes. Each
group of settings has a module with its values and the function that reads them.
"""

from agentauri.config.chains import CHAIN_ALIASES as CHAIN_ALIASES
from agentauri.config.chains import ChainSettings as ChainSettings
from agentauri.config.chains import RpcConfig as RpcConfig
from agentauri.config.discovery import DiscoveryConfig as DiscoveryConfig
from agentauri.config.pipeline import RETRY_SCHEDULE as RETRY_SCHEDULE
from agentauri.config.pipeline import TELEGRAM_API_URL as TELEGRAM_API_URL
from agentauri.config.pipeline import DispatcherConfig as DispatcherConfig
from agentauri.config.pipeline import EvaluatorConfig as EvaluatorConfig
from agentauri.config.pipeline import RetentionConfig as RetentionConfig
from agentauri.config.private import SecretsConfig as SecretsConfig
from agentauri.config.reader import ConfigError as ConfigError
from agentauri.config.server import Network as Network
from agentauri.config.server import RateLimitMode as RateLimitMode
from agentauri.config.server import ServerConfig as ServerConfig
from agentauri.config.settings import ROLES as ROLES
from agentauri.config.settings import Config as Config
from agentauri.config.settings import default_data_dir as default_data_dir
from agentauri.config.settings import effective as effective
from agentauri.config.settings import load as load
from agentauri.config.stores import SSL_MODES as SSL_MODES
from agentauri.config.stores import DatabaseConfig as DatabaseConfig
from agentauri.config.stores import RedisConfig as RedisConfig
from agentauri.config.stores import database_config as database_config
