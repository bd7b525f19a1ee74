#!/usr/bin/env bash
# From nothing to containers with networks and volumes in a few minutes, on a Debian 12 machine as root: installs what is
# missing, builds, starts a daemon of its own, shows what Berth does, checks every result, removes everything.
#
#   scripts/quickstart.sh            leaves nothing behind
#   scripts/quickstart.sh --keep     leaves the daemon running and says what to try next
#   scripts/quickstart.sh --clean    removes what --keep left
#
# A daemon that runs on this machine already is not touched.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly repository=$PWD
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
. scripts/leftovers.sh

readonly state=/var/lib/berth-quickstart run=/run/berth-quickstart
readonly image=busybox:quickstart bridge=berth0 cgroup=berth-quickstart
readonly disk_mib=32
readonly names='berth-quickstart|berth0|10\.86\.'
readonly flags=(
  --root "$state/root" --run "$run" --cgroup-parent "$cgroup"
  # Empty directories: the network is the one Berth brings, the CSI plugin the embedded one.
  --cni-conf-dir "$state/net.d" --csi-conf-dir "$state/csi.d"
)
export BERTH_HOST=unix://$run/berthd.sock

main() {
  ((EUID == 0)) || fail 'root is needed: namespaces, mounts and addresses are made'
  keep=''
  case ${1-} in
    '') ;;
    --keep) keep=yes ;;
    --clean)
      keep_note=$state/before
      clean_up
      say 'The quickstart daemon and everything of it is removed.'
      exit 0
      ;;
    *)
      sed -n '2,10s/^# \{0,1\}//p' "$repository/scripts/quickstart.sh"
      exit 2
      ;;
  esac
  [[ ! -e $state && ! -e $run ]] || fail "an earlier quickstart is still there; remove it: scripts/quickstart.sh --clean"

  step 'Installing what is missing and building'
  scripts/install-dependencies.sh
  PATH="$repository/node_modules/.bin:$PATH" npm run --silent build
  note 'bin/berthd is the daemon, bin/berth the command line.'

  trap finish EXIT
  trap 'exit 130' INT TERM
  remember_machine
  start_daemon
  make_image
  make_volumes
  run_first
  run_second
  if [[ -n $keep ]]; then
    next_steps
    trap - EXIT
    exit 0
  fi
  remove_everything
  trap - EXIT
  printf '\nEverything worked, and nothing is left on this machine (%d s).\n' "$SECONDS"
}

number=0
step() { printf '\n%d. %s\n' $((number += 1)) "$*"; }
note() { printf '   %s\n' "$*"; }
say() { printf '%s\n' "$*"; }

fail() {
  printf '\nquickstart: %s\n' "$*" >&2
  exit 1
}

# Runs berth as it is shown; what it writes is shown, too, and kept in $output.
show() {
  local word words='berth'
  for word in "$@"; do
    if [[ $word =~ [[:space:]] ]]; then word="'$word'"; fi
    words+=" $word"
  done
  printf '   $ %s\n' "$words"
  if ! output=$(bin/berth "$@" 2>&1); then
    sed 's/^/     /' <<<"$output"
    fail "berth $1 $2 failed"
  fi
  if [[ -n $output ]]; then sed 's/^/     /' <<<"$output"; fi
}

# expect PATTERN WHAT: $output has a line that matches.
expect() {
  grep -qE "$1" <<<"$output" || fail "$2: expected a line like /$1/, got: $output"
}

# What is to be as it was afterwards.
remember_machine() {
  mkdir -p "$state"/{net.d,csi.d}
  keep_note=$state/before
  {
    printf 'bridge_before=%q\n' "$([[ -e /sys/class/net/$bridge ]] && echo yes)"
    printf 'forwarding=%q\n' "$(cat /proc/sys/net/ipv4/ip_forward)"
    printf 'chains=%q\n' "$(iptables -t filter -S CNI-FORWARD >/dev/null 2>&1 && echo yes)"
    printf 'leases=%q\n' "$([[ -e /var/lib/cni ]] && echo yes)"
    printf 'things=%q\n' "$(leftovers "$names" | grep -v "^directory $state")"
  } >"$keep_note"
}

