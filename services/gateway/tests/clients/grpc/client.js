// grpc-js as a client: `node client.js GATEWAY SOUK INVENTORY ECHO_DESCRIPTORS SOUK_DESCRIPTORS USERS ORDERS`, as client.py,
// with files of encoded descriptor sets. Prints `gone WATCHER` where a stream was cancelled, and waits for a line on
// standard input. Ends with 0 where everything is as it must be.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import * as grpc from "@grpc/grpc-js";
import { fromJSON, loadFileDescriptorSetFromBuffer } from "@grpc/proto-loader";
import { check, run } from "../check.js";

const { version } = createRequire(import.meta.url)("@grpc/grpc-js/package.json");
const protobuf = createRequire(import.meta.resolve("@grpc/proto-loader"))("protobufjs");
const [echoGateway, soukGateway, soukInventory, echoFile, soukFile, soukUser, soukOrder] = process.argv.slice(2);
const { status: code, compressionAlgorithms } = grpc;

// google.rpc.Status and those of its details that are looked at.
const rpc = protobuf.parse(`syntax = "proto3"; package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message BadRequest { message FieldViolation { string field = 1; string description = 2; }
    repeated FieldViolation field_violations = 1; }`, { keepCase: true }).root;

const load = (file) =>
  grpc.loadPackageDefinition(loadFileDescriptorSetFromBuffer(readFileSync(file), { keepCase: true, longs: String }));
const [echo, souk] = [load(echoFile), load(soukFile)];
// What reflection and health have, as their own contracts say it.
const known = grpc.loadPackageDefinition(
  fromJSON(protobuf.parse(`syntax = "proto3"; package grpc;
    message HealthCheckRequest { string service = 1; }
    message HealthCheckResponse { int32 status = 1; }
    message ReflectionRequest { string file_containing_symbol = 4; string list_services = 7; }
    message ReflectionResponse { FileDescriptorResponse file_descriptor_response = 4; ListServiceResponse list_services_response = 6; }
    message FileDescriptorResponse { repeated bytes file_descriptor_proto = 1; }
    message ListServiceResponse { repeated ServiceResponse service = 1; }
    message ServiceResponse { string name = 1; }
    service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); rpc Watch(HealthCheckRequest) returns (stream HealthCheckResponse); }
    service Reflection { rpc ServerReflectionInfo(stream ReflectionRequest) returns (stream ReflectionResponse); }`,
    { keepCase: true }).root.toJSON()),
).grpc;
const insecure = grpc.credentials.createInsecure();
const connect = (Client, address, options = {}) => new Client(address, insecure, options);
const soon = () => ({ deadline: Date.now() + 20_000 });

/** A unary call: its message, or its error. */
const call = (client, method, request, metadata = new grpc.Metadata(), options = soon()) =>
  new Promise((done) => {
    const answer = { metadata: null };
    const made = client[method](request, metadata, options, (error, message) => done({ ...answer, error, message }));
    made.on("metadata", (headers) => (answer.metadata = headers));
  });

/** The messages of a stream, and its error. */
const read = (stream) =>
  new Promise((done) => {
    const messages = [];
    stream.on("data", (message) => messages.push(message));
    stream.on("error", (error) => done({ messages, error }));
    stream.on("end", () => setImmediate(done, { messages, error: null }));
  });

function details(error) {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const all = rpc.lookupType("google.rpc.Status").decode(bytes).details;
  const found = {};
  for (const { type_url, value } of all) {
    const name = type_url.split(".").pop();
    const type = rpc.lookup(`google.rpc.${name}`);
    if (type) found[name] = type.decode(value);
  }
  return found;
}

function fails({ error }, expected, reason) {
  check(error?.code === expected, `${error ?? "the call went well"}`);
  const found = details(error);
  check(found.ErrorInfo?.domain === "souk" && found.ErrorInfo.reason === reason, JSON.stringify(found));
  return found;
}

const Echo = echo.souk.test.v1.EchoService;
const Products = souk.souk.inventory.v1.ProductService;
const Stock = souk.souk.inventory.v1.StockService;
const gateway = connect(Echo, echoGateway);
const packed = { "grpc.default_compression_algorithm": compressionAlgorithms.gzip };

