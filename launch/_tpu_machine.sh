#!/usr/bin/env bash
# Sourced by tpu.sh: what gcloud is asked to do with a TPU VM as a whole.

# shellcheck source=launch/_common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

# Options of tpu.sh.
zone='' internal_ip=0 accelerator_type='' runtime_version='' network=''
subnetwork='' spot=0 queued=0 wait=0

where=()  # the zone and the project

check_create() {
  local image=''
  case $accelerator_type in
    v[234]-[1-9]*) image=tpu-ubuntu2204-base ;;
    v5litepod-[1-9]*) image=v2-alpha-tpuv5-lite ;;
    v5p-[1-9]*) image=v2-alpha-tpuv5 ;;
    v6e-[1-9]*) image=v2-alpha-tpuv6e ;;
    *)
      mistake "--accelerator-type=$accelerator_type is not valid; give v2," \
        'v3, v4, v5litepod (which is v5e), v5p or v6e with a size, such as' \
        'v6e-8; for newer TPUs use launch/gke.sh' ;;
  esac
  runtime_version=${runtime_version:-$image}
  if ((wait && ! queued)); then
    mistake '--wait is given without --queued; add --queued, or leave it out,' \
      'because create waits by itself'
  fi
}

tpus() {
  run gcloud compute tpus "$1" "$2" "$name" "${@:3}" "${where[@]}"
}

# True if the TPU VM exists. Sets node_state (empty: it does not) and the rest.
# shellcheck disable=SC2034  # tpu.sh reads node_workers
find_node() {
  local fields=state,'acceleratorType.basename(),networkEndpoints.len()'
  node_state=''
  look_up tpus tpu-vm describe \
    "--format=csv[no-heading]($fields,labels.ldc_vae)" &&
    IFS=, read -r node_state node_type node_workers node_label <<< "$answer"
}

# True if the queued resource exists. Sets queue_state and the rest.
find_queue() {
  local node='tpu.nodeSpec[0].node' fields
  fields="state.state,$node.acceleratorType.basename(),$node.labels.ldc_vae"
  queue_state=''
  look_up tpus queued-resources describe \
    "--format=csv[no-heading]($fields,state.failedData.error.message)" &&
    IFS=, read -r queue_state queue_type queue_label queue_reason \
      <<< "$answer"
}

# not_ready WHAT STATE [REASON]: fails, and says what to do.
not_ready() {
  local again='delete it and create it again'
  case $2 in
    PREEMPTED | SUSPENDING | SUSPENDED)
      fail "$1 was pre-empted ($2); $again: train continues from what" \
        '--workdir kept' ;;
    TERMINATED | STOPPED | HIDDEN | FAILED)
      fail "$1 is $2${3:+ ($3)}; $again" ;;
    *) fail "$1 is $2; wait until it is ready, and ask again" ;;
  esac
}

# Fails unless the TPU VM can be used.
need_node() {
  if ! find_node && ! ((dry_run)); then
    ! find_queue || not_ready "the queued resource $name" "$queue_state" \
      "$queue_reason"
    fail "there is no TPU VM $name in $zone; make it first: tpu.sh create"
  fi
  ((dry_run)) || [[ $node_state == READY ]] || not_ready "$name" "$node_state"
}

create() {
  local before='' type
  find_node || find_queue || make
  if ((dry_run)); then
    return
  fi
  type=${node_type:-$queue_type}
  [[ -z $type || $type == "$accelerator_type" ]] ||
    fail "$name exists and is a $type, not" \
      "--accelerator-type=$accelerator_type; use another name, or delete it"
  while [[ -z $node_state && $queue_state != ACTIVE ]]; do
    case $queue_state in
      ACCEPTED | CREATING | PROVISIONING | WAITING_FOR_RESOURCES) ;;
      *) not_ready "the queued resource $name" "$queue_state" "$queue_reason" ;;
    esac
    if [[ $queue_state != "$before" ]]; then
      say "the queued resource $name is $queue_state"
    fi
    ((wait)) || return 0
    before=$queue_state
    sleep "${LDC_VAE_POLL_SECONDS:-30}"
    find_queue || fail "there is no queued resource $name any more"
  done
  [[ -z $node_state || $node_state == READY ]] ||
    not_ready "$name" "$node_state"
  say "$name is ${node_state:-$queue_state}; next: tpu.sh setup $name" \
    "--zone=$zone"
  if [[ ${node_label:-$queue_label} != "$label_value" ]]; then
    say "$name was not made by this script, which will not delete it"
  fi
  if ((spot)); then
    say "$name is a spot VM: its disk is lost with it; keep --workdir on a" \
      'mounted file system'
  fi
}

# Makes the TPU VM or the queued resource. If that fails because another call
# was faster, that is success.
make() {
  local flags=("--labels=ldc_vae=$label_value" ${network:+"--network=$network"}
    ${subnetwork:+"--subnetwork=$subnetwork"})
  ((spot == 0)) || flags+=(--spot)
  # create has the plural, ssh and scp do not
  ((internal_ip == 0)) || flags+=(--internal-ips)
  if ((queued)); then
    # Here the version is --runtime-version; for tpu-vm it is --version.
    tpus queued-resources create "--node-id=$name" \
      "--accelerator-type=$accelerator_type" \
      "--runtime-version=$runtime_version" "${flags[@]}" --async ||
      say "gcloud could not queue $name; see the lines above"
    ((dry_run)) || find_queue ||
      fail "there is no queued resource $name; give the same command again"
  else
    tpus tpu-vm create "--accelerator-type=$accelerator_type" \
      "--version=$runtime_version" "${flags[@]}" ||
      say "gcloud could not create $name; see the lines above"
    ((dry_run)) || find_node ||
      fail "there is no $name; give the same command again, with another" \
        '--zone, or with --queued if none is free'
  fi
}

delete() {
  if ((dry_run)); then
    say 'the first of these that exists and was made by this script is deleted:'
    tpus queued-resources delete --force --quiet
    tpus tpu-vm delete --quiet
  elif find_queue; then
    check_label "$queue_label"
    tpus queued-resources delete --force --quiet ||  # --force: with its TPU VM
      fail "gcloud could not delete the queued resource $name; see above"
  elif find_node; then
    check_label "$node_label"
    tpus tpu-vm delete --quiet ||
      fail "gcloud could not delete $name; see above"
  else
    say "there is no $name in $zone: nothing to delete"
  fi
}
