#!/usr/bin/env bash
# Installs what is missing to build and run Berth on Debian 12 or newer, and nothing else: programs of the host from
# Debian, packages from npm. Quick and silent when everything is there.
#
#   scripts/install-dependencies.sh            what building and running need
#   scripts/install-dependencies.sh --tests    and what the tests need
#
# An old system Node is no obstacle: it only has to run npm once. After that Node 26 comes from node_modules.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
readonly node_minimum=24

# "COMMAND PACKAGE" or "/PATH PACKAGE"; the two libraries are what Node 26 is linked with.
readonly programs='
conmon conmon
crun crun
runc runc
/usr/lib/cni/bridge containernetworking-plugins
iptables iptables
ip iproute2
mount mount
losetup mount
nsenter util-linux
mkfs.ext4 e2fsprogs
mkfs.xfs xfsprogs
curl curl
tar tar
busybox busybox-static
/etc/ssl/certs/ca-certificates.crt ca-certificates
/usr/lib/*/libatomic.so.1 libatomic1
/usr/lib/*/libstdc++.so.6 libstdc++6
'
readonly test_programs='
strace strace
ps procps
'

main() {
  local wanted=$programs
  case ${1-} in
    --tests) wanted+=$test_programs ;;
    '') ;;
    *)
      sed -n '2,8s/^# \{0,1\}//p' "$0"
      exit 2
      ;;
  esac
  install_programs "$wanted"
  install_packages
  check_node
}

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "install-dependencies: $*"
  exit 1
}

# Debian packages of programs that are not there, each once.
missing_packages() {
  local program package
  while read -r program package; do
    [[ -z $program ]] || is_there "$program" || printf '%s\n' "$package"
  done <<<"$1" | sort -u
}

is_there() {
  case $1 in
    /usr/lib/cni/*) [[ -x $1 || -x /opt/cni/bin/${1##*/} || -x /usr/libexec/cni/${1##*/} ]] ;;
    /*) compgen -G "$1" >/dev/null ;;
    # The one of Debian's package "busybox" needs libc and does not start in an empty root file system.
    busybox) command -v busybox >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1 ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

install_programs() {
  local -a packages
  mapfile -t packages < <(missing_packages "$1")
  # npm and the Node that runs it, when neither is there and they are needed.
  if ! packages_installed && ! command -v npm >/dev/null; then packages+=(nodejs npm); fi
  ((${#packages[@]} == 0)) || apt_install "${packages[@]}"
}

apt_install() {
  command -v apt-get >/dev/null || fail "this machine has no apt-get; install by its own means: $*"
  ((EUID == 0)) || fail "root is needed to install: apt-get install $*"
  say "installing from Debian: $*"
  local log
  log=$(mktemp)
  if ! apt_steps "$@" >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    fail "apt-get could not install: $*"
  fi
  rm -f "$log"
}

# Nothing starts a service, asks a question or brings more than is needed.
apt_steps() {
  # One of us at a time; dpkg's own lock is waited for, too.
  local lock
  exec {lock}</var/lib/dpkg
  flock "$lock"
  local -a options=(-q -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  export DEBIAN_FRONTEND=noninteractive
  local attempt
  for attempt in 1 2 3 4 5; do
    if apt-get "${options[@]}" update; then break; fi
    # Somebody else is reading the lists.
    ((attempt < 5)) || return 1
    sleep 5
  done
  apt-get "${options[@]}" install "$@" || return 1
  exec {lock}<&-
}

# A file of ours tells for which lock file node_modules was made; npm's own has the time.
readonly stamp=node_modules/.package-lock.sha256

packages_installed() {
  [[ -e node_modules/.package-lock.json ]] || return 1
  if [[ -e $stamp ]]; then sha256sum --status --check "$stamp"; else [[ node_modules/.package-lock.json -nt package-lock.json ]]; fi
}

install_packages() {
  packages_installed && return
  say 'installing from npm: what package-lock.json names'
  local log
  log=$(mktemp)
  # None of the packages needs an install script, so none is run.
  if ! npm ci --ignore-scripts --no-audit --no-fund --no-progress >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    fail 'npm ci failed'
  fi
  rm -f "$log"
  link_node
  sha256sum package-lock.json >"$stamp"
}

# npm 9, Debian's, does not link the program of an optional package.
link_node() {
  local program
  for program in node_modules/node-linux-*/bin/node; do
    if [[ -x $program && ! -e node_modules/.bin/node ]]; then ln -sfn "../${program#node_modules/}" node_modules/.bin/node; fi
  done
}

check_node() {
  local version
  version=$(PATH="$PWD/node_modules/.bin:$PATH" node -p 'process.versions.node' 2>/dev/null) || version=none
  [[ ${version%%.*} =~ ^[0-9]+$ ]] && ((${version%%.*} >= node_minimum)) && return
  fail "Node $node_minimum or newer is needed, found: $version (npm has one for x64 and arm64 only)"
}

main "$@"
