// Verifies a POST with the official Standard Webhooks library; fails if it is refused.
// Usage: verify.js FILE, a JSON file {"secret", "headers", "body"} with the body in base64.
// The library is found through NODE_PATH.

const { readFileSync } = require("node:fs");
const { Webhook } = require("standardwebhooks");

const post = JSON.parse(readFileSync(process.argv[2], "utf8"));
new Webhook(post.secret).verify(Buffer.from(post.body, "base64"), post.headers);
