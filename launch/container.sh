#!/usr/bin/env bash
# Builds the container image, and trains in it on this machine.
#
#   bash launch/container.sh build --accelerator=cuda12
#   bash launch/container.sh run   --accelerator=cuda12 -- \
#     --config=configs/mnist.py --workdir=/runs/mnist
#
# The same command continues an interrupted run; one that is running is left
# alone. `docker stop NAME` saves a checkpoint. Options:
#   --accelerator=cpu|cuda12|cuda13|tpu  (default: cpu)
#   --image=IMAGE   its name (default: ldc_vae:ACCELERATOR)
#   --dry-run       prints the commands, runs nothing
#   run: --runs=DIR   the folder that is /runs inside (default: runs)
#        --detach     in the background; `docker logs NAME` shows the log
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/_common.sh
source "$root/launch/_common.sh"

main() {
  local command=${1:-} accelerator=cpu image='' runs=runs detach=0 own=() name
  local answer complaint
  case $command in
    build) ;;
    run) own=(runs 'detach!') ;;
    '') mistake 'the command is missing; use build or run' ;;
    *) mistake "$command is not a command; use build or run" ;;
  esac
  shift
  split_arguments "$@"
  read_options accelerator image ${own[@]+"${own[@]}"}
  check_pattern --accelerator "$accelerator" 'cpu|cuda12|cuda13|tpu' \
    'use cpu, cuda12, cuda13 or tpu'
  image=${image:-ldc_vae:$accelerator}
  check_pattern --image "$image" '[a-z0-9][a-zA-Z0-9._/:-]*' \
    'give a name and a tag, as ldc_vae:cpu'
  if [[ $command == run ]]; then
    check_program "$root" /runs
    check_expanded --runs "$runs"
    [[ $runs != *:* ]] ||
      mistake "--runs=$runs has a colon, which docker reads as the end of a" \
        'path; give a folder without one'
  elif ((${#program[@]})); then
    mistake "${program[0]} follows --, which only run reads; leave it out"
  fi
  require docker 'install it: https://docs.docker.com/engine/install'
  "${command}_image"
}

build_image() {
  local commit=''
  if [[ -e $root/.git ]] && command -v git > /dev/null; then
    commit=$(git -C "$root" rev-parse HEAD 2> /dev/null) || commit=''
  fi
  if [[ -n $commit && -n $(git -C "$root" status --porcelain -uno) ]]; then
    commit+=+dirty
  fi
  run docker build "--file=$root/launch/Dockerfile" "--tag=$image" \
    "--build-arg=ACCELERATOR=$accelerator" \
    ${commit:+"--build-arg=COMMIT=$commit"} \
    ${commit:+"--label=org.opencontainers.image.revision=$commit"} "$root" ||
    fail "docker could not build $image; see the lines above"
}

run_image() {
  local flags=(--rm --init "--user=$(id -u):$(id -g)" --stop-timeout=60)
  [[ $runs == /* ]] || runs=$PWD/$runs
  workdir=$runs${workdir#/runs}
  name=$(run_name)
  flags+=("--name=$name" "--label=managed-by=$label_value"
    "--volume=$runs:/runs")
  case $accelerator in
    cuda*) flags+=(--gpus=all --shm-size=8g) ;;
    tpu) flags+=(--privileged --network=host) ;;  # the chips are host devices
  esac
  if ((detach)); then
    flags+=(--detach)
  fi
  if ((dry_run)); then
    run docker ps --quiet "--filter=name=^$name\$"
  else
    if ! ask docker ps --quiet "--filter=name=^$name\$"; then
      say "$complaint"
      fail 'docker does not answer; see the lines above'
    fi
    if [[ -n $answer ]]; then
      say "$name is running already"
      return
    fi
    remove_ended
  fi
  # Docker would make it for root.
  run mkdir -p "$runs" || fail "cannot make --runs=$runs; give another folder"
  run_last docker run "${flags[@]}" "$image" "${program[@]}"
}

# A container that ended with the daemon, or the machine, keeps its name.
remove_ended() {
  local state filters=("--filter=name=^$name\$"
    "--filter=label=managed-by=$label_value")
  for state in created exited dead; do
    filters+=("--filter=status=$state")
  done
  ask docker ps --all --quiet "${filters[@]}" || answer=''
  [[ -z $answer ]] || ask docker rm "$answer" ||
    fail "docker could not remove $name, which has ended; see: docker ps --all"
}

help_if_asked "${BASH_SOURCE[0]}" "$@"
main "$@"
