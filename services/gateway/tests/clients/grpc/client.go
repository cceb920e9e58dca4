// grpc-go as a client: `client GATEWAY SOUK INVENTORY ECHO_DESCRIPTORS SOUK_DESCRIPTORS USERS ORDERS`, as client.py, with
// files of encoded descriptor sets. Prints `gone WATCHER` where a stream was cancelled, and waits for a line on
// standard input. Ends with 0 where everything is as it must be.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	echo     = "souk.test.v1.EchoService"
	products = "souk.inventory.v1.ProductService"
	long     = 20 * time.Second
)

// codec writes messages that are known by their descriptors alone.
type codec struct{}

func (codec) Name() string { return "proto" }
func (codec) Marshal(message interface{}) ([]byte, error) {
	return proto.Marshal(message.(proto.Message))
}
func (codec) Unmarshal(bytes []byte, message interface{}) error {
	return proto.Unmarshal(bytes, message.(proto.Message))
}

// none is a compressor of this client's own, which no server knows.
type none struct{}

func (none) Name() string                                 { return "souk-none" }
func (none) Compress(w io.Writer) (io.WriteCloser, error) { return nothing{w}, nil }
func (none) Decompress(r io.Reader) (io.Reader, error)    { return r, nil }

type nothing struct{ io.Writer }

func (nothing) Close() error { return nil }

// server is one, and the descriptors of what it has.
type server struct {
	name  string
	conn  *grpc.ClientConn
	files *protoregistry.Files
}

func connect(name, address, descriptors string) *server {
	bytes, err := os.ReadFile(descriptors)
	must(err)
	set := &descriptorpb.FileDescriptorSet{}
	must(proto.Unmarshal(bytes, set))
	files, err := protodesc.NewFiles(set)
	must(err)
	conn, err := grpc.Dial(address, grpc.WithInsecure())
	must(err)
	return &server{name, conn, files}
}

func (s *server) method(service, name string) (protoreflect.MethodDescriptor, string) {
	found, err := s.files.FindDescriptorByName(protoreflect.FullName(service))
	must(err)
	return found.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name)), "/" + service + "/" + name
}

func message(descriptor protoreflect.MessageDescriptor, json string) *dynamicpb.Message {
	made := dynamicpb.NewMessage(descriptor)
	must(protojson.Unmarshal([]byte(json), made))
	return made
}

// unary makes a call whose request is written as JSON. Its answer is JSON, too.
func (s *server) unary(ctx context.Context, service, name, request string, options ...grpc.CallOption) (string, error) {
	method, path := s.method(service, name)
	reply := dynamicpb.NewMessage(method.Output())
	options = append(options, grpc.ForceCodec(codec{}))
	err := s.conn.Invoke(ctx, path, message(method.Input(), request), reply, options...)
	return protojson.MarshalOptions{UseProtoNames: true}.Format(reply), err
}

// stream opens a call and sends these requests.
func (s *server) stream(ctx context.Context, service, name string, requests []string, options ...grpc.CallOption) func() (string, error) {
	method, path := s.method(service, name)
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: method.IsStreamingClient()}
	opened, err := s.conn.NewStream(ctx, desc, path, append(options, grpc.ForceCodec(codec{}))...)
	must(err)
	for _, request := range requests {
		must(opened.SendMsg(message(method.Input(), request)))
	}
	must(opened.CloseSend())
	return func() (string, error) {
		reply := dynamicpb.NewMessage(method.Output())
		err := opened.RecvMsg(reply)
		return protojson.MarshalOptions{UseProtoNames: true}.Format(reply), err
	}
}

