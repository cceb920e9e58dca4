// Places an order with the client that openapi-generator makes for TypeScript's fetch.
import assert from "node:assert/strict";
import {
  Configuration, OrderServiceApi, OrderState, ProductServiceApi, ResponseError, SessionServiceApi, UserServiceApi,
} from "../clients/typescript-fetch";

const basePath = process.env.SOUK_URL;
const [email, password] = ["typescript-fetch@example.com", "correct horse"];

async function main() {
  const anyone = new Configuration({ basePath });
  await new UserServiceApi(anyone).userServiceRegister({ registerRequest: { email, password } });
  const session = await new SessionServiceApi(anyone).sessionServiceLogIn({ logInRequest: { email, password } });
  const configuration = new Configuration({ basePath, accessToken: session.accessToken });

  const listed = await new ProductServiceApi(configuration).productServiceListProducts({ pageSize: 1, filter: 'title:"Seed"' });
  const orders = new OrderServiceApi(configuration);
  const order = await orders.orderServicePlaceOrder({
    placeOrderRequest: {
      requestId: "typescript-fetch",
      items: [{ product: listed.products[0].name, quantity: "2" }],
      shippingAddress: { recipient: "Ann", addressLines: ["1 High Street"], regionCode: "GB" },
      paymentToken: "tok_approved",
    },
  });
  assert.equal(order.state, OrderState.ORDER_STATE_CONFIRMED);
  assert.equal(order.lines[0].quantity, "2");

  assert.deepEqual(await orders.orderServiceGetOrder({ order: order.name.replace("orders/", "") }), order);
  const mine = await orders.orderServiceListOrders();
  assert.deepEqual(mine.orders.map((one) => one.name), [order.name]);
  const refused = await orders.orderServiceGetOrder({ order: "ord_00000000000000000000000000" }).catch((error) => error);
  assert(refused instanceof ResponseError && refused.response.status === 403);
  assert.equal((await refused.response.json()).reason, "ACCESS_DENIED");
  console.log(`openapi-generator's TypeScript client placed ${order.name}`);
}

void main().catch((error) => {
  console.error(error);
  process.exit(1);
});
