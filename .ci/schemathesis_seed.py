"""Fills a running souk for .ci/schemathesis: a customer, products with stock, orders. Prints shell variables."""

import json
import pathlib
import shlex
import sys
import urllib.request

data = pathlib.Path(sys.argv[1])
url = json.loads((data / "running.json").read_text())["gateway"]


def call(path, body=None, token=None):
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, content, headers), timeout=30) as answer:
        return json.load(answer)


def log_in(credentials):
    return call("/v1/sessions:logIn", credentials)["accessToken"]


admin = log_in(json.loads((data / "admin.json").read_text()))
ann = {"email": "ann@example.com", "password": "correct horse"}
user = call("/v1/users:register", ann)
customer = log_in(ann)

products = []
for number in range(4):
    price = {"currencyCode": "EUR", "units": str(number + 1), "nanos": 500_000_000}
    product = {"sku": f"SEED-{number}", "title": f"Seed {number}", "price": price}
    products.append(call("/v1/products", product, admin)["name"])
items = [{"product": name, "quantity": "100000"} for name in products]
call("/v1/stock:adjust", {"requestId": "seed", "reason": "REASON_RECEIPT", "items": items}, admin)

orders = []
for number in range(4):
    order = {
        "requestId": f"seed-{number}",
        "items": [{"product": products[number], "quantity": "2"}],
        "shippingAddress": {"recipient": "Ann", "addressLines": ["1 High Street"], "regionCode": "GB"},
        "paymentToken": "tok_approved",
    }
    orders.append(call("/v1/orders", order, customer)["name"])

names = {
    "products": products,
    "orders": orders,
    "users": [user["name"]],
    "locations": [place["name"] for place in call("/v1/locations", token=admin)["locations"]],
    "reservations": [order.replace("orders/ord_", "reservations/res_") for order in orders],
}
variables = {"URL": url, "ADMIN": admin, "CUSTOMER": customer, "NAMES": json.dumps(names)}
for name, value in variables.items():
    print(f"export SOUK_{name}={shlex.quote(value)}")
