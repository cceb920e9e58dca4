"""What .ci/schemathesis knows of souk beyond its OpenAPI document: names of what there is, and what a JSON Schema
cannot say."""

import json
import os
import re

import schemathesis
from hypothesis import strategies

NAMES = json.loads(os.environ.get("SOUK_NAMES", "{}"))
ID = re.compile(r"^(products|orders|users|locations|reservations)/[a-z]+_")

# Fields with a rule that no JSON Schema can tell, by the last part of their paths.
UNSAID = {
    # Languages of their own (AIP-158, AIP-160, AIP-132, AIP-161).
    "page_token",
    "filter",
    "order_by",
    "update_mask",
    # What a currency allows: which there are, how fine, not below zero; no more than there is to give.
    "price",
    "unit_price",
    "amount",
    "units",
    "nanos",
    "currency_code",
    # One of two must be given; what the mask names must not be empty.
    "names",
    "title",
    "email",
    # Told apart by name and number alike, of which JSON Schema knows nothing.
    "roles",
    # For staff alone.
    "external_id",
    # What there is: a product on sale, a line of the order, pieces that are left of it, a place; each of them once, and
    # another place than the source. An address that webhooks can be sent to.
    "product",
    "line_number",
    "quantity",
    "location",
    "destination",
    "items",
    "lines",
    "url",
    # Needed only where pieces are named; one that the header gives has no schema of the field's.
    "request_id",
    # Not in the future.
    "place_time",
    "return_time",
    "ship_time",
    "read_time",
}
# Reasons of a state that does not allow what was asked.
STATES = {
    "OUT_OF_STOCK",
    "STATE_CONFLICT",
    "PRODUCT_ARCHIVED",
    "PAYMENT_DECLINED",
    "IDEMPOTENCY_KEY_REUSED",
    "PAGE_TOKEN_INVALID",
    "ETAG_MISMATCH",
}

schemathesis.openapi.format("iso-4217", strategies.sampled_from(["EUR", "USD", "JPY", "KWD"]))


def is_positive(case):
    return case.meta is not None and case.meta.generation.mode.is_positive


@schemathesis.check
def refused_for_a_reason(ctx, response, case):
    """A request that keeps to the document is refused only for its state, or by a rule that is no schema's."""
    if not is_positive(case) or response.status_code not in (400, 412, 422):
        return
    problem = response.json()
    if problem["reason"] in STATES:
        return
    errors = problem.get("errors", [])
    # Of every text that people read, and said by the services alone.
    errors = [error for error in errors if "control characters" not in error["detail"]] if errors else [{"field": ""}]
    fields = {re.sub(r"\[[0-9]+\]$", "", error["field"]).split(".")[-1] for error in errors}
    assert fields <= UNSAID, f"{problem['reason']}: {problem['detail']} ({sorted(fields - UNSAID)})"


def real(value, pick):
    """Puts names of what there is in the place of made-up ones."""
    if isinstance(value, dict):
        return {key: real(inner, pick) for key, inner in value.items()}
    if isinstance(value, list):
        return [real(inner, pick) for inner in value]
    if isinstance(value, str) and (found := ID.match(value)):
        known = NAMES.get(found[1], [])
        return known[pick % len(known)] if known else value
    return value


@schemathesis.hook
def before_call(context, case, kwargs):
    """Made-up ids lead nowhere: half of the valid requests are about something that is there."""
    if not is_positive(case):
        return
    headers = case.headers or {}
    # A schema cannot say that header and field must be the same, nor what the etag is.
    if "Idempotency-Key" in headers and isinstance(case.body, dict) and "requestId" in case.body:
        headers["Idempotency-Key"] = case.body["requestId"]
    headers.pop("If-Match", None)
    pick = sum(case.id.encode())
    if case.meta.phase.name.value == "stateful" or pick % 2:
        return
    pick //= 2
    for name, value in (case.path_parameters or {}).items():
        known = NAMES.get(f"{name}s", [])
        if known and isinstance(value, str):
            case.path_parameters[name] = known[pick % len(known)].split("/", 1)[1]
    if isinstance(case.body, (dict, list)):
        case.body = real(case.body, pick)
    for name, value in list((case.query or {}).items()):
        case.query[name] = real(value, pick)
