#!/bin/sh
# The tutorial on booted machines, as the last part of `make test`: where machines can be booted. Where they cannot, it says
# why in one line, and that is no failure; `make e2e` insists.
set -eu
cd "$(dirname "$0")/.."

skip() {
  echo "skipped: the tutorial on booted machines (make e2e): $1"
  exit 0
}

[ "$(id -u)" = 0 ] || skip 'it takes root'
# user_namespaces(7): the namespace that the system began with maps all there are.
grep -q ' 4294967295$' /proc/self/uid_map || skip 'it takes root of the whole system, not of a user namespace'
scripts/setup.sh e2e >&2 || skip 'a program is missing, see above'
# A mirror may not answer, or slowly.
reason=$(timeout 300 node test/e2e/probe.ts) || skip "${reason:-no machine had booted after 300 s}"
node scripts/binary.ts
exec vitest run --config test/e2e/vitest.config.ts
