#!/usr/bin/env bash
# Makes the environment if it is missing, then runs ldc_vae.main.
#
#   bash launch/local.sh                                  # trains the digits
#   bash launch/local.sh --config=configs/mnist.py:vae --workdir=runs/mnist_vae
#
# The arguments are those of `python -m ldc_vae.main`; paths in them are
# relative to the current folder. _environment.sh lists the variables it reads.

# shellcheck source=launch/_environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

ensure_environment
if (($# == 0)); then
  set -- --config=configs/digits.py --workdir=runs/digits
fi
become_main "$@"
