#!/usr/bin/env bash
# Makes the environment if it is missing, then runs the tests.
#
#   bash launch/test.sh                          # all but the slow ones
#   bash launch/test.sh tests/test_svgd.py -k kernel
#   bash launch/test.sh -m slow
#
# Arguments are those of pytest; paths in them are relative to the project.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/_environment.sh
source "$root/launch/_environment.sh"

ensure_environment "$root"
cd "$root"
if (($# == 0)); then
  # One more than cores, as some tests wait for programs that they started; not
  # many, as each of them compiles on all cores.
  program='from ldc_vae import jobs; print(min(jobs.num_cores() + 1, 4))'
  set -- -n "$("$python" -c "$program")" --dist=loadfile --no-loadscope-reorder
fi
exec "$python" -m pytest "$@"
