// Places an order with the functions that orval makes.
import assert from "node:assert/strict";
import {
  orderServiceGetOrder, orderServiceListOrders, orderServicePlaceOrder, productServiceListProducts, sessionServiceLogIn,
  userServiceRegister,
} from "../clients/orval/souk";

const credentials = { email: "orval@example.com", password: "correct horse" };

async function main() {
  assert.equal((await userServiceRegister(credentials)).status, 200);
  const session = await sessionServiceLogIn(credentials);
  assert(session.status === 200);
  const signed = { headers: { authorization: `Bearer ${session.data.accessToken}` } };

  const listed = await productServiceListProducts({ pageSize: 1, filter: 'title:"Seed"' });
  assert(listed.status === 200);
  const placed = await orderServicePlaceOrder(
    {
      requestId: "orval",
      items: [{ product: listed.data.products[0].name, quantity: "2" }],
      shippingAddress: { recipient: "Ann", addressLines: ["1 High Street"], regionCode: "GB" },
      paymentToken: "tok_approved",
    },
    signed,
  );
  assert(placed.status === 200, JSON.stringify(placed.data));
  const order = placed.data;
  assert.equal(order.state, "STATE_CONFIRMED");
  assert.equal(order.lines[0].quantity, "2");

  assert.deepEqual((await orderServiceGetOrder(order.name.replace("orders/", ""), signed)).data, order);
  const mine = await orderServiceListOrders(undefined, signed);
  assert(mine.status === 200);
  assert.deepEqual(mine.data.orders.map((one) => one.name), [order.name]);
  const refused = await orderServiceGetOrder("ord_00000000000000000000000000", signed);
  assert(refused.status === 403 && refused.data.reason === "ACCESS_DENIED");
  console.log(`orval's client placed ${order.name}`);
}

void main().catch((error) => {
  console.error(error);
  process.exit(1);
});
