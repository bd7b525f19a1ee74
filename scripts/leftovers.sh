# Sourced by scripts that make things on the machine: prints one line for each thing with a name of Berth's tests,
# quickstart or bench that is there now. Two listings are compared to see what a run left.

# "PID ARGUMENTS" of every process, from /proc: a minimal system has no ps.
process_lines() {
  local file words
  for file in /proc/[0-9]*/cmdline; do
    # Processes come and go.
    { mapfile -d '' -t words <"$file"; } 2>/dev/null || continue
    file=${file%/cmdline}
    ((${#words[@]} == 0)) || printf '%s %s\n' "${file##*/}" "${words[*]//$'\n'/ }"
  done
}

# leftovers PATTERN: PATTERN is an extended regular expression of names and paths.
leftovers() {
  local pattern=$1
  {
    grep -E "$pattern" /proc/self/mountinfo | cut -d ' ' -f 5 | sed 's/^/mount /'
    ls /sys/class/net | grep -E "$pattern" | sed 's/^/interface /'
    losetup --list --noheadings --output NAME,BACK-FILE | grep -E "$pattern" | sed 's/^/loop device /'
    find /sys/fs/cgroup -type d 2>/dev/null | grep -E "$pattern" | sed 's/^/cgroup /'
    ls /run/netns 2>/dev/null | grep -E "$pattern" | sed 's/^/network namespace /'
    # Not the one that asks.
    process_lines | grep -E "$pattern" | grep -vE '^[0-9]+ grep ' | sed 's/^/process /'
    { iptables-save -t nat && iptables-save -t filter; } 2>/dev/null | grep -E "$pattern" | sed 's/^/rule /'
    ls -d /tmp/berth-* /var/tmp/berth-* /run/berth-* /var/lib/berth-* 2>/dev/null | grep -E "$pattern" | sed 's/^/directory /'
  } | sort
}

# left_since BEFORE PATTERN SECONDS: what is there and was not in BEFORE, once the kernel had so long to let go.
left_since() {
  local before=$1 pattern=$2 seconds=$3 now
  while :; do
    now=$(comm -13 <(printf '%s\n' "$before") <(leftovers "$pattern"))
    if [[ -z $now ]] || ((seconds-- <= 0)); then break; fi
    sleep 1
  done
  printf '%s' "$now"
}
