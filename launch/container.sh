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
#   build: --base=IMAGE  has Python 3.11 or newer. A tag, as of the default, may
#          move; python@sha256:DIGEST does not. This prints the digest of a tag:
#          docker buildx imagetools inspect python:3.12.11-slim-bookworm
#   run: --runs=DIR   the folder that is /runs inside (default: runs)
#        --detach     in the background; `docker logs NAME` shows the log

# shellcheck source=launch/_common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

main() {
  local command accelerator=cpu image='' base='' runs=runs detach=0 own=(base=)
  local name=docker
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
    "--build-arg=ACCELERATOR=$accelerator" ${base:+"--build-arg=BASE=$base"} \
    ${commit:+"--build-arg=COMMIT=$commit"} \
    ${commit:+"--label=org.opencontainers.image.revision=$commit"} "$root" ||
    fail "docker could not build $image; see the lines above"
}

run_image() {
  local flags=(--rm --init "--user=$(id -u):$(id -g)" --stop-timeout=60)
  [[ $runs == /* ]] || runs=$PWD/$runs
  is_in_bucket || workdir=$runs${workdir#/runs}
  name=$(run_name)
  flags+=("--name=$name" "--label=managed-by=$label_value"
    "--volume=$runs:/runs" --security-opt=no-new-privileges)
  case $accelerator in
    cpu) flags+=(--cap-drop=ALL) ;;
    cuda*) flags+=(--cap-drop=ALL --gpus=all --shm-size=8g) ;;
    # The chips are host devices. Without root there are no capabilities.
    tpu) flags+=(--privileged --network=host) ;;
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
