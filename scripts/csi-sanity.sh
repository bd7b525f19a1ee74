#!/usr/bin/env bash
# Runs csi-sanity (github.com/kubernetes-csi/csi-test) against the embedded CSI driver, for mount and for block volumes,
# without attachment and with it.
#
#   npm run build && CSI_SANITY=/path/to/csi-sanity scripts/csi-sanity.sh [FLAG...]
#
# Flags go to csi-sanity, such as --ginkgo.focus=Node. The driver runs on directories of its own and ends with the run.
# Fails when a case fails. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/node_modules/.bin:$PATH"

: "${CSI_SANITY:?set it to the path of a built csi-sanity, v5.3.1 or newer}"
place=$(mktemp -d /var/tmp/berth-sanity.XXXXXX)
driver=

stop() {
  [ -n "$driver" ] || return 0
  kill "$driver" 2>/dev/null && wait "$driver" || :
  driver=
}

finish() {
  stop
  rm -rf --one-file-system "$place"
}
trap finish EXIT

endpoint=unix://$place/csi.sock
# The driver ends when its standard input does: the FIFO's other end is held open by this script.
mkfifo "$place/stdin"
exec 3<>"$place/stdin"

start() {
  CSI_ENDPOINT=$endpoint node dist/csi/local/main.js --data-dir="$place/data" --node-id=sanity "$@" \
    <"$place/stdin" 2>>"$place/driver.log" &
  driver=$!
  for _ in $(seq 100); do
    [ -S "$place/csi.sock" ] && break
    sleep 0.1
  done
}

printf 'allocation: reserved\n' >"$place/mutable.yaml"
failed=0

# check ACCESS [FLAG...]
check() {
  local access=$1
  shift
  "$CSI_SANITY" --csi.endpoint="$endpoint" --csi.mountdir="$place/target" --csi.stagingdir="$place/stage" \
    --csi.testvolumeaccesstype="$access" --csi.testvolumesize=67108864 --csi.testvolumeexpandsize=134217728 \
    --csi.testvolumemutableparameters="$place/mutable.yaml" --ginkgo.no-color "$@" >"$place/$access.log" 2>&1 || failed=1
  grep -E '^(Ran |FAIL!|SUCCESS!)|^ *\[FAIL\]' "$place/$access.log" || tail -n 40 "$place/$access.log"
}

for access in mount block; do
  printf '== %s\n' "$access"
  start
  check "$access" "$@"
  stop
  printf '== %s, with attachment\n' "$access"
  start --attach --max-volumes=3
  check "$access" --csi.testnodevolumeattachlimit "$@"
  stop
done
exit "$failed"
