#!/bin/sh
# A CNI plugin for tests. Copied under any name into BASE/bin, it records each run and then does what the test wrote down.
#
#   BASE/runs/NNN/name, env, stdin     one directory a run, numbered in order of start
#   BASE/does/NAME.COMMAND             a piece of shell that answers; without it ADD gives one address and
#                                      every other command succeeds
base=${0%/*}/..
name=${0##*/}
n=1
until mkdir "$base/runs/$(printf %03d $n)" 2>/dev/null; do
  n=$((n + 1))
  [ $n -gt 999 ] && exit 99
done
run=$base/runs/$(printf %03d $n)
printf %s "$name" >"$run/name"
# What it was started with: the shell adds variables of its own to what env would print.
tr '\0' '\n' <"/proc/$$/environ" | LC_ALL=C sort >"$run/env"
cat >"$run/stdin"
does=$base/does/$name.$CNI_COMMAND
if [ -f "$does" ]; then
  . "$does"
elif [ "$CNI_COMMAND" = ADD ]; then
  printf '{"cniVersion":"1.0.0","ips":[{"address":"10.87.10.2/24"}]}'
elif [ "$CNI_COMMAND" = VERSION ]; then
  printf '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'
fi
