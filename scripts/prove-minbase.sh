#!/usr/bin/env bash
# Proves that the quickstart works on a machine that has nothing: a minimal Debian 12 is made by debootstrap, entered in
# mount and process namespaces of its own (network and cgroups are the host's), given the committed state of this
# repository, and the quickstart runs in it. Afterwards nothing is left, whatever happened.
#
#   scripts/prove-minbase.sh                                   runs scripts/quickstart.sh
#   scripts/prove-minbase.sh scripts/install-dependencies.sh   runs another command there
#
#   MINBASE_TARBALL=FILE   keeps the minimal system in FILE and takes it from there the next time
#
# Needs root and debootstrap. How the host reaches its package registries (mirror, proxies, certificates, resolver) is
# carried over, since it says nothing about what is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly repository=$PWD
readonly suite=bookworm
readonly names='berth-minbase\.|berth-quickstart|berth0|10\.86\.'
. scripts/leftovers.sh
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '\n== %s\n' "$*"; }

fail() {
  printf 'prove-minbase: %s\n' "$*" >&2
  exit 1
}

main() {
  ((EUID == 0)) || fail 'root is needed'
  command -v debootstrap >/dev/null || fail 'debootstrap is needed: apt-get install debootstrap'
  local -a command=("$@")
  ((${#command[@]} > 0)) || command=(scripts/quickstart.sh)
  work=$(mktemp -d /var/tmp/berth-minbase.XXXXXX)
  root=$work/root
  before=$(leftovers "$names") || true
  trap clean_up EXIT
  trap 'exit 130' INT TERM

  local seconds_made seconds_run
  SECONDS=0
  say "Making a minimal Debian $suite in $root"
  make_system
  seconds_made=$SECONDS
  carry_over
  mkdir -p "$root/root/berth"
  git -C "$repository" archive HEAD | tar -x -C "$root/root/berth"

  say "It has neither $(absent_there); running ${command[*]} in it"
  SECONDS=0
  enter "${command[@]}" </dev/null || fail "${command[*]} failed with $? in the minimal system"
  seconds_run=$SECONDS
  say 'Looking for what is left on the host'
  clean_up
  trap - EXIT
  local left
  left=$(left_since "$before" "$names" 10)
  [[ -z $left ]] || fail "left on the host: $left"
  say "Proved: ${command[*]} passed on a minimal Debian $suite (made in $seconds_made s, run in $seconds_run s), nothing is left"
}

make_system() {
  local tarball=${MINBASE_TARBALL-}
  mkdir -p "$root"
  if [[ -n $tarball && -s $tarball ]]; then
    tar -x -f "$tarball" -C "$root"
    return
  fi
  debootstrap --variant=minbase "$suite" "$root" "$(mirror)" >"$work/debootstrap.log" 2>&1 || {
    tail -n 30 "$work/debootstrap.log" >&2
    fail 'debootstrap failed'
  }
  if [[ -n $tarball ]]; then tar -c -f "$tarball.new" -C "$root" . && mv "$tarball.new" "$tarball"; fi
}

# The mirror this host's apt uses for the suite, else Debian's own.
mirror() {
  local site=''
  if command -v apt-get >/dev/null; then
    site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' "Codename: $suite" 'Label: Debian' 2>/dev/null |
      head -n 1) || true
  fi
  printf '%s\n' "${site:-http://deb.debian.org/debian}"
}

# Settings that say how to reach registries, where the host has any.
carry_over() {
  local file
  for file in /etc/resolv.conf /etc/hosts /etc/npmrc /usr/etc/npmrc /root/.npmrc /etc/apt/auth.conf; do
    [[ -f $file ]] && copy_there "$file"
  done
  for file in /etc/apt/apt.conf /etc/apt/apt.conf.d/*; do
    [[ -f $file ]] && grep -qi 'acquire' "$file" && copy_there "$file"
  done
  # Taken up when the package ca-certificates is installed.
  for file in /usr/local/share/ca-certificates/*.crt; do
    [[ -f $file ]] && copy_there "$file"
  done
  return 0
}

copy_there() {
  mkdir -p "$root$(dirname "$1")"
  cp --dereference --remove-destination "$1" "$root$1"
}

absent_there() {
  local name
  for name in node npm gcc conmon crun runc curl ip iptables; do
    [[ -e $root/usr/bin/$name || -e $root/usr/sbin/$name ]] || printf '%s ' "$name"
  done | sed 's/ $//; s/ /, /g; s/\(.*\),/\1 nor/'
}

# Variables by which programs are told about proxies and certificates.
carried_variables() {
  local name
  for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY NODE_EXTRA_CA_CERTS SSL_CERT_FILE SSL_CERT_DIR; do
    [[ -n ${!name-} ]] && printf '%s=%s\0' "$name" "${!name}"
  done
  return 0
}

# Everything mounted and started in there goes away with the namespaces.
enter() {
  local -a variables
  mapfile -d '' variables < <(carried_variables)
  unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
    bash -euo pipefail -c '
      root=$1 && shift
      mount --bind "$root" "$root"
      mount --rbind /sys "$root/sys"
      mount --rbind /dev "$root/dev"
      mount -t proc proc "$root/proc"
      mount -t tmpfs -o mode=755 tmpfs "$root/run"
      mkdir -p "$root/run/host"
      cd "$root"
      pivot_root . run/host
      exec chroot . bash -c "umount --lazy /run/host && rmdir /run/host && cd /root/berth && \"\$@\"" bash "$@"
    ' bash "$root" env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    TERM="${TERM:-dumb}" "${variables[@]}" "$@"
}

clean_up() {
  local had_bridge=''
  [[ $before == *'interface berth0'* ]] && had_bridge=yes
  if [[ -z $had_bridge && -e /sys/class/net/berth0 ]]; then ip link delete berth0; fi
  losetup --list --noheadings --output NAME,BACK-FILE | awk -v root="$root/" 'index($2, root) == 1 { print $1 }' |
    xargs --no-run-if-empty --max-args=1 losetup --detach
  [[ ! -e $work ]] || rm -rf --one-file-system "$work"
}

main "$@"
