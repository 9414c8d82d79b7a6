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

# shellcheck source=launch/_common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

main() {
  local command accelerator=cpu image='' runs=runs detach=0 own=() name=docker
  read_command 'build, run'
  [[ $command == build ]] || own=(runs= detach)
  read_options accelerator= image= "${own[@]}"
  check_pattern --accelerator "$accelerator" 'cpu|cuda12|cuda13|tpu' \
    'use cpu, cuda12, cuda13 or tpu'
  image=${image:-ldc_vae:$accelerator}
  if [[ $command == build ]]; then
    check_no_program run
  else
    check_program "$root/" /runs
    check_expanded --runs "$runs"
  fi
  require docker 'install it: https://docs.docker.com/engine/install'
  "${command}_image"
}

build_image() {
  local commit
  commit=$(commit_of_root)
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
  [[ $accelerator == tpu ]] ||
    flags+=(--security-opt=no-new-privileges --cap-drop=ALL)
  case $accelerator in
    cuda*) flags+=(--gpus=all --shm-size=8g) ;;
    tpu) flags+=(--privileged --network=host) ;;  # the chips are host devices
  esac
  ((detach == 0)) || flags+=(--detach)
  if look_up run docker ps --quiet "--filter=name=^$name\$"; then
    say "$name is running already"
    return
  fi
  # A run that ended together with the machine has left its container.
  ((dry_run)) || docker rm "$name" > /dev/null 2>&1 || true
  # Docker would make the folder for root.
  run mkdir -p "$runs" || fail "cannot make --runs=$runs; give another folder"
  run_last docker run "${flags[@]}" "$image" "${program[@]}"
}

help_if_asked
main
