"""What .ci/schemathesis knows of souk beyond its OpenAPI document: names of what there is, and what a JSON Schema
cannot say."""

import json
import os
import pathlib
import re

import jsonschema_rs
import schemathesis
from hypothesis import strategies
from schemathesis.core.parameters import ParameterLocation

# .ci/schemathesis keeps it where it runs.
DOCUMENT = json.loads(pathlib.Path("openapi.json").read_text())
NAMES = json.loads(os.environ.get("SOUK_NAMES", "{}"))
ID = re.compile(r"^(products|orders|users|locations|reservations)/[a-z]+_")

# A whole number as text.
WHOLE = re.compile(r"^-?[0-9]+(\.0*)?([eE]\+?[0-9])?$")

# Fields with a rule that no JSON Schema can tell, by what the rule is about.
UNSAID = {
    # Languages of their own (AIP-158, AIP-160, AIP-132, AIP-161).
    "page_token",
    "filter",
    "order_by",
    "update_mask",
    # What a currency allows: which there are, how fine, not below zero.
    "product.price",
    "product.price.units",
    "product.price.nanos",
    "product.price.currency_code",
    "items[].unit_price",
    "expected_total",
    # Characters are counted once a password is composed.
    "password",
    "new_password",
    # No more money than was taken.
    "amount",
    "amount.units",
    "amount.nanos",
    "amount.currency_code",
    # One of two must be given; what the mask names must not be empty.
    "names",
    "product.title",
    "user.email",
    # For staff alone; a product that is on sale.
    "user.external_id",
    "items[].product",
    # Each product, line or place once, and what there is of a line.
    "items[]",
    "items[].line_number",
    "items[].quantity",
    # Another place than the source; an address that webhooks can be sent to.
    "destination",
    "webhook_endpoint.url",
    # Needed only where pieces are named; one that the header gives has no schema of the field's.
    "request_id",
    # Of a body that may be anything: an empty one is none.
    "body",
    # Not in the future.
    "place_time",
    "return_time",
    "read_time",
}
# Reasons of a state that does not allow what was asked.
STATES = {
    "OUT_OF_STOCK",
    "STATE_CONFLICT",
    "PRODUCT_ARCHIVED",
    "TOTAL_CHANGED",
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
    errors = problem.get("errors") or [{"field": ""}]
    fields = {re.sub(r"\[[0-9]+\]", "[]", error["field"]) for error in errors}
    assert fields <= UNSAID, f"{problem['reason']}: {problem['detail']} ({sorted(fields - UNSAID)})"


def resolved(schema):
    while isinstance(schema, dict) and "$ref" in schema:
        found = DOCUMENT
        for key in schema["$ref"].removeprefix("#/").split("/"):
            found = found[key.replace("~1", "/").replace("~0", "~")]
        schema = found
    return schema if isinstance(schema, dict) else {}


def as_told(value, schema):
    """A value in the one form that the document tells, where it has another that proto3 JSON reads as well."""
    schema = resolved(schema)
    for choice in schema.get("anyOf", []):
        value = as_told(value, choice)
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        return {key: as_told(inner, properties.get(key, others)) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_told(inner, schema.get("items", {})) for inner in value]
    if whole and "enum" in schema and "string" in types:
        return schema["enum"][-1]
    if whole and schema.get("format") in ("int64", "uint64") and "string" in types:
        return str(int(value))
    if isinstance(value, str) and schema.get("format") in ("int32", "uint32") and WHOLE.match(value):
        return int(float(value))
    return value


@schemathesis.hook
def filter_case(context, case):
    """Leaves out bodies that are wrong only by a form which proto3 JSON reads and the document does not tell: a number
    of an enum, 64 bits as a number, 32 bits as text. They are accepted, and have tests of their own."""
    if case.meta is None or not case.meta.is_negative_at(ParameterLocation.BODY):
        return True
    operation = DOCUMENT["paths"][case.operation.path][case.operation.method.lower()]
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if schema is None or not isinstance(case.body, (dict, list)):
        return True
    told = as_told(case.body, schema)
    if told == case.body:
        return True
    try:
        return not jsonschema_rs.Draft202012Validator({**DOCUMENT, **schema}).is_valid(told)
    except ValueError:
        return True


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
