"""Reads our POSTs with libraries that receivers in Python use, as docs/webhooks.md says; fails if one behaves otherwise.

Usage: libraries.py FILE, a JSON object of POSTs by name, each {"secret", "headers", "body"} with the body in base64, and
"authorization", the header that a token server gets.
"""

import base64
import importlib.util
import json
import sys

import standardwebhooks.webhooks
import svix.webhooks
from authlib.oauth2.rfc6749.util import extract_basic_authorization
from cloudevents.core.bindings.http import HTTPMessage, from_binary, from_structured
from cloudevents.core.formats.json import JSONFormat

with open(sys.argv[1], encoding="utf-8") as file:
    told = json.load(file)


def post(name):
    told[name]["raw"] = base64.b64decode(told[name]["body"])
    return told[name]["secret"], told[name]["headers"], told[name]["raw"]


def refused(verifier, raw, headers):
    try:
        verifier.verify(raw, headers)
    except Exception as error:
        return "WebhookVerificationError" in type(error).__name__
    return False


# The official library verifies v1 only: enough if both are there, nothing if there is v1a alone.
secret, headers, raw = post("both")
assert standardwebhooks.webhooks.Webhook(secret).verify(raw, headers)["type"] == "presence.updated"
# svix 2 verifies and returns nothing; the body is parsed afterwards.
assert svix.webhooks.Webhook(secret).verify(raw, headers) is None
assert json.loads(raw)["type"] == "presence.updated"
secret, headers, raw = post("only_v1a")
assert refused(standardwebhooks.webhooks.Webhook(secret), raw, headers)

# cloudevents 2 has another module, reads both forms of one event, and no batch: each item is read by itself.
assert importlib.util.find_spec("cloudevents.http") is None
_, headers, raw = post("structured")
event = from_structured(HTTPMessage(headers, raw), JSONFormat())
assert event.get_type() == "presence.updated" and event.get_data()["agent"]["id"] == "ann"
_, headers, raw = post("binary")
event = from_binary(HTTPMessage(headers, raw), JSONFormat())
assert event.get_subject() == "ann" and event.get_data()["agent"]["id"] == "ann"
headers["ce-subject"] = "J%C3%BCrgen"
assert from_binary(HTTPMessage(headers, raw), JSONFormat()).get_subject() == "Jürgen"
_, headers, raw = post("batch")
try:
    from_structured(HTTPMessage(headers, raw), JSONFormat())
    sys.exit("cloudevents reads batches now")
except Exception:
    pass
for item in json.loads(raw):
    event = from_structured(HTTPMessage({}, json.dumps(item).encode()), JSONFormat())
    assert event.get_data()["agent"]["id"] == "ann"

# Authlib takes a + for a plus, and %20 for a blank.
assert extract_basic_authorization({"Authorization": told["authorization"]}) == ("us & them", "s:ecret ß")
