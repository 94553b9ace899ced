"""Uses the client that openapi-python-client made: registers, changes, lists and reads a webhook, reads the lists."""

import os
import sys
from uuid import UUID

from presence_bridge_client import AuthenticatedClient
from presence_bridge_client.api.agents import list_agents
from presence_bridge_client.api.events import list_events
from presence_bridge_client.api.sources import list_sources
from presence_bridge_client.api.webhooks import create_webhook, get_webhook, list_webhooks, update_webhook
from presence_bridge_client.models import AuthBasic, AuthBasicKind, Batch, WebhookCreate, WebhookUpdate

client = AuthenticatedClient(base_url=sys.argv[1], token=os.environ["BRIDGE_API_KEY"])
auth = AuthBasic(kind=AuthBasicKind.BASIC, username="bridge", password="not-a-real-secret")
batch = Batch(max_items=10, max_wait_ms=100, max_bytes=50_000)
wanted = WebhookCreate(url=sys.argv[2], timeout_ms=5000, batch=batch, auth=auth)
made = create_webhook.sync(client=client, body=wanted)
assert made.secret.startswith("whsec_") and isinstance(made.id, UUID), made
update_webhook.sync(made.id, client=client, body=WebhookUpdate(description="changed"))
read = get_webhook.sync(made.id, client=client)
assert (read.description, read.timeout_ms, read.batch, read.rate_limit) == ("changed", 5000, batch, None), read
assert made.id in [webhook.id for webhook in list_webhooks.sync(client=client).items]
agent = list_agents.sync(client=client).items[0]
assert (agent.id, agent.presence.system) == ("ann", "AVAILABLE"), agent
event = list_events.sync(client=client).items[0]
assert (event.agent.id, event.position > 0) == ("ann", True), event
assert list_sources.sync(client=client).items[0].health.state == "ok"
