#!/usr/bin/env bash
# Makes the environment if it is missing, then runs the tests.
#
#   bash launch/test.sh                          # all but the slow ones
#   bash launch/test.sh tests/svgd/test_kernels.py -k kernel
#   bash launch/test.sh -m slow
#
# Arguments are those of pytest; paths in them are relative to the project.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/_environment.sh
source "$root/launch/_environment.sh"

ensure_environment "$root"
if (($# == 0)); then
  # One more than cores, as some tests wait: an eighth faster on two cores.
  # More than four would not be faster: each of them compiles on all cores.
  # A worker that dies, or hangs for ten minutes, ends it with the test's name.
  cores=$({ nproc || getconf _NPROCESSORS_ONLN || echo 2; } 2> /dev/null)
  set -- -n "$((cores < 3 ? cores + 1 : 4))" --dist=loadfile \
    --no-loadscope-reorder --max-worker-restart=0 \
    -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
fi
cd "$root"
exec "$python" -m pytest "$@"
