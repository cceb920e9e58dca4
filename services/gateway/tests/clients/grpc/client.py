"""gRPC's C-core (Python, C++, Ruby, C#) as a client: `client.py GATEWAY SOUK INVENTORY FILE FILE USERS ORDERS`, addresses of
a gateway before the echo service, of souk's gateway, and of its services. Messages come from reflection alone, so the
files of descriptors, which others need, are not read. Prints `gone WATCHER` where a stream was cancelled, and waits for a
line on standard input. Ends with 0 where everything is as it must be."""

import sys
import threading
import traceback

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

ECHO = "souk.test.v1.EchoService"
PRODUCTS = "souk.inventory.v1.ProductService"
LONG = 20
CASES = []


def case(function):
    CASES.append((function.__name__.replace("_", " "), function))


class Server:
    """A server that is known by reflection."""

    def __init__(self, address, options=(), compression=None):
        self.channel = grpc.insecure_channel(address, options, compression)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = DescriptorPool(self.database)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def message(self, type_name, /, **fields):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(type_name))(**fields)

    def call(self, service, method):
        found = self.pool.FindServiceByName(service).FindMethodByName(method)
        client, server = found.client_streaming, found.server_streaming
        kind = ("stream" if client else "unary") + "_" + ("stream" if server else "unary")
        return getattr(self.channel, kind)(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(found.output_type).FromString,
        )


def named(name, **more):
    return gateway.message("souk.test.v1.Request", name=name, **more)


def failure(call):
    """The error that a call ends in, and its details by their name."""
    try:
        ended = call()
        if hasattr(ended, "__next__"):
            for _ in ended:
                pass
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        found = {}
        for detail in status.details if status else ():
            name = detail.TypeName().rsplit(".", 1)[-1]
            found[name] = getattr(error_details_pb2, name)()
            detail.Unpack(found[name])
        return error, found
    raise AssertionError("the call went well")


def fails(call, code, reason):
    error, details = failure(call)
    assert error.code() == code, f"{error.code()} {error.details()}"
    info = details["ErrorInfo"]
    assert (info.domain, info.reason) == ("souk", reason), info
    return error, details


@case
def unary_with_metadata():
    call = gateway.call(ECHO, "Get")
    reply, ended = call.with_call(named("things/1"), timeout=LONG, metadata=[("x-request-id", "python-1"), ("x-own", "1")])
    assert reply.request.name == "things/1"
    assert ("x-request-id", "python-1") in [(entry.key, entry.value) for entry in ended.initial_metadata()]
    assert reply.headers["x-request-id"] == "python-1" and "x-own" not in reply.headers, reply.headers
    assert ended.code() == grpc.StatusCode.OK


@case
def an_error_of_the_service_with_its_details():
    call = gateway.call(ECHO, "Fail")
    error, details = fails(
        lambda: call(named("out-of-stock"), timeout=LONG), grpc.StatusCode.FAILED_PRECONDITION, "OUT_OF_STOCK"
    )
    assert error.details() == "only 3 left", error.details()
    assert details["ErrorInfo"].metadata["available"] == "3"
    assert details["PreconditionFailure"].violations[0].subject == "things/1"


@case
def every_code_comes_through():
    call = gateway.call(ECHO, "Fail")
    for code in grpc.StatusCode:
        if code != grpc.StatusCode.OK:
            error, _ = failure(lambda: call(named(str(code.value[0])), timeout=LONG))
            assert error.code() == code, f"{code}: {error.code()} {error.details()}"


