#!/usr/bin/env bash
# Trains on a Cloud TPU VM, v2 to v6e, from this machine.
#
#   bash launch/tpu.sh create NAME --zone=Z --accelerator-type=v6e-8
#   bash launch/tpu.sh setup  NAME --zone=Z       # code and environment
#   bash launch/tpu.sh train  NAME --zone=Z -- --config=configs/mnist.py \
#                                              --workdir=runs/mnist
#   bash launch/tpu.sh status NAME --zone=Z
#   bash launch/tpu.sh fetch  NAME --zone=Z --workdir=runs/mnist
#   bash launch/tpu.sh stop   NAME --zone=Z       # saves a checkpoint
#   bash launch/tpu.sh delete NAME --zone=Z
#
# Each can be given again: what is done already is success, and train continues
# a run from its latest checkpoint. Options:
#   --zone=ZONE --project=PROJECT  where; the project is gcloud's by default
#   --dry-run                      prints the commands, runs nothing
#   --internal-ip                  no external addresses, for create, ssh, scp
#   create: --accelerator-type=TYPE [--runtime-version=VERSION] [--network=N]
#           [--subnetwork=N] [--spot]
#           [--queued [--wait]]    a queued resource; --wait: until it is active
#   setup:  [--python=PYTHON]      a Python of the VM, 3.11 or newer
#   fetch:  --workdir=DIR [--output=DIR]  to DIR/NAME of the workdir; DIR is
#                                  runs/NAME of the TPU by default
#
# A relative --workdir lies in ~/ldc_vae on the VM and is lost with it: on spot
# VMs, and on slices of several hosts, give a folder of a mounted file system.
# Google serves TPU7x and later through GKE only: see gke.sh.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/_common.sh
source "$root/launch/_common.sh"

readonly install_gcloud='install it: https://cloud.google.com/sdk/docs/install'
readonly worker=ldc_vae/launch/_tpu_worker.sh  # below the VM's home
readonly commands='create, setup, train, status, fetch, stop, delete'

main() {
  local command=${1:-} zone='' project='' internal_ip=0 accelerator_type=''
  local runtime_version='' network='' subnetwork='' spot=0 queued=0 wait=0
  local python='' output='' where=() name own=() answer complaint
  case $command in
    create)
      own=(accelerator-type runtime-version network subnetwork 'spot!'
        'queued!' 'wait!') ;;
    setup) own=(python) ;;
    fetch) own=(workdir output) ;;
    train | status | stop | delete) ;;
    '') mistake "the command is missing; use one of $commands" ;;
    *) mistake "$command is not a command; use one of $commands" ;;
  esac
  shift
  name=${1:-}
  if [[ -z $name || $name == -* ]]; then
    mistake "the name of the TPU is missing; write $command NAME, as" \
      "$command my-tpu"
  fi
  shift
  check_pattern NAME "$name" '[a-z]([-a-z0-9]{0,61}[a-z0-9])?' \
    'use up to 63 small letters, digits and hyphens, a letter first'
  split_arguments "$@"
  read_options zone project 'internal-ip!' ${own[@]+"${own[@]}"}
  [[ -n $zone ]] || mistake '--zone is missing; give one, as us-central1-a'
  check_pattern --zone "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z0-9]+' \
    'give a zone, as us-central1-a'
  where=("--zone=$zone")
  if [[ -n $project ]]; then
    check_pattern --project "$project" \
      '([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]' \
      'give the ID of a project, as my-project-123'
    where+=("--project=$project")
  fi
  if [[ $command == train ]]; then
    check_program "$root"
  elif ((${#program[@]})); then
    mistake "${program[0]} follows --, which only train reads; leave it out"
  fi
  "check_$command"
  require gcloud "$install_gcloud"
  "$command"
}

# What each command can know before it runs anything.

check_create() {
  local size=${accelerator_type##*-} image sizes known
  case $accelerator_type in
    '')
      mistake '--accelerator-type is missing; give a type, as v2-8, v3-8,' \
        'v4-8, v5litepod-8, v5p-8 or v6e-8' ;;
    v5e-*)
      mistake "--accelerator-type=$accelerator_type is not valid; give the" \
        "name that this service has for it, v5litepod-$size" ;;
    tpu7* | v7*)
      mistake "--accelerator-type=$accelerator_type is no TPU VM; use" \
        'launch/gke.sh' ;;
    v[234]-*) image=tpu-ubuntu2204-base ;;
    v5litepod-*) image=v2-alpha-tpuv5-lite ;;
    v5p-*) image=v2-alpha-tpuv5 ;;
    v6e-*) image=v2-alpha-tpuv6e ;;
    *)
      mistake "--accelerator-type=$accelerator_type is not valid; give v2," \
        'v3, v4, v5litepod, v5p or v6e with a size, as v6e-8' ;;
  esac
  case $accelerator_type in  # v5litepod and v6e count chips, the others cores
    v5litepod-* | v6e-*) sizes='1|4|8|16|32|64|128|256' ;;
    v2-*) sizes='8|32|128|256|512' ;;
    v3-*) sizes='8|32|64|128|256|512|1024|2048' ;;
    *) sizes='a multiple of 8' ;;
  esac
  known=$sizes
  if [[ $sizes == a* && $size =~ ^[1-9][0-9]{0,4}$ ]] && ((size % 8 == 0)); then
    known=$size
  fi
  [[ $size =~ ^($known)$ ]] ||
    mistake "--accelerator-type=$accelerator_type has no such size; use" \
      "${accelerator_type%-*}-N, where N is ${sizes//|/, }"
  runtime_version=${runtime_version:-$image}
  if ((wait && ! queued)); then
    mistake '--wait is given without --queued; add --queued, or leave it out,' \
      'as create waits by itself'
  fi
}

