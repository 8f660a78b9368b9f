#!/bin/sh
# build.sh PROTO_ROOT OUT: builds the load generator as OUT/loadgen; PROTO_ROOT holds apache/rocketmq/v2/*.proto.
# Needs go, and grpcio-tools in $PYTHON (default python3). Generated code goes to OUT, nothing is written beside the sources.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$1" && pwd)
mkdir -p "$2/pb" "$2/bin"
cd "$2"

cp "$here"/*.go "$here/go.mod" "$here/go.sum" .
GOBIN="$PWD/bin" go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.6
GOBIN="$PWD/bin" go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1
proto=apache/rocketmq/v2
map="module=loadgen,M$proto/definition.proto=loadgen/pb,M$proto/service.proto=loadgen/pb"
PATH="$PWD/bin:$PATH" "${PYTHON:-python3}" -m grpc_tools.protoc -I "$root" --go_out=. --go_opt="$map" \
    --go-grpc_out=. --go-grpc_opt="$map" "$proto/definition.proto" "$proto/service.proto"
go build -mod=readonly -o loadgen .
