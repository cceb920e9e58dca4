#!/usr/bin/env bash
# generate.sh FOLDER writes the Python code of notes.proto and its descriptors, api.binpb, into a folder.
set -euo pipefail
into=$1
cd "$(dirname "$0")"
# google/api/annotations.proto comes with the package googleapis-common-protos, which grpcio-status brings.
packages=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
python -m grpc_tools.protoc --proto_path=. --proto_path="$packages" \
    --python_out="$into" --grpc_python_out="$into" \
    --include_imports --include_source_info --descriptor_set_out="$into/api.binpb" notes.proto
