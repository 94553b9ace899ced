// Reads our POSTs with libraries that receivers in JavaScript use, as docs/webhooks.md says; fails if one behaves otherwise.
// Usage: libraries.js FILE, as libraries.py has it. The libraries are found through NODE_PATH.

const assert = require("node:assert");
const { readFileSync } = require("node:fs");
const { Webhook } = require("standardwebhooks");
const { HTTP } = require("cloudevents");

const told = JSON.parse(readFileSync(process.argv[2], "utf8"));
const body = (name) => Buffer.from(told[name].body, "base64");
const verify = (name) => new Webhook(told[name].secret).verify(body(name), told[name].headers);

// The official library verifies v1 only: enough if both are there, nothing if there is v1a alone.
assert.equal(verify("both").type, "presence.updated");
assert.throws(() => verify("only_v1a"), { name: "WebhookVerificationError" });

const read = (name, headers = {}) =>
  HTTP.toEvent({ headers: { ...told[name].headers, ...headers }, body: body(name).toString() });
assert.equal(read("structured").data.agent.id, "ann");
assert.deepEqual(read("batch").map((event) => event.data.agent.id), ["ann"]);
assert.equal(read("binary").data.agent.id, "ann");
// cloudevents 10 leaves percent-encoding as it is: decode what is read from headers.
const subject = read("binary", { "ce-subject": "J%C3%BCrgen" }).subject;
assert.equal(subject, "J%C3%BCrgen");
assert.equal(decodeURIComponent(subject), "Jürgen");
