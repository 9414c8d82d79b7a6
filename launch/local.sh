#!/usr/bin/env bash
# Makes the environment if it is missing, then runs ldc_vae.main.
#
#   bash launch/local.sh                                  # trains the digits
#   bash launch/local.sh --config=configs/mnist.py:vae --workdir=runs/mnist_vae
#
# Arguments are those of `python -m ldc_vae.main`; paths in them are relative
# to the current directory. _environment.sh lists the variables that are read.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/_environment.sh
source "$root/launch/_environment.sh"

ensure_environment "$root"
if (($# == 0)); then
  set -- --config=configs/digits.py --workdir=runs/digits
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
# -P: a module of the current directory hides none of ours.
exec "$python" -P -m ldc_vae.main "$@"
