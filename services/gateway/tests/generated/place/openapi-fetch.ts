// Places an order with openapi-fetch, by the types that openapi-typescript makes.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "../clients/openapi-typescript/souk";

const client = createClient<paths>({ baseUrl: process.env.SOUK_URL });
const credentials = { email: "openapi-fetch@example.com", password: "correct horse" };

async function main() {
  const registered = await client.POST("/v1/users:register", { body: credentials });
  assert.equal(registered.error, undefined);
  const session = await client.POST("/v1/sessions:logIn", { body: credentials });
  const token = session.data?.accessToken;
  client.use({
    onRequest({ request }) {
      request.headers.set("authorization", `Bearer ${token}`);
      return request;
    },
  });

  const listed = await client.GET("/v1/products", { params: { query: { pageSize: 1, filter: 'title:"Seed"' } } });
  const { data: order, error } = await client.POST("/v1/orders", {
    body: {
      requestId: "openapi-fetch",
      items: [{ product: listed.data!.products[0].name, quantity: "2" }],
      shippingAddress: { recipient: "Ann", addressLines: ["1 High Street"], regionCode: "GB" },
      paymentToken: "tok_approved",
    },
  });
  assert(order, JSON.stringify(error));
  assert.equal(order.state, "STATE_CONFIRMED");
  assert.equal(order.lines[0].quantity, "2");

  const path = { order: order.name.replace("orders/", "") };
  assert.deepEqual((await client.GET("/v1/orders/{order}", { params: { path } })).data, order);
  const mine = await client.GET("/v1/orders");
  assert.deepEqual(mine.data?.orders.map((one) => one.name), [order.name]);
  const nowhere = { order: "ord_00000000000000000000000000" };
  const refused = await client.GET("/v1/orders/{order}", { params: { path: nowhere } });
  assert.equal(refused.error?.reason, "ACCESS_DENIED");
  console.log(`openapi-fetch placed ${order.name}`);
}

void main().catch((error) => {
  console.error(error);
  process.exit(1);
});
