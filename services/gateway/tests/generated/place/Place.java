import java.util.List;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.OrderServiceApi;
import org.openapitools.client.api.ProductServiceApi;
import org.openapitools.client.api.SessionServiceApi;
import org.openapitools.client.api.UserServiceApi;
import org.openapitools.client.model.AddressInput;
import org.openapitools.client.model.LogInRequest;
import org.openapitools.client.model.Order;
import org.openapitools.client.model.OrderState;
import org.openapitools.client.model.PlaceOrderRequest;
import org.openapitools.client.model.PlaceOrderRequestItem;
import org.openapitools.client.model.RegisterRequest;

/** Places an order with the client that openapi-generator makes for Java. */
public class Place {
  private static final String EMAIL = "openapi-generator-java@example.com";
  private static final String PASSWORD = "correct horse";

  private static void check(boolean right, Object what) {
    if (!right) throw new AssertionError(what);
  }

  public static void main(String[] arguments) throws ApiException {
    ApiClient client = new ApiClient();
    client.updateBaseUri(System.getenv("SOUK_URL"));
    new UserServiceApi(client).userServiceRegister(new RegisterRequest().email(EMAIL).password(PASSWORD));
    LogInRequest logIn = new LogInRequest().email(EMAIL).password(PASSWORD);
    String token = new SessionServiceApi(client).sessionServiceLogIn(logIn).getAccessToken();
    client.setRequestInterceptor(request -> request.header("authorization", "Bearer " + token));

    String product = new ProductServiceApi(client)
        .productServiceListProducts(1, null, "title:\"Seed\"", null, null, null).getProducts().get(0).getName();
    OrderServiceApi orders = new OrderServiceApi(client);
    PlaceOrderRequest request = new PlaceOrderRequest()
        .requestId("openapi-generator-java")
        .items(List.of(new PlaceOrderRequestItem().product(product).quantity("2")))
        .shippingAddress(new AddressInput().recipient("Ann").addressLines(List.of("1 High Street")).regionCode("GB"))
        .paymentToken("tok_approved");
    Order order = orders.orderServicePlaceOrder(request, null);
    check(order.getState() == OrderState.ORDER_STATE_CONFIRMED, order);
    check(order.getLines().get(0).getQuantity().equals("2"), order);

    Order again = orders.orderServiceGetOrder(order.getName().replace("orders/", ""), null);
    check(again.equals(order), again);
    try {
      orders.orderServiceGetOrder("ord_00000000000000000000000000", null);
      throw new AssertionError("another's order was answered");
    } catch (ApiException refused) {
      check(refused.getCode() == 403 && refused.getResponseBody().contains("ACCESS_DENIED"), refused);
    }
    System.out.println("openapi-generator's Java client placed " + order.getName());
  }
}
