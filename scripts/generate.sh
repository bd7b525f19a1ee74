#!/usr/bin/env bash
# Makes from the .proto files what the programs are built with: the TypeScript types of the gRPC messages, and the
# descriptors that say at run time how they are written (src/service-definitions.ts, with the options given here).
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
generate src/api/generated berth.proto -I api-proto

# The same files as JavaScript objects: a program loads those in a fraction of the time that parsing takes, and needs no
# file beside it.
node scripts/proto-descriptor.ts csi-proto/csi.proto >src/csi/generated/csi-descriptor.ts
node scripts/proto-descriptor.ts csi-proto/pluginregistration.proto >src/csi/generated/registration-descriptor.ts
node scripts/proto-descriptor.ts api-proto/berth.proto >src/api/generated/descriptor.ts
