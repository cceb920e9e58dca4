"""check.py SOUK FOLDER: starts the service, and a souk gateway before it, and calls it in every way that the README shows.

FOLDER is where generate.sh wrote its files. Once with descriptors from the file, once by reflection.
"""

import base64
import json
import os
import re
import struct
import subprocess
import sys
import urllib.error
import urllib.request

souk, folder = sys.argv[1:3]
sys.path.insert(0, folder)

import grpc  # noqa: E402
import notes_pb2  # noqa: E402
import notes_pb2_grpc  # noqa: E402
from google.protobuf import empty_pb2  # noqa: E402
from google.rpc import error_details_pb2  # noqa: E402
from grpc_status import rpc_status  # noqa: E402

here = os.path.dirname(os.path.abspath(__file__))


def start(*command, says):
    """Starts a program, and waits until it prints where it is."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SOUK_")}
    env |= {"PYTHONPATH": folder, "SOUK_GATEWAY__CONTRACT__REQUEST_HEADERS": "x-notes-*"}
    env |= {"SOUK_GATEWAY__CONTRACT__RESPONSE_HEADERS": "x-notes-written-by", "NO_COLOR": "1", "SOUK_TELEMETRY__METRICS_LISTEN": ""}
    env |= {"SOUK_GATEWAY__CONTRACT__TITLE": "Notes"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    printed = []
    for line in process.stdout:
        printed.append(line)
        if found := re.search(says, line):
            return process, found[1]
    raise SystemExit(f"{command} ended:\n{''.join(printed)}")


def call(url, body=None, headers=None, method=None):
    """The status, headers and bytes of an answer."""
    request = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def expect(found, wanted, what):
    if found != wanted:
        raise SystemExit(f"{what}: {found!r}, not {wanted!r}")


def ready(gateway):
    """The gateway listens at once, and is ready when it has found the service."""
    for _ in range(100):
        status, _, body = call(f"{gateway}/readyz")
        if status == 200:
            return
    raise SystemExit(f"not ready: {body}")


def rest(gateway):
    as_json = {"content-type": "application/json"}
    note = json.dumps({"text": "buy milk"}).encode()
    status, headers, body = call(f"{gateway}/v1/notes", note, as_json | {"x-notes-author": "ann"})
    expect((status, headers["x-notes-written-by"]), (200, "ann"), f"create {body}")
    name = json.loads(body)["name"]
    status, _, body = call(f"{gateway}/v1/{name}")
    expect((status, json.loads(body)["text"]), (200, "buy milk"), "get")
    status, _, body = call(f"{gateway}/v1/notes?word=milk")
    expect([note["name"] for note in json.loads(body)["notes"]], [name], "list")

    status, headers, body = call(f"{gateway}/v1/notes/99")
    problem = json.loads(body)
    expect((status, headers["content-type"]), (400, "application/problem+json"), "an error")
    expect((problem["reason"], problem["detail"]), ("OUT_OF_RANGE", "there is no notes/99"), "an error")
    expect(problem["details"][0]["reason"], "NO_SUCH_NOTE", "an error's detail")

    status, headers, body = call(f"{gateway}/v1/notes:read", headers={"accept": "text/event-stream"})
    events = body.decode().split("\n\n")
    messages = [event for event in events if event.startswith("data:")]
    expect((headers["content-type"], len(messages)), ("text/event-stream", 1), f"a stream {events}")
    expect(json.loads(messages[0][5:])["text"], "buy milk", "an event")


def connect(gateway):
    at = f"{gateway}/notes.v1.NotesService"
    as_json = {"content-type": "application/json"}
    status, _, body = call(f"{at}/ListNotes", b'{"word": "milk"}', as_json)
    expect((status, len(json.loads(body)["notes"])), (200, 1), "Connect")
    status, _, body = call(f"{at}/GetNote", b'{"name": "notes/99"}', as_json)
    error = json.loads(body)
    expect((status, error["code"], error["message"]), (400, "out_of_range", "there is no notes/99"), "Connect's error")
    detail = error["details"][0]
    value = base64.b64decode(detail["value"] + "=" * (-len(detail["value"]) % 4))
    info = error_details_pb2.ErrorInfo.FromString(value)
    expect((detail["type"], info.reason), ("google.rpc.ErrorInfo", "NO_SUCH_NOTE"), "Connect's detail")


def grpc_web(gateway):
    message = notes_pb2.ListNotesRequest(word="milk").SerializeToString()
    framed = b"\0" + struct.pack(">I", len(message)) + message
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    status, _, body = call(f"{gateway}/notes.v1.NotesService/ListNotes", framed, headers)
    flag, length = struct.unpack(">BI", body[:5])
    notes = notes_pb2.ListNotesResponse.FromString(body[5 : 5 + length]).notes
    expect((status, flag, len(notes)), (200, 0, 1), "gRPC-Web")
    expect(b"grpc-status: 0" in body[5 + length :] or b"grpc-status:0" in body[5 + length :], True, "gRPC-Web's trailers")


def by_grpc(gateway):
    with grpc.insecure_channel(gateway.removeprefix("http://")) as channel:
        stub = notes_pb2_grpc.NotesServiceStub(channel)
        expect([note.text for note in stub.ReadNotes(notes_pb2.ListNotesRequest(), timeout=20)], ["buy milk"], "gRPC")
        try:
            stub.GetNote(notes_pb2.GetNoteRequest(name="notes/99"), timeout=20)
            raise SystemExit("gRPC: no error")
        except grpc.RpcError as error:
            expect((error.code(), error.details()), (grpc.StatusCode.OUT_OF_RANGE, "there is no notes/99"), "gRPC's error")
            info = error_details_pb2.ErrorInfo()
            rpc_status.from_call(error).details[0].Unpack(info)
            expect((info.domain, info.reason), ("notes.example", "NO_SUCH_NOTE"), "gRPC's detail")
        stub.Clear(empty_pb2.Empty(), timeout=20)
        expect(list(stub.ReadNotes(notes_pb2.ListNotesRequest(), timeout=20)), [], "gRPC after Clear")


def document(gateway):
    _, _, body = call(f"{gateway}/openapi.json")
    api = json.loads(body)
    expect(api["info"]["title"], "Notes", "the document's title")
    expect(sorted(api["paths"]), ["/v1/notes", "/v1/notes/{note}", "/v1/notes:read"], "the document's paths")
    with open(os.path.join(folder, "openapi.json"), "wb") as file:
        file.write(body)


def main():
    service, port = start(sys.executable, os.path.join(here, "server.py"), "127.0.0.1:0", says=r"port (\d+)")
    try:
        for source in (["--descriptors", os.path.join(folder, "api.binpb")], ["--reflect"]):
            command = [souk, "gateway", *source, "--backend", f"notes.v1=http://127.0.0.1:{port}", "--public"]
            process, address = start(*command, "--listen", "127.0.0.1:0", says=r"address=(\S+)")
            try:
                gateway = f"http://{address}"
                ready(gateway)
                for check in (rest, connect, grpc_web, by_grpc, document):
                    check(gateway)
                print(f"{source[0]}: REST, events, Connect, gRPC-Web, gRPC and OpenAPI are as they should be")
            finally:
                process.kill()
                process.communicate()
    finally:
        service.kill()
        service.communicate()


main()
