"""Places an order with the client that openapi-python-client makes."""

import os

from souk_client import AuthenticatedClient, Client
from souk_client.api.order_service import order_service_get_order, order_service_list_orders, order_service_place_order
from souk_client.api.product_service import product_service_list_products
from souk_client.api.session_service import session_service_log_in
from souk_client.api.user_service import user_service_register
from souk_client.models import (
    AddressInput,
    ListOrdersResponse,
    ListProductsResponse,
    LogInRequest,
    Order,
    OrderState,
    PlaceOrderRequest,
    PlaceOrderRequestItem,
    Problem,
    RegisterRequest,
    Session,
    User,
)

URL = os.environ["SOUK_URL"]
EMAIL, PASSWORD = "openapi-python-client@example.com", "correct horse"

anyone = Client(base_url=URL)
registered = user_service_register.sync(client=anyone, body=RegisterRequest(email=EMAIL, password=PASSWORD))
assert isinstance(registered, User), registered
session = session_service_log_in.sync(client=anyone, body=LogInRequest(email=EMAIL, password=PASSWORD))
assert isinstance(session, Session), session
client = AuthenticatedClient(base_url=URL, token=session.access_token)

listed = product_service_list_products.sync(client=client, page_size=1, filter_='title:"Seed"')
assert isinstance(listed, ListProductsResponse), listed
[product] = listed.products
request = PlaceOrderRequest(
    request_id="openapi-python-client",
    items=[PlaceOrderRequestItem(product=product.name, quantity="2")],
    shipping_address=AddressInput(recipient="Ann", address_lines=["1 High Street"], region_code="GB"),
    payment_token="tok_approved",
)
order = order_service_place_order.sync(client=client, body=request)
assert isinstance(order, Order), order
assert order.state == OrderState.ORDER_STATE_CONFIRMED, order
assert order.lines[0].quantity == "2", order

again = order_service_get_order.sync(order.name.removeprefix("orders/"), client=client)
assert again == order, again
mine = order_service_list_orders.sync(client=client)
assert isinstance(mine, ListOrdersResponse) and [one.name for one in mine.orders] == [order.name], mine
refused = order_service_get_order.sync("ord_00000000000000000000000000", client=client)
assert isinstance(refused, Problem) and refused.reason == "ACCESS_DENIED", refused
print(f"openapi-python-client placed {order.name}")
