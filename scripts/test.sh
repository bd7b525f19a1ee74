#!/usr/bin/env bash
# Everything CI runs: installs what is missing, then lint, type check, build, unit and integration tests. Fails when one
# of them fails, when a test is skipped that this machine must run, or when the tests left something on the machine.
#
#   scripts/test.sh              all stages
#   scripts/test.sh unit lint    only these (install generate lint types build unit integration)
#
# REQUIRE names what tests must not be skipped for the want of (test/support/needs.ts); everything by default as root.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin"
. scripts/leftovers.sh

readonly stages=(install generate lint types build unit integration)
# Programs that install-dependencies.sh brings, and what every kernel of a Debian 12 machine has.
readonly everything='root conmon crun runc cni cni-more iptables ip tc mount losetup loop overlayfs tmpfs ext4 xfs netns userns
  nsenter unshare curl tar busybox strace'
# Compiled code of tests and of what they test, from one process for all others.
export NODE_COMPILE_CACHE=$PWD/node_modules/.cache/tests
# Names and subnets that only tests use.
readonly test_names='berth-test-|berth-e2e-|berth-oracle-|bre2e-|brt-|10\.87\.|fd00:be:'

stage_install() { scripts/install-dependencies.sh --tests; }
stage_generate() { scripts/generate.sh; }
stage_lint() { biome check --error-on-warnings .; }
stage_types() { npm run --silent typecheck; }
stage_build() { npm run --silent build; }
# All in one process: most of what a process of its own would do for a file is to load the same modules.
stage_unit() { node_tests unit --test-isolation=none 'test/**/*.test.ts'; }
# The built program is what is tested: that is what people run.
stage_integration() { BERTH_TEST_DIST=1 node_tests integration --test-concurrency=3 'test/**/*.integration.ts'; }

# node_tests NAME ARGUMENT...: runs tests and keeps a list of those that were skipped.
node_tests() {
  local name=$1
  shift
  node --test --test-timeout=420000 \
    --test-reporter=spec --test-reporter-destination=stdout \
    --test-reporter=./scripts/skip-reporter.ts --test-reporter-destination="$work/skipped.$name" "$@"
}

main() {
  local -a chosen=("$@")
  ((${#chosen[@]} > 0)) || chosen=("${stages[@]}")
  if ((EUID == 0)); then export REQUIRE=${REQUIRE-$everything}; fi
  work=$(mktemp -d /tmp/berth-stages.XXXXXX)
  trap 'rm -rf "$work"' EXIT
  local before summary='' failed='' stage begun
  before=$(leftovers "$test_names" || true)
  for stage in "${chosen[@]}"; do
    declare -F "stage_$stage" >/dev/null || usage "$stage"
    printf '\n== %s\n' "$stage"
    begun=$SECONDS
    if "stage_$stage" </dev/null; then summary+="  passed  "; else
      summary+="  FAILED  "
      failed+=" $stage"
    fi
    summary+=$(printf '%-12s %4d s' "$stage" $((SECONDS - begun)))$'\n'
    # Without these nothing after them says anything.
    [[ " $failed" =~ \ (install|generate|build)$ ]] && break
  done
  report_skipped
  local left
  left=$(left_since "$before" "$test_names" 10)
  if [[ -n $left ]]; then
    failed+=' leftovers'
    printf '\n== Left on the machine by the tests\n%s\n' "$left"
  fi
  printf '\n== Summary\n%s\n' "$summary"
  if [[ -n $failed ]]; then
    printf 'FAILED:%s (%d s)\n' "$failed" "$SECONDS"
    exit 1
  fi
  printf 'Everything passed (%d s)\n' "$SECONDS"
}

report_skipped() {
  local files=("$work"/skipped.*)
  [[ -e ${files[0]} ]] && [[ -n $(cat "${files[@]}") ]] || return 0
  printf '\n== Skipped, and why\n'
  sort "${files[@]}" | sed 's/^/  /'
}

usage() {
  printf 'test.sh: there is no stage %s; stages: %s\n' "$1" "${stages[*]}" >&2
  exit 2
}

main "$@"
