#!/usr/bin/env bash
# Trains on the NVIDIA GPUs of this machine: one process, which uses them all.
#
#   bash launch/gpu.sh -- --config=configs/mnist.py --workdir=runs/mnist
#   bash launch/gpu.sh --devices=0,1 -- --config=...
#
# The same command continues an interrupted run. Options:
#   --devices=LIST  the GPUs to use, as nvidia-smi numbers them (default: all)
#   --dry-run       prints the command, runs nothing
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/_common.sh
source "$root/launch/_common.sh"

main() {
  local devices='' device answer complaint settings=(LDC_VAE_ACCELERATOR=cuda)
  split_arguments "$@"
  read_options devices
  if [[ -n $devices ]]; then
    check_pattern --devices "$devices" '[0-9]+(,[0-9]+)*' \
      'give numbers of nvidia-smi, as 0,1'
    for device in ${devices//,/ }; do
      [[ ,${devices//,/,,}, != *,"$device",*,"$device",* ]] ||
        mistake "--devices=$devices names $device twice; name it once"
    done
    # CUDA's own order is by speed; nvidia-smi's is by PCI bus.
    settings+=(CUDA_DEVICE_ORDER=PCI_BUS_ID "CUDA_VISIBLE_DEVICES=$devices")
  fi
  check_program .
  require nvidia-smi 'install the NVIDIA driver, or use launch/local.sh'
  ((dry_run)) || find_devices
  run_last env "${settings[@]}" bash "$root/launch/local.sh" "${program[@]}"
}

# Fails unless the driver knows the devices.
find_devices() {
  local device
  if ! ask nvidia-smi --query-gpu=index --format=csv,noheader ||
    [[ ! $answer =~ ^[0-9] ]]; then
    say "$complaint${answer:+ $answer}"
    fail 'nvidia-smi finds no GPU; see the line above, or use launch/local.sh'
  fi
  for device in ${devices//,/ }; do
    [[ $'\n'$answer$'\n' == *$'\n'$device$'\n'* ]] ||
      mistake "--devices=$devices: there is no GPU $device; use some of" \
        "${answer//$'\n'/,}"
  done
}

help_if_asked "${BASH_SOURCE[0]}" "$@"
main "$@"
