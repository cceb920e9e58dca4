"""Verifies webhooks as a receiver would, by the `standardwebhooks` package from PyPI.

Reads a JSON object a line: `secret`, `headers` and `body`. Answers each with a line: `true`, or why it is refused.
"""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

for line in sys.stdin:
    request = json.loads(line)
    try:
        payload = Webhook(request["secret"]).verify(request["body"], request["headers"])
        assert set(payload) == {"type", "timestamp", "data"}, payload
        print("true", flush=True)
    except WebhookVerificationError as error:
        print(f"refused: {error}", flush=True)
