#!/usr/bin/env bash
# Makes the TypeScript types of the gRPC messages from the .proto files. Types only: at run time the .proto files are
# loaded as they are (src/csi/protocol.ts, src/api/protocol.ts) with the options given here.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/node_modules/.bin:$PATH"

# The same options as in the code that loads the files: fields in camelCase, int64 and enum values as strings, absent
# fields with their defaults, the name of the member that is set for each oneof.
options=(--longs=String --enums=String --defaults --oneofs --grpcLib=@grpc/grpc-js --importFileExtension=.ts)

# generate DIR ARGUMENT...: types in DIR, replacing what was there; the arguments name the protos.
generate() {
  local out=$1
  shift
  local fresh
  fresh=$(mktemp -d "$(dirname "$out")/.generated.XXXXXX")
  if ! proto-loader-gen-types "${options[@]}" --outDir="$fresh" "$@" >/dev/null; then
    rm -rf "$fresh"
    return 1
  fi
  chmod 755 "$fresh"
  rm -rf "$out"
  mv "$fresh" "$out"
}

mkdir -p src/csi src/api
generate src/csi/generated csi.proto pluginregistration.proto -I csi-proto
if [ -e api-proto/berth.proto ]; then
  generate src/api/generated berth.proto -I api-proto
fi

# Berth's own API also as a JavaScript object: the command line loads it in a fraction of the time that parsing the
# .proto file takes.
if [ -e api-proto/berth.proto ]; then
  node scripts/api-descriptor.ts api-proto/berth.proto > src/api/generated/descriptor.ts
fi
