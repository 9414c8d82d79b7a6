#!/usr/bin/env bash
# Trains on a Cloud TPU VM, v2 to v6e, from this machine.
#
#   bash launch/tpu.sh create NAME --zone=Z --accelerator-type=v6e-8
#   bash launch/tpu.sh setup  NAME --zone=Z       # copies the code, installs
#   bash launch/tpu.sh train  NAME --zone=Z -- --config=configs/mnist.py \
#                                              --workdir=runs/mnist
#   bash launch/tpu.sh status NAME --zone=Z
#   bash launch/tpu.sh fetch  NAME --zone=Z --workdir=runs/mnist
#   bash launch/tpu.sh stop   NAME --zone=Z       # saves a checkpoint
#   bash launch/tpu.sh delete NAME --zone=Z
#
# Each command can be repeated: what is done already is success, and train
# continues a run from its latest checkpoint. Options:
#   --zone=ZONE --project=PROJECT  where; the project is gcloud's by default
#   --dry-run                      prints the commands, runs nothing
#   --internal-ip                  no external addresses, for create, ssh, scp
#   create: --accelerator-type=TYPE [--runtime-version=VERSION] [--network=N]
#           [--subnetwork=N] [--spot]
#           [--queued [--wait]]    a queued resource; --wait: until it is active
#   setup:  [--python=PYTHON]      a Python of the VM, 3.11 or newer
#   fetch:  --workdir=DIR [--output=DIR]  copies the workdir into the output
#                                  folder, by default runs/NAME
#
# A relative --workdir is in ~/ldc_vae on worker 0, and is lost with the VM. On
# spot VMs, give a folder of a bucket, as --workdir=gs://BUCKET/mnist.
# Google serves TPU7x and later through GKE only: see gke.sh.

# shellcheck source=launch/_tpu_machine.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_tpu_machine.sh"

readonly worker=ldc_vae/launch/_tpu_worker.sh  # below the home of the VM

main() {
  local project='' python='' output='' own=()
  read_command 'create, setup, train, status, fetch, stop, delete'
  read_name TPU 63 my-tpu
  case $command in
    create)
      own=(accelerator-type= runtime-version= network= subnetwork= spot queued
        wait) ;;
    setup) own=(python=) ;;
    fetch) own=(workdir= output=) ;;
  esac
  read_options zone= project= internal-ip "${own[@]}"
  [[ -n $zone ]] || mistake '--zone is missing; give one, such as us-central1-a'
  where=("--zone=$zone" ${project:+"--project=$project"})
  ((internal_ip == 0)) || inside=(--internal-ip)
  case $command in
    create) check_create ;;
    train) check_program "$root/" ;;
    fetch) check_fetch ;;
  esac
  [[ $command == train ]] || check_no_program train
  require gcloud 'install it: https://cloud.google.com/sdk/docs/install'
  "$command"
}

check_fetch() {
  check_workdir
  ! is_in_bucket ||
    mistake "--workdir=$workdir is in a bucket; copy it from there"
  workdir=${workdir%/}
  [[ -n $workdir && /$workdir/ != */../* && $workdir != . ]] ||
    mistake "--workdir=$workdir does not name a folder; give that of train," \
      'such as runs/mnist'
  check_expanded --output "$output"
  output=${output:-runs/$name}
}

inside=()  # of ssh and scp

on_workers() {
  tpus tpu-vm ssh --worker=all "${inside[@]}" "--command=$1"
}

setup() {
  local archive=ldc_vae.tar.gz unpack
  need_node
  if ((dry_run)); then
    say "first $root is packed into $archive, with what git tracks"
  else
    scratch=$(mktemp -d) || fail 'cannot make a temporary folder'
    trap 'rm -rf "$scratch"' EXIT
    archive=$scratch/$archive
    pack "$archive" || fail "could not pack $root; is the disk full?"
  fi
  run gcloud compute tpus tpu-vm scp "$archive" "$name:ldc_vae.tar.gz" \
    --worker=all "${inside[@]}" "${where[@]}" ||
    fail "could not copy the code to $name; see the lines above"
  unpack="set -e; if [ -f $worker ]; then bash $worker idle; fi;"
  unpack+=' mkdir -p ldc_vae; rm -rf ldc_vae/.git;'  # of earlier versions
  unpack+=' tar -xzf ldc_vae.tar.gz -C ldc_vae;'
  on_workers "$unpack bash $worker setup${python:+ $(quote "$python")}" ||
    fail "could not set $name up; see the lines above, and give the same" \
      'command again'
}

# Packs the project: in a git checkout what git tracks, and the commit, which a
# run records. Secrets do not travel: no history, whose config may have a token,
# and no file that looks like a key.
pack() {
  local file others files=(ldc_vae configs launch locks requirements.txt)
  commit_of_root > "$scratch/.commit"
  if [[ -s $scratch/.commit ]]; then
    files=()
    while IFS= read -r -d '' file; do
      [[ ! -e $root/$file ]] || files+=("$file")  # git lists removed ones too
    done < <(git -C "$root" ls-files -z --cached)
    mapfile -t others < <(git -C "$root" ls-files --others --exclude-standard)
    ((${#others[@]} == 0)) ||
      say "git does not track ${#others[@]} file(s), such as ${others[0]}:" \
        'they are not copied; git add those that the run needs'
  fi
  printf '%s\0' "${files[@]}" |
    tar -czf "$1" --exclude=.git --exclude='.env*' --exclude='*.pem' \
      --exclude='*.key' -C "$root" --null -T - -C "$scratch" .commit
}

train() {
  need_node
  if ((dry_run)); then
    say 'train is followed by the number of workers, which describe prints:'
  fi
  on_workers "bash $worker train ${node_workers:-1} $(quote "${program[@]}")" ||
    fail "not every worker of $name started; see the lines above, and give" \
      'the same command again'
}

status() {
  if find_queue; then
    echo "queued resource $name: $queue_state"
  fi
  need_node
  ((dry_run)) ||
    echo "TPU VM $name: $node_type, $node_state, $node_workers worker(s)"
  on_workers "bash $worker status" ||
    fail "$name did not answer; is it set up? tpu.sh setup $name --zone=$zone"
}

stop() {
  need_node
  on_workers "bash $worker stop" ||
    fail "not every worker of $name has stopped; see the lines above"
}

fetch() {
  local from=$workdir copy=$output/${workdir##*/}
  local mark=$output/.${workdir##*/}.fetched  # says that the copy is ours
  [[ $from == /* ]] || from=ldc_vae/$from
  if [[ -e $copy && ! -e $mark ]]; then
    fail "$copy exists and was not fetched from a TPU VM; give another --output"
  fi
  need_node
  run mkdir -p "$output" ||
    fail "cannot make --output=$output; give another folder"
  ((dry_run)) || echo "$name:$from" > "$mark"
  run gcloud compute tpus tpu-vm scp "$name:$from" "$output/" --recurse \
    --worker=0 "${inside[@]}" "${where[@]}" ||
    fail "could not fetch $from from $name; see the lines above"
  ((dry_run)) || say "fetched into $copy"
}

help_if_asked
main
