"""Places an order with the client that openapi-generator makes for Python."""

import json
import os

import souk_generated as souk
from souk_generated.exceptions import ForbiddenException

EMAIL, PASSWORD = "openapi-generator-python@example.com", "correct horse"

configuration = souk.Configuration(host=os.environ["SOUK_URL"])
client = souk.ApiClient(configuration)
souk.UserServiceApi(client).user_service_register(souk.RegisterRequest(email=EMAIL, password=PASSWORD))
session = souk.SessionServiceApi(client).session_service_log_in(souk.LogInRequest(email=EMAIL, password=PASSWORD))
configuration.access_token = session.access_token

[product] = souk.ProductServiceApi(client).product_service_list_products(page_size=1, filter='title:"Seed"').products
orders = souk.OrderServiceApi(client)
order = orders.order_service_place_order(
    souk.PlaceOrderRequest(
        requestId="openapi-generator-python",
        items=[souk.PlaceOrderRequestItem(product=product.name, quantity="2")],
        shippingAddress=souk.AddressInput(recipient="Ann", addressLines=["1 High Street"], regionCode="GB"),
        paymentToken="tok_approved",
    )
)
assert order.state == souk.OrderState.ORDER_STATE_CONFIRMED, order
assert order.lines[0].quantity == "2", order

assert orders.order_service_get_order(order.name.removeprefix("orders/")) == order
assert [one.name for one in orders.order_service_list_orders().orders] == [order.name]
try:
    orders.order_service_get_order("ord_00000000000000000000000000")
    raise AssertionError("another's order was answered")
except ForbiddenException as refused:
    assert json.loads(refused.body or "")["reason"] == "ACCESS_DENIED", refused
print(f"openapi-generator's Python client placed {order.name}")
