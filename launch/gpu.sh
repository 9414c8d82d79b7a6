#!/usr/bin/env bash
# Trains on the NVIDIA GPUs of this machine: one process, which uses them all.
#
#   bash launch/gpu.sh -- --config=configs/mnist.py --workdir=runs/mnist
#   bash launch/gpu.sh --devices=0,1 -- --config=...
#
# The same command continues an interrupted run. Options:
#   --devices=LIST  the GPUs to use, as nvidia-smi numbers them (default: all)
#   --dry-run       prints the command, runs nothing

# shellcheck source=launch/_common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

main() {
  local devices='' name='the GPUs' settings=(LDC_VAE_ACCELERATOR=cuda)
  read_options devices=
  if [[ -n $devices ]]; then
    check_pattern --devices "$devices" '[0-9]+(,[0-9]+)*' \
      'give numbers of nvidia-smi, such as 0,1'
    # The own order of CUDA is by speed; that of nvidia-smi is by PCI bus.
    settings+=(CUDA_DEVICE_ORDER=PCI_BUS_ID "CUDA_VISIBLE_DEVICES=$devices")
  fi
  check_program ''
  require nvidia-smi 'install the NVIDIA driver, or use launch/local.sh'
  ((dry_run)) || check_devices
  run_last env "${settings[@]}" bash "$root/launch/local.sh" "${program[@]}"
}

check_devices() {
  local device known
  known=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>&1) &&
    [[ $known =~ ^[0-9] ]] || {
    say "$known"
    fail 'nvidia-smi finds no GPU; see the line above, or use launch/local.sh'
  }
  for device in ${devices//,/ }; do
    [[ $'\n'$known$'\n' == *$'\n'$device$'\n'* ]] ||
      mistake "--devices=$devices: there is no GPU $device; use some of" \
        "${known//$'\n'/,}"
  done
}

help_if_asked
main