check_setup() { :; }

check_train() { :; }

check_status() { :; }

check_stop() { :; }

check_delete() { :; }

check_fetch() {
  [[ -n $workdir ]] ||
    mistake '--workdir is missing; give the one of train, as runs/mnist'
  check_workdir
  workdir=${workdir%/}
  case /$workdir/ in
    // | */../* | */./*)
      mistake "--workdir=$workdir does not name a folder; give the one of" \
        'train, as runs/mnist' ;;
  esac
  check_expanded --output "$output"
  output=${output:-runs/$name}
}

# gcloud.

tpus() {
  local group=$1 verb=$2
  shift 2
  run gcloud compute tpus "$group" "$verb" "$@" "${where[@]}"
}

# lookup GROUP FIELDS: sets `answer` to fields of the TPU VM or its queued
# resource, separated by commas; false where there is none. A dry run prints
# the question and finds nothing.
lookup() {
  local command=(tpus "$1" describe "$name" "--format=csv[no-heading]($2)")
  if ((dry_run)); then
    "${command[@]}"
    return 1
  fi
  if ask "${command[@]}"; then
    return
  fi
  if [[ $complaint != *NOT_FOUND* ]]; then
    say "$complaint"
    fail "gcloud could not look $name up; see the lines above"
  fi
  return 1
}

# Sets node_state (empty: there is none), node_type, node_workers, node_label.
lookup_node() {
  node_state='' node_type='' node_workers=1 node_label=''
  if lookup tpu-vm \
    'state,acceleratorType.basename(),networkEndpoints.len(),labels.ldc_vae'
  then
    IFS=, read -r node_state node_type node_workers node_label <<< "$answer"
  fi
}

# Sets queue_state (empty: there is none), queue_label and queue_reason.
lookup_queue() {
  local node='tpu.nodeSpec[0].node'
  queue_state='' queue_type='' queue_label='' queue_reason=''
  if lookup queued-resources "state.state,$node.acceleratorType.basename(),\
$node.labels.ldc_vae,state.failedData.error.message"; then
    IFS=, read -r queue_state queue_type queue_label queue_reason \
      <<< "$answer"
  fi
}

# ssh to workers: on_workers WHICH COMMAND.
on_workers() {
  tpus tpu-vm ssh "$name" "--worker=$1" ${inside[@]+"${inside[@]}"} \
    "--command=$2"
}

# Fails unless the TPU VM can be reached; sets `inside`, flags of ssh and scp.
need_node() {
  inside=()
  if ((internal_ip)); then
    inside=(--internal-ip)
  fi
  lookup_node
  if ((dry_run)); then
    return
  fi
  case $node_state in
    READY) ;;
    '')
      lookup_queue
      [[ -z $queue_state ]] || tell_queue
      fail "there is no TPU VM $name in $zone; make it first: tpu.sh create" ;;
    *) tell_node ;;
  esac
}

