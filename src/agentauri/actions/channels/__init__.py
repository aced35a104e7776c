"""The ways to reach somebody. A new one is a file here and a line in `make_channels`."""

from __future__ import annotations

from collections.abc import Mapping

from agentauri.actions.channels.channel import Accepted as Accepted
from agentauri.actions.channels.channel import Channel as Channel
from agentauri.actions.channels.channel import Pace as Pace
from agentauri.actions.channels.channel import Prepared as Prepared
from agentauri.actions.channels.channel import Sent as Sent
from agentauri.actions.channels.channel import StoredAction as StoredAction
from agentauri.actions.channels.channel import UnderWay as UnderWay
from agentauri.actions.channels.mcp import McpChannel
from agentauri.actions.channels.telegram import BotApi as BotApi
from agentauri.actions.channels.telegram import TelegramChannel
from agentauri.actions.channels.webhook import WebhookChannel
from agentauri.actions.outbound import Outbound
from agentauri.actions.types import Json

CONFIG_SCHEMAS: Mapping[str, Json] = {
    "WebhookConfig": WebhookChannel.schema,
    "TelegramConfig": TelegramChannel.schema,
    "McpConfig": McpChannel.schema,
}
"""What the configurations of actions look like, by a name for each."""


def make_channels(
    outbound: Outbound, *, webhook_timeout: float, bot_api: BotApi | None = None
) -> Mapping[str, Channel]:
    """The channels of this version by the action types that they serve."""
    channels: list[Channel] = [
        WebhookChannel(outbound, webhook_timeout),
        TelegramChannel(bot_api or BotApi(outbound=outbound), webhook_timeout),
        McpChannel(outbound.guard, webhook_timeout),
    ]
    return {action_type: channel for channel in channels for action_type in channel.action_types}
