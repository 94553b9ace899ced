"""Verifies a POST with the official Standard Webhooks library; fails if it is refused.

Usage: verify.py FILE, a JSON file {"secret", "headers", "body"} with the body in base64.
"""

import base64
import json
import sys

from standardwebhooks.webhooks import Webhook

with open(sys.argv[1], encoding="utf-8") as file:
    post = json.load(file)
Webhook(post["secret"]).verify(base64.b64decode(post["body"]), post["headers"])