# Says what a TPU VM that is not ready needs, and fails.
tell_node() {
  case $node_state in
    PREEMPTED)
      fail "$name was pre-empted (PREEMPTED); delete it and create it again:" \
        'train continues from what --workdir kept' ;;
    TERMINATED | STOPPED | HIDDEN)
      fail "$name is $node_state; delete it and create it again" ;;
    *) fail "$name is $node_state; wait until it is READY" ;;
  esac
}

# Says what a queued resource that is not active needs, and fails.
tell_queue() {
  case $queue_state in
    SUSPENDING | SUSPENDED)
      fail "the queued resource $name was pre-empted ($queue_state); delete" \
        'it and create it again: train continues from what --workdir kept' ;;
    FAILED)
      fail "the queued resource $name failed" \
        "(${queue_reason:-no reason given}); delete it and create it again" ;;
    *) fail "the queued resource $name is $queue_state; ask again later" ;;
  esac
}

# The commands.

create() {
  local flags=("--labels=ldc_vae=$label_value" ${network:+"--network=$network"}
    ${subnetwork:+"--subnetwork=$subnetwork"})
  if ((spot)); then
    flags+=(--spot)
  fi
  if ((internal_ip)); then
    flags+=(--internal-ips)  # create has the plural, ssh and scp do not
  fi
  lookup_node
  if [[ -n $node_state ]]; then
    keep_node
    return
  fi
  lookup_queue
  if [[ -n $queue_state ]]; then
    keep_queue
    return
  fi
  # What another call has made meanwhile is success.
  if ((queued)); then
    # Here the version is --runtime-version; for tpu-vm it is --version.
    tpus queued-resources create "$name" "--node-id=$name" \
      "--accelerator-type=$accelerator_type" \
      "--runtime-version=$runtime_version" "${flags[@]}" --async ||
      say "gcloud could not queue $name; see the lines above"
    ((dry_run)) || lookup_queue
    keep_queue
  else
    tpus tpu-vm create "$name" "--accelerator-type=$accelerator_type" \
      "--version=$runtime_version" "${flags[@]}" ||
      say "gcloud could not create $name; see the lines above"
    ((dry_run)) || lookup_node
    keep_node
  fi
}

# An existing TPU VM: success where it is what was asked for.
keep_node() {
  if ((dry_run)); then
    return
  fi
  [[ -n $node_state ]] ||
    fail "there is no $name; give the same command again, with another --zone" \
      'or with --queued where none is free'
  check_type "$node_type"
  [[ $node_state == READY ]] || tell_node
  say "$name is READY; next: tpu.sh setup $name --zone=$zone"
  if [[ $node_label != "$label_value" ]]; then
    say "$name was not made by this script, which will not delete it"
  fi
  warn_of_spot
}

warn_of_spot() {
  if ((spot)); then
    say "$name is a spot VM: its disk is lost with it; keep --workdir on a" \
      'mounted file system'
  fi
}

# An existing queued resource: success while it may become active.
keep_queue() {
  local before=''
  if ((dry_run)); then
    return
  fi
  [[ -z $queue_type ]] || check_type "$queue_type"
  while :; do
    case $queue_state in
      ACTIVE)
        say "the queued resource $name is ACTIVE; next: tpu.sh setup $name" \
          "--zone=$zone"
        warn_of_spot
        return ;;
      ACCEPTED | CREATING | PROVISIONING | WAITING_FOR_RESOURCES) ;;
      '')
        fail "there is no queued resource $name; give the same command again" ;;
      *) tell_queue ;;
    esac
    if [[ $queue_state != "$before" ]]; then
      say "the queued resource $name is $queue_state"
    fi
    ((wait)) || return 0
    before=$queue_state
    sleep "${LDC_VAE_POLL_SECONDS:-30}"
    lookup_queue
  done
}

check_type() {
  [[ $1 == "$accelerator_type" ]] ||
    fail "$name exists and is a $1, not --accelerator-type=$accelerator_type;" \
      'use another name, or delete it first'
}