// all reads a stream to its end.
func all(next func() (string, error)) ([]string, error) {
	var messages []string
	for {
		reply, err := next()
		if err == io.EOF {
			return messages, nil
		} else if err != nil {
			return messages, err
		}
		messages = append(messages, reply)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(is bool, format string, values ...interface{}) {
	if !is {
		panic(fmt.Sprintf(format, values...))
	}
}

// fails checks what a call ended in, and hands back its details by their name.
func fails(err error, code codes.Code, reason string) map[string]interface{} {
	told := status.Convert(err)
	check(told.Code() == code, "%v instead of %v", err, code)
	details := map[string]interface{}{}
	for _, detail := range told.Details() {
		name := fmt.Sprintf("%T", detail)
		details[name[strings.LastIndex(name, ".")+1:]] = detail
	}
	info, ok := details["ErrorInfo"].(*errdetails.ErrorInfo)
	check(ok && info.Domain == "souk" && info.Reason == reason, "%v", details)
	return details
}

func within(limit time.Duration) context.Context {
	ctx, _ := context.WithTimeout(context.Background(), limit)
	return ctx
}

func named(name string) string { return fmt.Sprintf(`{"name": %q}`, name) }

func main() {
	encoding.RegisterCompressor(none{})
	gateway := connect("gateway", os.Args[1], os.Args[4])
	souk := connect("souk", os.Args[2], os.Args[5])
	inventory := connect("inventory", os.Args[3], os.Args[5])
	users := connect("users", os.Args[6], os.Args[5])
	orders := connect("orders", os.Args[7], os.Args[5])
	lines := bufio.NewReader(os.Stdin)
	packed := grpc.UseCompressor(gzip.Name)

	cases := []struct {
		name string
		work func()
	}{
		{"unary with metadata", func() {
			var headers metadata.MD
			ctx := metadata.AppendToOutgoingContext(within(long), "x-request-id", "go-1", "x-own", "1")
			reply, err := gateway.unary(ctx, echo, "Get", named("things/1"), grpc.Header(&headers))
			must(err)
			check(strings.Contains(reply, "things/1") && strings.Contains(reply, "go-1"), "%s", reply)
			check(!strings.Contains(reply, "x-own"), "%s", reply)
			check(headers.Get("x-request-id")[0] == "go-1", "%v", headers)
		}},
		{"an error of the service with its details", func() {
			_, err := gateway.unary(within(long), echo, "Fail", named("out-of-stock"))
			details := fails(err, codes.FailedPrecondition, "OUT_OF_STOCK")
			check(status.Convert(err).Message() == "only 3 left", "%v", err)
			check(details["ErrorInfo"].(*errdetails.ErrorInfo).Metadata["available"] == "3", "%v", details)
			failure := details["PreconditionFailure"].(*errdetails.PreconditionFailure)
			check(failure.Violations[0].Subject == "things/1", "%v", failure)
		}},
		{"every code comes through", func() {
			for code := codes.Code(1); code <= 16; code++ {
				_, err := gateway.unary(within(long), echo, "Fail", named(fmt.Sprint(uint32(code))))
				check(status.Code(err) == code, "%v: %v", code, err)
			}
		}},
		{"errors of the gateway", func() {
			_, err := gateway.unary(within(long), echo, "SignedIn", "{}")
			fails(err, codes.Unauthenticated, "TOKEN_MISSING")
			ctx := metadata.AppendToOutgoingContext(within(long), "authorization", "Bearer nonsense")
			_, err = gateway.unary(ctx, echo, "SignedIn", "{}")
			fails(err, codes.Unauthenticated, "TOKEN_INVALID")
			request, reply := &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{}
			fails(gateway.conn.Invoke(within(long), "/no.Such/Method", request, reply), codes.Unimplemented, "UNIMPLEMENTED")
		}},
		{"deadlines", func() {
			_, err := gateway.unary(within(300*time.Millisecond), echo, "Fail", named("wait"))
			check(status.Code(err) == codes.DeadlineExceeded, "%v", err)
			endless := []string{`{"until": 1000000, "pause_millis": 20}`}
			_, err = all(gateway.stream(within(300*time.Millisecond), echo, "Follow", endless))
			check(status.Code(err) == codes.DeadlineExceeded, "%v", err)
		}},
		{"a stream and its late error", func() {
			three, err := all(gateway.stream(within(long), echo, "Watch", []string{named("x")}))
			must(err)
			check(len(three) == 3, "%v", three)
			follow := []string{`{"after": 1, "until": 4, "pause_millis": 10, "then": "out-of-stock"}`}
			ticks, err := all(gateway.stream(within(long), echo, "Follow", follow))
			fails(err, codes.FailedPrecondition, "OUT_OF_STOCK")
			check(len(ticks) == 3, "%v", ticks)
		}},
		{"a cancelled stream ends at the service", func() {
			ctx, cancel := context.WithCancel(within(long))
			next := gateway.stream(ctx, echo, "Follow", []string{`{"until": 1000000, "pause_millis": 10, "watcher": "go"}`})
			_, err := next()
			must(err)
			cancel()
			_, err = all(next)
			check(status.Code(err) == codes.Canceled, "%v", err)
			fmt.Println("gone go")
			line, err := lines.ReadString('\n')
			must(err)
			check(line == "gone\n", "%s", line)
		}},
		{"both sides stream", func() {
			method, path := gateway.method(echo, "Chat")
			desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
			chat, err := gateway.conn.NewStream(within(long), desc, path, grpc.ForceCodec(codec{}), packed)
			must(err)
			for turn := 0; turn < 20; turn++ {
				name := fmt.Sprintf("turn-%d", turn)
				must(chat.SendMsg(message(method.Input(), named(name))))
				reply := dynamicpb.NewMessage(method.Output())
				must(chat.RecvMsg(reply))
				check(strings.Contains(protojson.Format(reply), name), "%v", reply)
			}
			must(chat.CloseSend())
			check(chat.RecvMsg(dynamicpb.NewMessage(method.Output())) == io.EOF, "the end")
		}},
		{"large messages", func() {
			large := strings.Repeat("x", 3<<20)
			reply, err := gateway.unary(within(long), echo, "Get", named(large))
			must(err)
			check(strings.Contains(reply, large), "cut")
			_, err = gateway.unary(within(long), echo, "Get", named(strings.Repeat("x", 5<<20)))
			fails(err, codes.ResourceExhausted, "BODY_TOO_LARGE")
		}},
		{"compressed requests", func() {
			name := strings.Repeat("things/packed", 100)
			reply, err := gateway.unary(within(long), echo, "Get", named(name), packed)
			must(err)
			check(strings.Contains(reply, name), "%s", reply)
			three, err := all(gateway.stream(within(long), echo, "Watch", []string{named(name)}, packed))
			must(err)
			check(len(three) == 3, "%v", three)
			_, err = gateway.unary(within(long), echo, "Get", named(strings.Repeat("x", 8<<20)), packed)
			fails(err, codes.ResourceExhausted, "BODY_TOO_LARGE")
			_, err = gateway.unary(within(long), echo, "Get", named(name), grpc.UseCompressor("souk-none"))
			fails(err, codes.Unimplemented, "UNIMPLEMENTED")
		}},
		{"health and reflection", func() {
			for at, service := range map[*server]string{gateway: echo, souk: products, inventory: products} {
				for _, options := range [][]grpc.CallOption{nil, {packed}} {
					health := healthpb.NewHealthClient(at.conn)
					answer, err := health.Check(within(long), &healthpb.HealthCheckRequest{Service: service}, options...)
					must(err)
					check(answer.Status == healthpb.HealthCheckResponse_SERVING, "%s: %v", at.name, answer)
					_, err = health.Check(within(long), &healthpb.HealthCheckRequest{Service: "no.Such"}, options...)
					check(status.Code(err) == codes.NotFound, "%s: %v", at.name, err)
					ctx, cancel := context.WithCancel(within(long))
					watched, err := health.Watch(ctx, &healthpb.HealthCheckRequest{}, options...)
					must(err)
					answer, err = watched.Recv()
					must(err)
					check(answer.Status == healthpb.HealthCheckResponse_SERVING, "%s: %v", at.name, answer)
					cancel()
					asked, err := reflectionpb.NewServerReflectionClient(at.conn).ServerReflectionInfo(within(long), options...)
					must(err)
					must(asked.Send(&reflectionpb.ServerReflectionRequest{
						MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service},
					}))
					file, err := asked.Recv()
					must(err)
					check(len(file.GetFileDescriptorResponse().GetFileDescriptorProto()) > 0, "%s: %v", at.name, file)
					must(asked.CloseSend())
				}
			}
		}},
		{"souk through the gateway and at a service", func() {
			for _, at := range []*server{souk, inventory} {
				for _, options := range [][]grpc.CallOption{nil, {packed}} {
					_, err := at.unary(within(long), products, "GetProduct", named("products/x"), options...)
					details := fails(err, codes.InvalidArgument, "FIELD_INVALID")
					field := details["BadRequest"].(*errdetails.BadRequest).FieldViolations[0].Field
					check(field == "name", "%s", field)
					nothing := named("products/prd_" + strings.Repeat("0", 26))
					_, err = at.unary(within(long), products, "GetProduct", nothing, options...)
					fails(err, codes.NotFound, "RESOURCE_NOT_FOUND")
					_, err = at.unary(within(long), products, "ListProducts", `{"page_size": 5}`, options...)
					must(err)
					_, err = all(at.stream(within(long), "souk.inventory.v1.StockService", "WatchStock", []string{"{}"}, options...))
					fails(err, codes.Unauthenticated, "TOKEN_MISSING")
				}
			}
		}},
		{"every service by itself", func() {
			for at, call := range map[*server][2]string{
				users:  {"souk.user.v1.UserService", "GetUser"},
				orders: {"souk.order.v1.OrderService", "GetOrder"},
			} {
				for _, options := range [][]grpc.CallOption{nil, {packed}} {
					request := &healthpb.HealthCheckRequest{Service: call[0]}
					answer, err := healthpb.NewHealthClient(at.conn).Check(within(long), request, options...)
					must(err)
					check(answer.Status == healthpb.HealthCheckResponse_SERVING, "%s: %v", at.name, answer)
					_, err = at.unary(within(long), call[0], call[1], named("x"), options...)
					fails(err, codes.Unauthenticated, "TOKEN_MISSING")
				}
			}
		}},
	}
	failed := 0
	for _, one := range cases {
		func() {
			defer func() {
				if fault := recover(); fault != nil {
					failed++
					fmt.Printf("  %s: %.2000s\n", one.name, fmt.Sprint(fault))
				}
			}()
			one.work()
		}()
	}
	fmt.Printf("grpc-go %s: %d of %d cases passed\n", grpc.Version, len(cases)-failed, len(cases))
	if failed > 0 {
		os.Exit(1)
	}
}