start_daemon() {
  step 'Starting a daemon of its own'
  note "$ berthd ${flags[*]}"
  launch_daemon || fail "berthd is not ready; its log says: $(tail -n 5 "$state/berthd.log")"
  note "It runs as process $daemon and logs to $state/berthd.log. What it thinks of this machine:"
  # A warning is no obstacle here: what follows shows what works.
  { bin/berth doctor || true; } | sed 's/^/     /'
}

# Ready once the embedded driver is.
launch_daemon() {
  bin/berthd "${flags[@]}" </dev/null >>"$state/berthd.log" 2>&1 &
  daemon=$!
  echo "$daemon" >"$state/berthd.pid"
  local tries=150
  until bin/berth csi ls 2>/dev/null | grep -q ' ready '; do
    kill -0 "$daemon" 2>/dev/null && ((tries-- > 0)) || return 1
    sleep 0.2
  done
}

make_image() {
  step 'Making an image of a directory with one program, busybox'
  local rootfs=$state/rootfs name
  mkdir -p "$rootfs"/{bin,dev,etc,proc,root,sys,tmp}
  cp "$(command -v busybox)" "$rootfs/bin/busybox"
  for name in $("$rootfs/bin/busybox" --list); do
    [[ -e $rootfs/bin/$name ]] || ln -s busybox "$rootfs/bin/$name"
  done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$rootfs/etc/passwd"
  echo 'root:x:0:' >"$rootfs/etc/group"
  tar -c --owner=0 --group=0 -f "$state/busybox.tar" -C "$rootfs" .
  show image import "$state/busybox.tar" "$image"
  show image ls
  expect "${image/:/.*}" 'the image is not listed'
}

make_volumes() {
  step 'Making two volumes through the embedded CSI driver: a file system and a raw disk'
  show csi ls
  expect 'local\.csi\.berth .*ready' 'the embedded driver is not ready'
  show volume create data --size 64Mi
  show volume create disk --size "${disk_mib}Mi" --access block
  show volume ls
}

run_first() {
  step 'Running a container on the default network, with both volumes'
  note 'It shows its address, pings its gateway, writes to the file system, asks the disk for its size.'
  note '(ping needs NET_RAW, which containers do not have unless asked for.)'
  show run --rm --name first --cap-add NET_RAW -v data:/data --device disk:/dev/xvda "$image" -- sh -ec '
    ip -4 -o addr show eth0 | awk "{ print \"address\", \$4 }"
    gateway=$(ip route | awk "/^default/ { print \$3 }")
    ping -c 1 -W 5 "$gateway" >/dev/null && echo "gateway $gateway answers"
    echo "hello from the first container" >/data/greeting
    echo "disk has $(blockdev --getsize64 /dev/xvda) bytes"'
  expect '^address 10\.86\.[0-9.]+/16$' 'the container has no address of the default network'
  expect '^gateway 10\.86\.[0-9.]+ answers$' 'the gateway did not answer'
  expect "^disk has $((disk_mib * 1024 * 1024)) bytes$" 'the disk has not the size asked for'
}

run_second() {
  step 'Running a second container that reads what the first one wrote'
  show run --rm --name second -v data:/data:ro "$image" -- cat /data/greeting
  expect '^hello from the first container$' 'the second container did not find it'
  show ps -a
}

next_steps() {
  cat <<END

Everything worked. The daemon goes on running; in a shell:

   cd $repository
   export BERTH_HOST=$BERTH_HOST
   bin/berth run -d --name web -v data:/srv -p 8080:80 $image -- httpd -f -h /srv
   curl http://127.0.0.1:8080/greeting         # what the first container wrote
   bin/berth ps
   bin/berth logs web
   kill -9 $daemon; bin/berth ps          # the daemon is gone, the container runs on: curl again, then
   bin/berthd ${flags[*]} &
   bin/berth stop web; bin/berth rm web

Remove everything: scripts/quickstart.sh --clean
END
}

remove_everything() {
  step 'Removing everything'
  show volume rm data disk
  show image rm "$image"
  clean_up
  local left
  left=$(left_since "$things_before" "$names" 10)
  [[ -z $left ]] || fail "left on this machine: $left"
  note 'Namespaces, addresses, mounts, loop devices, cgroups, processes, rules: none is left.'
}

