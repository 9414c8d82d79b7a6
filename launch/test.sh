#!/usr/bin/env bash
# Makes the environment if it is missing, then checks the project.
#
#   bash launch/test.sh        # lint, types, then all tests but the slow ones
#   bash launch/test.sh tests/svgd/test_kernels.py -k rbf     # these tests only
#   bash launch/test.sh -m slow
#   COVERAGE=92 bash launch/test.sh     # prints the lines that no test has run,
#                                       # and fails below 92 % of all lines
#
# Arguments are those of pytest; paths in them are relative to the project.

# shellcheck source=launch/_environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

ensure_environment
cd "$root"
if (($# == 0)); then
  "$python" -m ruff check
  "$python" -m ruff format --check
  "$python" -m mypy
  # One process more than cores, because some tests wait: an eighth faster on
  # two cores. More than four are not faster: each compiles on all cores. A
  # process that dies, or hangs for ten minutes, ends the tests with its name.
  cores=$({ nproc || getconf _NPROCESSORS_ONLN || echo 2; } 2> /dev/null)
  set -- -n "$((cores < 3 ? cores + 1 : 4))" --dist=loadfile \
    --no-loadscope-reorder --max-worker-restart=0 \
    -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
fi
if [[ -n $COVERAGE ]]; then
  set -- "$@" --cov "--cov-fail-under=$COVERAGE"
fi
exec "$python" -m pytest "$@"
