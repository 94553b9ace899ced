"""Uses the Python client that openapi-generator made: registers, changes, lists and reads a webhook, reads the lists."""

import os
import sys

import bridge_client
from bridge_client import AgentsApi, EventsApi, SourcesApi, WebhooksApi
from bridge_client.models import AccessFieldsAuth, AuthBasic, Batch, WebhookCreate, WebhookUpdate

client = bridge_client.ApiClient(
    bridge_client.Configuration(host=sys.argv[1], access_token=os.environ["BRIDGE_API_KEY"])
)
webhooks = WebhooksApi(client)
auth = AccessFieldsAuth(AuthBasic(kind="basic", username="bridge", password="not-a-real-secret"))
batch = Batch(max_items=10, max_wait_ms=100, max_bytes=50_000)
wanted = WebhookCreate(url=sys.argv[2], timeout_ms=5000, batch=batch, auth=auth)
made = webhooks.create_webhook(wanted)
assert made.secret.startswith("whsec_"), made
webhooks.update_webhook(made.id, WebhookUpdate(description="changed"))
read = webhooks.get_webhook(made.id)
assert (read.description, read.timeout_ms, read.batch, read.rate_limit) == ("changed", 5000, batch, None), read
assert made.id in [webhook.id for webhook in webhooks.list_webhooks().items]
agent = AgentsApi(client).list_agents().items[0]
assert (agent.id, agent.presence.system) == ("ann", "AVAILABLE"), agent
event = EventsApi(client).list_events().items[0]
assert (event.agent.id, event.position > 0) == ("ann", True), event
assert SourcesApi(client).list_sources().items[0].health.state == "ok"
