"""A gRPC service with grpcio, as anyone writes one: nothing in it knows of souk."""

import itertools
import sys
from concurrent import futures

import grpc
import notes_pb2
import notes_pb2_grpc
from google.protobuf import any_pb2, empty_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status


class Notes(notes_pb2_grpc.NotesServiceServicer):
    def __init__(self):
        self.notes = {}
        self.numbers = itertools.count(1)

    def CreateNote(self, request, context):
        if not request.note.text:
            refuse(context, code_pb2.INVALID_ARGUMENT, "a note needs a text", "TEXT_MISSING")
        note = notes_pb2.Note(name=f"notes/{next(self.numbers)}", text=request.note.text)
        note.create_time.GetCurrentTime()
        self.notes[note.name] = note
        # Who writes, a header says; the gateway passes it on where it is told to.
        author = dict(context.invocation_metadata()).get("x-notes-author", "nobody")
        context.send_initial_metadata([("x-notes-written-by", author)])
        return note

    def GetNote(self, request, context):
        if request.name not in self.notes:
            refuse(context, code_pb2.OUT_OF_RANGE, f"there is no {request.name}", "NO_SUCH_NOTE")
        return self.notes[request.name]

    def ListNotes(self, request, context):
        return notes_pb2.ListNotesResponse(notes=self.with_word(request.word))

    def ReadNotes(self, request, context):
        yield from self.with_word(request.word)

    def Clear(self, request, context):
        self.notes.clear()
        return empty_pb2.Empty()

    def with_word(self, word):
        return [note for note in self.notes.values() if word in note.text]


def refuse(context, code, message, reason):
    """An error with a detail, as google.rpc has them."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="notes.example"))
    context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=code, message=message, details=[detail])))


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    notes_pb2_grpc.add_NotesServiceServicer_to_server(Notes(), server)
    services = [notes_pb2.DESCRIPTOR.services_by_name["NotesService"].full_name, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(services, server)
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9000"
    port = server.add_insecure_port(address)
    server.start()
    print(f"listening on port {port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
