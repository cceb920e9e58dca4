// What every client must see, on Node and in a browser alike. Each case throws where it does not.
import { createFileRegistry, create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import grpcWeb from "grpc-web";
import { check } from "./check.js";

export { check, run } from "./check.js";

const SERVICE = "souk.test.v1.EchoService";

/** The cases, by name, for the gateway at `base` with this encoded descriptor set. */
export function cases(base, descriptors) {
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, descriptors));
  const service = registry.getService(SERVICE);
  const all = {};

  const transports = {
    "connect-web, Connect as JSON": createConnectTransport({ baseUrl: base }),
    "connect-web, Connect in binary": createConnectTransport({ baseUrl: base, useBinaryFormat: true }),
    "connect-web, Connect by GET": createConnectTransport({ baseUrl: base, useHttpGet: true }),
    "connect-web, gRPC-Web": createGrpcWebTransport({ baseUrl: base }),
  };
  for (const [name, transport] of Object.entries(transports)) {
    const client = createClient(service, transport);
    all[`${name}: unary`] = async () => {
      const reply = await client.get({ name: "things/1", kinds: { int64: -9007199254740993n } });
      check(reply.request.name === "things/1", reply.request.name);
      check(reply.request.kinds.int64 === -9007199254740993n, "int64");
    };
    all[`${name}: an error with its details`] = async () => {
      const error = await client.fail({ name: "out-of-stock" }).then(() => null, ConnectError.from);
      check(error?.code === Code.FailedPrecondition, `${error}`);
      check(error.rawMessage === "only 3 left", error.rawMessage);
      const info = error.details.find((detail) => detail.type === "google.rpc.ErrorInfo");
      check(new TextDecoder().decode(info?.value).includes("OUT_OF_STOCK"), "ErrorInfo");
    };
    all[`${name}: its deadline`] = async () => {
      const error = await client.fail({ name: "wait" }, { timeoutMs: 300 }).then(() => null, ConnectError.from);
      check(error?.code === Code.DeadlineExceeded, `${error}`);
    };
  }
  const streaming = createClient(service, transports["connect-web, gRPC-Web"]);
  all["connect-web, gRPC-Web: a stream, and its late error"] = async () => {
    const numbers = [];
    let failed = null;
    try {
      for await (const tick of streaming.follow({ after: 1n, until: 4n, pauseMillis: 20, then: "out-of-stock" })) {
        numbers.push(tick.number);
      }
    } catch (error) {
      failed = ConnectError.from(error);
    }
    check(numbers.join() === "2,3,4", numbers.join());
    check(failed?.code === Code.FailedPrecondition && failed.details.length > 0, `${failed}`);
  };

  const described = (method, type, input, output) =>
    new grpcWeb.MethodDescriptor(
      `/${SERVICE}/${method}`, type, Object, Object,
      (message) => toBinary(registry.getMessage(input), message),
      (bytes) => fromBinary(registry.getMessage(output), bytes),
    );
  const get = described("Get", grpcWeb.MethodType.UNARY, "souk.test.v1.Request", "souk.test.v1.Reply");
  const fail = described("Fail", grpcWeb.MethodType.UNARY, "souk.test.v1.Request", "souk.test.v1.Reply");
  const follow =
    described("Follow", grpcWeb.MethodType.SERVER_STREAMING, "souk.test.v1.FollowRequest", "souk.test.v1.Tick");
  const request = (type, fields) => create(registry.getMessage(type), fields);
  for (const format of ["binary", "text"]) {
    const client = new grpcWeb.GrpcWebClientBase({ format });
    const named = (name) => request("souk.test.v1.Request", { name });
    all[`grpc-web, ${format}: unary`] = async () => {
      const reply = await client.unaryCall(`${base}/${SERVICE}/Get`, named("things/2"), {}, get);
      check(reply.request.name === "things/2", "name");
    };
    all[`grpc-web, ${format}: an error with its details`] = async () => {
      const call = client.unaryCall(`${base}/${SERVICE}/Fail`, named("out-of-stock"), {}, fail);
      const error = await call.then(() => null, (error) => error);
      check(error?.code === grpcWeb.StatusCode.FAILED_PRECONDITION, `${error}`);
      check(error.message === "only 3 left", error.message);
      check(error.metadata["grpc-status-details-bin"]?.length > 0, "details");
    };
  }
  all["grpc-web, text: a stream, and its late error"] = () =>
    new Promise((done, failed) => {
      const numbers = [];
      const fields = { until: 3n, pauseMillis: 20, then: "out-of-stock" };
      const client = new grpcWeb.GrpcWebClientBase({ format: "text" });
      const ask = request("souk.test.v1.FollowRequest", fields);
      const stream = client.serverStreaming(`${base}/${SERVICE}/Follow`, ask, {}, follow);
      stream.on("data", (tick) => numbers.push(tick.number));
      stream.on("end", () => failed(new Error(`the end without an error, after ${numbers}`)));
      stream.on("error", (error) => {
        const right = numbers.join() === "1,2,3" && error.code === grpcWeb.StatusCode.FAILED_PRECONDITION;
        return right ? done() : failed(new Error(`${numbers}: ${error.code} ${error.message}`));
      });
    });
  return all;
}