setup() {
  local archive unpack
  need_node
  if ((dry_run)); then
    archive=ldc_vae.tar.gz
    say "first $root is packed into $archive, without what git ignores"
  else
    scratch=$(mktemp -d) || fail 'cannot make a temporary folder'
    trap 'rm -rf "$scratch"' EXIT
    archive=$scratch/ldc_vae.tar.gz
    pack "$archive"
  fi
  tpus tpu-vm scp "$archive" "$name:ldc_vae.tar.gz" --worker=all \
    ${inside[@]+"${inside[@]}"} ||
    fail "could not copy the code to $name; see the lines above"
  unpack="set -e; if [ -f $worker ]; then bash $worker idle; fi;"
  unpack+=' mkdir -p ldc_vae; tar -xzf ldc_vae.tar.gz -C ldc_vae;'
  unpack+=" bash $worker setup${python:+ $(quote "$python")}"
  on_workers all "$unpack" ||
    fail "could not set $name up; see the lines above, and give the same" \
      'command again'
}

# Packs the project: in a git checkout what git does not ignore, and its
# history, from which a run records its commit.
pack() {
  local archive=$1 file files=()
  if [[ -d $root/.git ]] && command -v git > /dev/null; then
    while IFS= read -r -d '' file; do
      [[ ! -e $root/$file ]] || files+=("$file")  # or it was removed
    done < <(git -C "$root" ls-files -z --cached --others --exclude-standard)
    files+=(.git)
  else
    for file in ldc_vae configs launch requirements.txt setup.cfg \
      pyproject.toml; do
      [[ ! -e $root/$file ]] || files+=("$file")
    done
  fi
  printf '%s\0' "${files[@]}" |
    tar -czf "$archive" -C "$root" --null -T - ||
    fail "could not pack $root; is the disk full?"
}

train() {
  need_node
  if ((dry_run)); then
    say 'train is followed by the number of workers, which describe prints:'
  elif ((node_workers > 1)) && [[ $workdir != /* ]]; then
    fail "--workdir=$workdir is a folder of each of the $node_workers" \
      "workers of $name; give an absolute path that all of them see"
  fi
  on_workers all \
    "bash $worker train $node_workers $(quote "${program[@]}")" ||
    fail "not every worker of $name started; see the lines above, and give" \
      'the same command again'
}

status() {
  if ((dry_run)); then
    inside=()
    lookup_node
    lookup_queue
    on_workers all "bash $worker status"
    return
  fi
  lookup_queue
  if [[ -n $queue_state ]]; then
    echo "queued resource $name: $queue_state"
  fi
  need_node
  echo "TPU VM $name: $node_type, $node_state, $node_workers worker(s)"
  on_workers all "bash $worker status" ||
    fail "$name did not answer; is it set up? tpu.sh setup $name --zone=$zone"
}

stop() {
  need_node
  on_workers all "bash $worker stop" ||
    fail "not every worker of $name has stopped; see the lines above"
}

fetch() {
  local from=$workdir copy=$output/${workdir##*/}
  # Beside the copy: a folder without it is not ours to write into.
  local mark=$output/.${workdir##*/}.fetched
  if [[ $from != /* ]]; then
    from=ldc_vae/$from
  fi
  if [[ -e $copy && ! -e $mark ]]; then
    fail "$copy exists and was not fetched from a TPU VM; give another --output"
  fi
  need_node
  run mkdir -p "$output" ||
    fail "cannot make --output=$output; give another folder"
  ((dry_run)) || echo "$name:$from" > "$mark"
  tpus tpu-vm scp "$name:$from" "$output/" --recurse --worker=0 \
    ${inside[@]+"${inside[@]}"} ||
    fail "could not fetch $from from $name; see the lines above"
  ((dry_run)) || say "fetched into $copy"
}

delete() {
  if ((dry_run)); then
    say 'the first of these that exists and was made by this script is deleted:'
    tpus queued-resources delete "$name" --force --quiet
    tpus tpu-vm delete "$name" --quiet
    return
  fi
  lookup_queue
  if [[ -n $queue_state ]]; then
    check_is_ours "$queue_label"
    # --force: with its TPU VM.
    tpus queued-resources delete "$name" --force --quiet ||
      fail "gcloud could not delete the queued resource $name; see above"
    return
  fi
  lookup_node
  if [[ -z $node_state ]]; then
    say "there is no $name in $zone: nothing to delete"
    return
  fi
  check_is_ours "$node_label"
  tpus tpu-vm delete "$name" --quiet ||
    fail "gcloud could not delete $name; see above"
}

check_is_ours() {
  [[ $1 == "$label_value" ]] ||
    fail "$name was not made by this script (it lacks the label" \
      "ldc_vae=$label_value); delete it with gcloud if you mean it"
}

help_if_asked "${BASH_SOURCE[0]}" "$@"
main "$@"