@case
def errors_of_the_gateway():
    unauthenticated = grpc.StatusCode.UNAUTHENTICATED
    call = gateway.call(ECHO, "SignedIn")
    fails(lambda: call(named(""), timeout=LONG), unauthenticated, "TOKEN_MISSING")
    token = [("authorization", "Bearer nonsense")]
    fails(lambda: call(named(""), timeout=LONG, metadata=token), unauthenticated, "TOKEN_INVALID")
    unknown = gateway.channel.unary_unary(f"/{ECHO}/Nothing")
    fails(lambda: unknown(b"", timeout=LONG), grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")


@case
def deadlines():
    late, _ = failure(lambda: gateway.call(ECHO, "Fail")(named("wait"), timeout=0.3))
    assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED, late.code()
    endless = gateway.message("souk.test.v1.FollowRequest", until=1_000_000, pause_millis=20)
    late, _ = failure(lambda: gateway.call(ECHO, "Follow")(endless, timeout=0.3))
    assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED, late.code()


@case
def a_stream_and_its_late_error():
    assert len(list(gateway.call(ECHO, "Watch")(named("x"), timeout=LONG))) == 3
    numbers = []

    def follow():
        request = gateway.message("souk.test.v1.FollowRequest", after=1, until=4, pause_millis=10, then="out-of-stock")
        for tick in gateway.call(ECHO, "Follow")(request, timeout=LONG):
            numbers.append(tick.number)

    error, _ = fails(follow, grpc.StatusCode.FAILED_PRECONDITION, "OUT_OF_STOCK")
    assert numbers == [2, 3, 4] and error.details() == "only 3 left", numbers


@case
def a_cancelled_stream_ends_at_the_service():
    request = gateway.message("souk.test.v1.FollowRequest", until=1_000_000, pause_millis=10, watcher="python")
    ticks = gateway.call(ECHO, "Follow")(request, timeout=LONG)
    assert next(ticks).number == 1
    ticks.cancel()
    print("gone python", flush=True)
    assert sys.stdin.readline() == "gone\n"


@case
def both_sides_stream():
    turn, sent = threading.Semaphore(1), iter(range(20))

    def messages():
        for number in sent:
            turn.acquire()
            yield named(str(number))

    for number, reply in enumerate(gateway.call(ECHO, "Chat")(messages(), timeout=LONG)):
        assert reply.request.name == str(number)
        turn.release()
    assert number == 19


@case
def large_messages():
    call = gateway.call(ECHO, "Get")
    large = "x" * (3 << 20)
    assert call(named(large), timeout=LONG).request.name == large
    _, details = fails(
        lambda: call(named("x" * (5 << 20)), timeout=LONG), grpc.StatusCode.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE"
    )
    assert details["ErrorInfo"].metadata["limitBytes"] == str(4 << 20)


@case
def compressed_requests():
    gzip, deflate = grpc.Compression.Gzip, grpc.Compression.Deflate
    for method in ("Get", "Watch", "Chat"):
        call, request = gateway.call(ECHO, method), named("things/packed" * 100)
        if method == "Get":
            replies = [call(request, timeout=LONG, compression=gzip)]
        else:
            replies = list(call(iter([request]) if method == "Chat" else request, timeout=LONG, compression=gzip))
        assert replies and all(reply.request.name == request.name for reply in replies), method
    # Much when it is inflated, and little on the wire.
    bomb = named("x" * (8 << 20))
    too_large = grpc.StatusCode.RESOURCE_EXHAUSTED
    fails(lambda: gateway.call(ECHO, "Get")(bomb, timeout=LONG, compression=gzip), too_large, "BODY_TOO_LARGE")
    error, _ = failure(lambda: gateway.call(ECHO, "Get")(named("x" * 1000), timeout=LONG, compression=deflate))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error.code()


@case
def health_and_reflection():
    for server, service in ((gateway, ECHO), (souk, PRODUCTS), (inventory, PRODUCTS)):
        assert service in server.database.get_services()
        serving = health_pb2.HealthCheckResponse.SERVING
        assert server.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=LONG).status == serving
        watched = server.health.Watch(health_pb2.HealthCheckRequest(), timeout=LONG)
        assert next(watched).status == serving
        watched.cancel()
        unknown = health_pb2.HealthCheckRequest(service="no.Such")
        error, _ = failure(lambda: server.health.Check(unknown, timeout=LONG))
        assert error.code() == grpc.StatusCode.NOT_FOUND, error.code()


@case
def souk_through_the_gateway_and_at_a_service():
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    for server in (souk, inventory):
        get, request = server.call(PRODUCTS, "GetProduct"), "souk.inventory.v1.GetProductRequest"
        _, details = fails(lambda: get(server.message(request, name="products/x"), timeout=LONG), invalid, "FIELD_INVALID")
        assert details["BadRequest"].field_violations[0].field == "name"
        nothing = server.message(request, name="products/prd_" + 26 * "0")
        fails(lambda: get(nothing, timeout=LONG, compression=grpc.Compression.Gzip), missing, "RESOURCE_NOT_FOUND")
        products = server.call(PRODUCTS, "ListProducts")
        request = server.message("souk.inventory.v1.ListProductsRequest", page_size=5)
        for compression in (None, grpc.Compression.Gzip):
            assert len(products(request, timeout=LONG, compression=compression).products) == 0
        watch = server.call("souk.inventory.v1.StockService", "WatchStock")
        request = server.message("souk.inventory.v1.WatchStockRequest")
        fails(lambda: watch(request, timeout=LONG), grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")


@case
def every_service_by_itself():
    for address, service, request, name in (
        (sys.argv[6], "souk.user.v1.UserService", "souk.user.v1.GetUserRequest", "GetUser"),
        (sys.argv[7], "souk.order.v1.OrderService", "souk.order.v1.GetOrderRequest", "GetOrder"),
    ):
        server = Server(address)
        assert service in server.database.get_services()
        assert server.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=LONG).status == 1
        get = server.call(service, name)
        for compression in (None, grpc.Compression.Gzip):
            ask = lambda: get(server.message(request, name="x"), timeout=LONG, compression=compression)
            fails(ask, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")


@case
def everything_compressed_by_the_channel():
    for address in sys.argv[2:4]:
        server = Server(address, compression=grpc.Compression.Gzip)
        assert PRODUCTS in server.database.get_services()
        assert server.health.Check(health_pb2.HealthCheckRequest(), timeout=LONG).status == 1
        products = server.call(PRODUCTS, "ListProducts")
        products(server.message("souk.inventory.v1.ListProductsRequest"), timeout=LONG)


gateway, souk, inventory = (Server(address) for address in sys.argv[1:4])
failed = 0
for name, function in CASES:
    try:
        function()
    except Exception:
        failed += 1
        print(f"  {name}: {traceback.format_exc()}", flush=True)
print(f"grpcio {grpc.__version__}: {len(CASES) - failed} of {len(CASES)} cases passed", flush=True)
sys.exit(1 if failed else 0)