# A failure or an interruption: whatever there is goes, the exit code stays.
finish() {
  local code=$?
  if ((code != 0)) && [[ -s $state/berthd.log ]]; then
    printf '\nEnd of the log of berthd:\n' >&2
    tail -n 20 "$state/berthd.log" | cut -c 1-600 >&2
  fi
  clean_up || true
  exit "$code"
}

clean_up() {
  local bridge_before='' forwarding='' chains='' leases='' things=''
  # shellcheck source=/dev/null
  if [[ -s ${keep_note-} ]]; then . "$keep_note"; fi
  things_before=$things
  end_containers
  end_daemon
  take_away
  find /sys/fs/cgroup -depth -type d -name "$cgroup" -exec rmdir {} + 2>/dev/null || true
  if [[ -s ${keep_note-} ]]; then restore_machine; fi
  rm -rf --one-file-system "$state" "$run"
}

end_containers() {
  [[ -e $state/root/berth.db ]] || return 0
  # A start finds everything an earlier one left.
  bin/berth version >/dev/null 2>&1 || launch_daemon || return 0
  local -a ids volumes
  mapfile -t ids < <(bin/berth ps -aq 2>/dev/null)
  ((${#ids[@]} == 0)) || bin/berth rm -f "${ids[@]}" >/dev/null || true
  mapfile -t volumes < <(bin/berth volume ls --format json 2>/dev/null | grep -oE '"name": *"[^"]+"' | cut -d '"' -f 4)
  ((${#volumes[@]} == 0)) || bin/berth volume rm "${volumes[@]}" >/dev/null || true
}

# By pid, and only while that pid is a daemon of this place.
end_daemon() {
  local pid tries=200
  pid=$(cat "$state/berthd.pid" 2>/dev/null) || return 0
  # And one that was started by hand after --keep.
  for pid in "$pid" $(process_lines | grep -F -- "main.js --root $state/root " | cut -d ' ' -f 1); do
    is_daemon "$pid" || continue
    kill -TERM "$pid"
    while is_daemon "$pid"; do
      if ((tries-- == 0)); then kill -KILL "$pid"; fi
      sleep 0.1
    done
  done
}

is_daemon() {
  tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF -- "--root $state/root "
}

# What a daemon that could not be started again may have left; nothing else has these names.
take_away() {
  local path device pids
  while pids=$(processes_of_ours) && [[ -n $pids ]]; do
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null || true
    sleep 0.1
  done
  awk -v a="$state/" -v b="$run/" 'index($5, a) == 1 || index($5, b) == 1 { print $5 }' /proc/self/mountinfo | tac |
    while read -r path; do umount --lazy "$path" || true; done
  losetup --list --noheadings --output NAME,BACK-FILE | awk -v a="$state/" 'index($2, a) == 1 { print $1 }' |
    while read -r device; do losetup --detach "$device" || true; done
  find /sys/fs/cgroup -depth -type d -path "*/$cgroup/*" -exec rmdir {} + 2>/dev/null || true
}

# Supervisors and plugins name a directory of ours, containers are in our cgroup.
processes_of_ours() {
  {
    process_lines | grep -F -e "$state/" -e "$run/" | grep -vE '^[0-9]+ grep ' | cut -d ' ' -f 1
    find /sys/fs/cgroup -path "*/$cgroup*" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  } | sort -u
}

# The bridge, its rules and what CNI plugins keep for good, unless they were there before.
restore_machine() {
  [[ -z $bridge_before ]] || return 0
  ip link delete "$bridge" 2>/dev/null || true
  if [[ -z $chains ]]; then
    iptables -w -t filter -D FORWARD -m comment --comment 'CNI firewall plugin rules' -j CNI-FORWARD 2>/dev/null || true
    for chain in CNI-FORWARD CNI-ADMIN; do
      iptables -w -t filter -F "$chain" 2>/dev/null || true
    done
    for chain in CNI-FORWARD CNI-ADMIN; do
      iptables -w -t filter -X "$chain" 2>/dev/null || true
    done
  fi
  # Only what is ours: another runtime may have begun to keep its leases beside it.
  rm -rf /var/lib/cni/networks/berth
  if [[ -z $leases && -d /var/lib/cni/networks ]]; then
    rmdir --parents --ignore-fail-on-non-empty /var/lib/cni/networks
  fi
  if [[ $forwarding == 0 ]]; then echo 0 >/proc/sys/net/ipv4/ip_forward; fi
}

main "$@"
