// Uses the TypeScript client that openapi-generator made: registers, changes, lists and reads a webhook, reads the lists.
import { AgentsApi, Configuration, EventsApi, SourcesApi, WebhooksApi } from './client';

declare const process: { argv: string[]; env: Record<string, string> };

function same(found: unknown, wanted: unknown) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) throw new Error(`${JSON.stringify(found)} is not ${JSON.stringify(wanted)}`);
}

async function main() {
  const [, , basePath, url] = process.argv;
  const configuration = new Configuration({ basePath, accessToken: process.env.BRIDGE_API_KEY });
  const webhooks = new WebhooksApi(configuration);
  const auth = { kind: 'basic', username: 'bridge', password: 'not-a-real-secret' } as const;
  const batch = { maxItems: 10, maxWaitMs: 100, maxBytes: 50000 };
  const made = await webhooks.createWebhook({ webhookCreate: { url, timeoutMs: 5000, batch, auth } });
  same(made.secret.startsWith('whsec_'), true);
  await webhooks.updateWebhook({ id: made.id, webhookUpdate: { description: 'changed' } });
  const read = await webhooks.getWebhook({ id: made.id });
  same([read.description, read.timeoutMs, read.batch, read.rateLimit, read.auth.kind], ['changed', 5000, batch, null, 'basic']);
  same((await webhooks.listWebhooks({})).items.some((webhook) => webhook.id === made.id), true);
  const agent = (await new AgentsApi(configuration).listAgents({})).items[0];
  same([agent?.id, agent?.presence?.system], ['ann', 'AVAILABLE']);
  const event = (await new EventsApi(configuration).listEvents({})).items[0];
  same([event?.agent.id, typeof event?.position], ['ann', 'number']);
  same((await new SourcesApi(configuration).listSources({})).items[0]?.health.state, 'ok');
}

void main();