/** A method of health or reflection, by its real name. */
function own(address, options = {}) {
  const client = connect(grpc.Client, address, options);
  const bytes = (definition) => [definition.requestSerialize, definition.responseDeserialize];
  const { Check, Watch } = known.Health.service;
  const { ServerReflectionInfo: Info } = known.Reflection.service;
  return {
    check: (service) => new Promise((done) =>
      client.makeUnaryRequest("/grpc.health.v1.Health/Check", ...bytes(Check), { service }, new grpc.Metadata(), soon(),
        (error, message) => done({ error, message }))),
    watch: () => client.makeServerStreamRequest("/grpc.health.v1.Health/Watch", ...bytes(Watch), {}, new grpc.Metadata(), soon()),
    reflect: (version) => client.makeBidiStreamRequest(
      `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`, ...bytes(Info), new grpc.Metadata(), soon()),
  };
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const cases = {
  "unary with metadata": async () => {
    const metadata = new grpc.Metadata();
    metadata.set("x-request-id", "js-1");
    metadata.set("x-own", "1");
    const { error, message, metadata: headers } = await call(gateway, "get", { name: "things/1" }, metadata);
    check(!error && message.request.name === "things/1", `${error}`);
    check(headers.get("x-request-id")[0] === "js-1", "x-request-id");
    // Descriptors that were encoded do not tell this library that it is a map.
    const seen = Object.fromEntries(message.headers.map(({ key, value }) => [key, value]));
    check(seen["x-request-id"] === "js-1" && !("x-own" in seen), JSON.stringify(seen));
  },
  "an error of the service with its details": async () => {
    const failed = await call(gateway, "fail", { name: "out-of-stock" });
    const { ErrorInfo } = fails(failed, code.FAILED_PRECONDITION, "OUT_OF_STOCK");
    check(failed.error.details === "only 3 left" && ErrorInfo.metadata.available === "3", failed.error.details);
  },
  "every code comes through": async () => {
    for (let number = 1; number <= 16; number++) {
      const { error } = await call(gateway, "fail", { name: `${number}` });
      check(error?.code === number, `${number}: ${error}`);
    }
  },
  "errors of the gateway": async () => {
    fails(await call(gateway, "signedIn", {}), code.UNAUTHENTICATED, "TOKEN_MISSING");
    const token = new grpc.Metadata();
    token.set("authorization", "Bearer nonsense");
    fails(await call(gateway, "signedIn", {}, token), code.UNAUTHENTICATED, "TOKEN_INVALID");
    const raw = (bytes) => bytes;
    const unknown = await new Promise((done) =>
      connect(grpc.Client, echoGateway).makeUnaryRequest("/no.Such/Method", raw, raw, Buffer.alloc(0), (error) => done({ error })));
    fails(unknown, code.UNIMPLEMENTED, "UNIMPLEMENTED");
  },
  deadlines: async () => {
    const soon = () => ({ deadline: Date.now() + 300 });
    const { error } = await call(gateway, "fail", { name: "wait" }, new grpc.Metadata(), soon());
    check(error?.code === code.DEADLINE_EXCEEDED, `${error}`);
    const endless = await read(gateway.follow({ until: 1_000_000, pause_millis: 20 }, soon()));
    check(endless.error?.code === code.DEADLINE_EXCEEDED, `${endless.error}`);
  },
  "a stream and its late error": async () => {
    const three = await read(gateway.watch({ name: "x" }, soon()));
    check(!three.error && three.messages.length === 3, `${three.error}`);
    const follow = { after: 1, until: 4, pause_millis: 10, then: "out-of-stock" };
    const failed = await read(gateway.follow(follow, soon()));
    fails(failed, code.FAILED_PRECONDITION, "OUT_OF_STOCK");
    check(failed.messages.map(({ number }) => number).join() === "2,3,4", "the messages before it");
  },
  "a cancelled stream ends at the service": async () => {
    const stream = gateway.follow({ until: 1_000_000, pause_millis: 10, watcher: "js" }, soon());
    const ended = read(stream);
    await Promise.race([new Promise((done) => stream.once("data", done)), ended]);
    stream.cancel();
    check((await ended).error?.code === code.CANCELLED, "cancelled");
    console.log("gone js");
    check((await lines.next()).value === "gone", "the stream is gone");
  },
  "both sides stream": async () => {
    const chat = gateway.chat(soon());
    const names = [];
    chat.on("data", ({ request }) => {
      names.push(request.name);
      names.length < 20 ? chat.write({ name: `${names.length}` }) : chat.end();
    });
    chat.write({ name: "0" });
    const { error } = await read(chat);
    check(!error && names.join() === [...Array(20).keys()].join(), `${error} ${names}`);
  },
  "large messages": async () => {
    const large = "x".repeat(3 << 20);
    const { error, message } = await call(gateway, "get", { name: large });
    check(!error && message.request.name === large, `${error}`);
    fails(await call(gateway, "get", { name: "x".repeat(5 << 20) }), code.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE");
  },
  "compressed requests": async () => {
    const client = connect(Echo, echoGateway, packed);
    const name = "things/packed".repeat(100);
    const { error, message } = await call(client, "get", { name });
    check(!error && message.request.name === name, `${error}`);
    const three = await read(client.watch({ name }, soon()));
    check(!three.error && three.messages.length === 3, `${three.error}`);
    fails(await call(client, "get", { name: "x".repeat(8 << 20) }), code.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE");
    const deflate = { "grpc.default_compression_algorithm": compressionAlgorithms.deflate };
    fails(await call(connect(Echo, echoGateway, deflate), "get", { name }), code.UNIMPLEMENTED, "UNIMPLEMENTED");
  },
  "health and reflection": async () => {
    const servers = [[echoGateway, "souk.test.v1.EchoService"], [soukGateway, "souk.inventory.v1.ProductService"],
      [soukInventory, "souk.inventory.v1.ProductService"]];
    for (const [address, service] of servers) {
      for (const options of [{}, packed]) {
        const server = own(address, options);
        const { error, message } = await server.check(service);
        check(!error && message.status === 1, `${address}: ${error}`);
        check((await server.check("no.Such")).error?.code === code.NOT_FOUND, "no.Such");
        const watched = server.watch();
        const first = await new Promise((done) => watched.on("error", () => {}).once("data", done));
        watched.cancel();
        check(first.status === 1, "watched");
        for (const version of ["v1", "v1alpha"]) {
          const stream = server.reflect(version);
          stream.write({ list_services: "*" });
          stream.end({ file_containing_symbol: service });
          const { error, messages: [list, file] } = await read(stream);
          const names = list?.list_services_response?.service.map(({ name }) => name) ?? [];
          check(!error && names.includes(service), `${version}: ${error} ${names}`);
          check(file.file_descriptor_response.file_descriptor_proto.length > 0, "its file");
        }
      }
    }
  },
  "souk through the gateway and at a service": async () => {
    for (const address of [soukGateway, soukInventory]) {
      for (const options of [{}, packed]) {
        const client = connect(Products, address, options);
        const { BadRequest } = fails(await call(client, "getProduct", { name: "products/x" }), code.INVALID_ARGUMENT, "FIELD_INVALID");
        check(BadRequest.field_violations[0].field === "name", "the field");
        const nothing = { name: `products/prd_${"0".repeat(26)}` };
        fails(await call(client, "getProduct", nothing), code.NOT_FOUND, "RESOURCE_NOT_FOUND");
        const { error } = await call(client, "listProducts", { page_size: 5 });
        check(!error, `${error}`);
        const watched = await read(connect(Stock, address, options).watchStock({}, soon()));
        fails(watched, code.UNAUTHENTICATED, "TOKEN_MISSING");
      }
    }
  },
  "every service by itself": async () => {
    const services = [[soukUser, souk.souk.user.v1.UserService, "getUser", "souk.user.v1.UserService"],
      [soukOrder, souk.souk.order.v1.OrderService, "getOrder", "souk.order.v1.OrderService"]];
    for (const [address, Service, method, service] of services) {
      for (const options of [{}, packed]) {
        const { error, message } = await own(address, options).check(service);
        check(!error && message.status === 1, `${address}: ${error}`);
        const refused = await call(connect(Service, address, options), method, { name: "x" });
        fails(refused, code.UNAUTHENTICATED, "TOKEN_MISSING");
      }
    }
  },
};

const { count, failures } = await run(cases);
for (const failure of failures) console.log(`  ${failure}`);
console.log(`grpc-js ${version}: ${count - failures.length} of ${count} cases passed`);
process.exit(failures.length === 0 && count > 0 ? 0 : 1);
