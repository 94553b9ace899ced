// npm install standardwebhooks
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const verifier = new Webhook(process.env.WEBHOOK_SECRET);

createServer(async (request, response) => {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const body = Buffer.concat(pieces); // the bytes as they came, before any parsing
  let event;
  try {
    event = verifier.verify(body, request.headers);
  } catch {
    response.writeHead(401).end();
    return;
  }
  // Drop ids that you have seen: a POST may come twice.
  console.log(request.headers["webhook-id"], JSON.stringify(event));
  response.writeHead(204).end();
}).listen(process.env.PORT ?? 8080);
