// Places an order with the client that openapi-generator makes for Go.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	souk "souk/generated/clients/go"
)

const email, password = "openapi-generator-go@example.com", "correct horse"

func check(right bool, what any) {
	if !right {
		fmt.Fprintln(os.Stderr, what)
		os.Exit(1)
	}
}

func main() {
	configuration := souk.NewConfiguration()
	configuration.Servers[0].URL = os.Getenv("SOUK_URL")
	client := souk.NewAPIClient(configuration)
	anyone := context.Background()
	register := souk.NewRegisterRequest(email, password)
	_, _, err := client.UserServiceAPI.UserServiceRegister(anyone).RegisterRequest(*register).Execute()
	check(err == nil, err)
	logIn := souk.NewLogInRequest(email, password)
	session, _, err := client.SessionServiceAPI.SessionServiceLogIn(anyone).LogInRequest(*logIn).Execute()
	check(err == nil, err)
	me := context.WithValue(anyone, souk.ContextAccessToken, session.GetAccessToken())

	products := client.ProductServiceAPI.ProductServiceListProducts(me).PageSize(1).Filter(`title:"Seed"`)
	listed, _, err := products.Execute()
	check(err == nil, err)
	item := souk.NewPlaceOrderRequestItem(listed.Products[0].Name, "2")
	address := souk.NewAddressInput("Ann", "GB")
	address.AddressLines = []string{"1 High Street"}
	request := souk.NewPlaceOrderRequest([]souk.PlaceOrderRequestItem{*item}, "tok_approved", "go", *address)
	orders := client.OrderServiceAPI
	order, _, err := orders.OrderServicePlaceOrder(me).PlaceOrderRequest(*request).Execute()
	check(err == nil, err)
	check(order.State == souk.ORDER_STATE_CONFIRMED, order)
	check(order.Lines[0].Quantity == "2", order)

	again, _, err := orders.OrderServiceGetOrder(me, strings.TrimPrefix(order.Name, "orders/")).Execute()
	check(err == nil && again.Etag == order.Etag, err)
	mine, _, err := orders.OrderServiceListOrders(me).Execute()
	check(err == nil && len(mine.Orders) == 1 && mine.Orders[0].Name == order.Name, err)
	_, response, err := orders.OrderServiceGetOrder(me, "ord_00000000000000000000000000").Execute()
	check(err != nil && response.StatusCode == 403, response)
	var problem souk.Problem
	err = json.NewDecoder(response.Body).Decode(&problem)
	check(err == nil && problem.Reason == "ACCESS_DENIED", problem)
	fmt.Println("openapi-generator's Go client placed", order.Name)
}
