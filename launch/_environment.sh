#!/usr/bin/env bash
# Sourced by the other launchers: makes the Python environment, or reuses it.
#
# ensure_environment ROOT sets $python, the environment's interpreter. It reads
#   LDC_VAE_VENV         where the environment lies (default: ROOT/.venv)
#   LDC_VAE_PYTHON       the Python to make it with (default: one is found)
#   LDC_VAE_ACCELERATOR  cpu, cuda or tpu (default: what the machine has)

# The stamp is written last: without one, an environment is incomplete.
readonly stamp_name=ldc_vae_stamp
readonly marker_name=ldc_vae_environment

fail() {
  echo "error: $*" >&2
  exit 1
}

ensure_environment() {
  local root=$1
  local venv=${LDC_VAE_VENV:-$root/.venv}
  local wanted=${LDC_VAE_ACCELERATOR:-auto}
  case $wanted in
    auto | cpu | cuda | tpu) ;;
    *) fail "LDC_VAE_ACCELERATOR=$wanted is unknown; use cpu, cuda or tpu" ;;
  esac
  [[ $venv == /* ]] || venv=$PWD/$venv
  # shellcheck disable=SC2034  # the caller runs it
  python=$venv/bin/python
  if [[ $wanted == cpu ]]; then
    export JAX_PLATFORMS=cpu  # an environment with more serves as well
  fi
  if is_current "$root" "$venv" "$wanted"; then
    return
  fi
  mkdir -p "$(dirname "$venv")" ||
    fail "cannot make $(dirname "$venv"); set LDC_VAE_VENV to another folder"
  with_lock "$venv.lock" make_environment "$root" "$venv" "$wanted"
}

# Prints what the accelerator is judged by, cheaply: nvidia-smi takes too long
# to run each time, so a new device node or a new nvidia-smi asks it again.
evidence() {
  local device_nodes=(/dev/nvidiactl /dev/dxg /dev/accel[0-9]* /dev/vfio/[0-9]*)
  local node
  echo "nvidia-smi $(command -v nvidia-smi || true)"
  echo "tpu ${TPU_NAME:-}${TPU_ACCELERATOR_TYPE:-}${TPU_WORKER_ID:-}"
  for node in "${device_nodes[@]}"; do
    if [[ -e $node ]]; then
      echo "device $node"
    fi
  done
}

requirements_line() {
  echo "requirements $(cksum < "$1/requirements.txt")"
}

# True where the environment is whole and suits requirements, accelerator and
# Python.
is_current() {
  local root=$1 venv=$2 wanted=$3 stamp
  [[ -x $venv/bin/python && -f $venv/$stamp_name ]] || return 1
  stamp=$(< "$venv/$stamp_name")
  [[ $stamp == *"$(requirements_line "$root")"* ]] || return 1
  [[ $stamp == *"version $(version_of "$venv/bin/python")"* ]] || return 1
  if [[ -n ${LDC_VAE_PYTHON:-} ]]; then
    [[ $stamp == *"python $LDC_VAE_PYTHON"$'\n'* ]] || return 1
  fi
  case $wanted in
    cpu) ;;  # every build of jax runs on a CPU
    auto) [[ $stamp == *"matches auto"*"$(evidence)" ]] ;;
    *) [[ $stamp == *"accelerator $wanted"* ]] ;;
  esac
}

# Prints an interpreter's version, as 3.11; an upgrade of the system changes it.
version_of() {
  "$1" -ISc 'import sys; print("%d.%d" % sys.version_info[:2])'
}

# Runs a command while holding a lock that dies with its holder.
with_lock() {
  local lock=$1 holder seconds=0
  shift
  if command -v flock > /dev/null; then
    (
      flock -n 9 || {
        echo "waiting for another process that makes the environment" >&2
        flock 9
      }
      "$@"
    ) 9> "$lock" || exit
    return
  fi
  until mkdir "$lock.d" 2> /dev/null; do
    holder=$(cat "$lock.d/pid" 2> /dev/null || true)
    if [[ -n $holder ]] && ! kill -0 "$holder" 2> /dev/null ||
      [[ -z $holder && $((seconds += 1)) -gt 10 ]]; then
      rm -rf "$lock.d"  # its holder was killed
    fi
    sleep 1
  done
  echo $$ > "$lock.d/pid"
  ("$@") || {
    local code=$?
    rm -rf "$lock.d"
    exit "$code"
  }
  rm -rf "$lock.d"
}

make_environment() {
  local root=$1 venv=$2 wanted=$3 base accelerator extra=() jax
  if is_current "$root" "$venv" "$wanted"; then
    return  # another process made it while this one waited
  fi
  if [[ -e $venv && ! -d $venv ]]; then
    fail "$venv is a file; set LDC_VAE_VENV to a folder"
  fi
  if [[ -d $venv && ! -f $venv/$marker_name && -n $(ls -A "$venv") ]]; then
    fail "$venv exists and was not made here; remove it, or set LDC_VAE_VENV" \
      "to another folder"
  fi
  base=$(find_python) || exit
  accelerator=$(find_accelerator "$wanted") || exit
  echo "making the environment $venv ($("$base" --version)," \
    "$accelerator); the first time takes some minutes" >&2
  # Called before `||`, so that bash ignores `set -e` here: each step is asked.
  { rm -rf "$venv" && mkdir -p "$venv" && touch "$venv/$marker_name"; } ||
    fail "cannot write to $venv; set LDC_VAE_VENV to another folder"
  "$base" -m venv "$venv" >&2 ||
    fail "$base could not make an environment in $venv; see the lines above"
  if [[ $accelerator != cpu ]]; then
    jax=jax[$accelerator]
    extra=("$jax")  # its version is the one that requirements.txt pins
  fi
  # -I: neither PYTHONPATH nor the user's own packages count as installed.
  "$venv/bin/python" -I -m pip install --disable-pip-version-check \
    -r "$root/requirements.txt" ${extra[@]+"${extra[@]}"} >&2 ||
    fail "pip could not install requirements.txt; see the lines above, and" \
      "run the same command again"
  if ! describe_environment "$@" "$base" "$accelerator" \
    > "$venv/$stamp_name.new" ||
    ! mv "$venv/$stamp_name.new" "$venv/$stamp_name"; then
    fail "cannot write to $venv; is the disk full?"
  fi
}

# Prints the stamp of an environment.
describe_environment() {
  local root=$1 base=$4 accelerator=$5
  requirements_line "$root"
  echo "version $(version_of "$base")"
  echo "python $base"
  echo "accelerator ${accelerator%%1[0-9]}"  # cuda12 is cuda
  if [[ $accelerator == "$(find_accelerator auto)" ]]; then
    echo "matches auto"
  fi
  evidence
}

# Prints a Python that is new enough and can make environments.
find_python() {
  local candidates=(python3.13 python3.12 python3.11 python3.14 python3 python)
  local candidate incapable=''
  if [[ -n ${LDC_VAE_PYTHON:-} ]]; then
    candidates=("$LDC_VAE_PYTHON")
  fi
  for candidate in "${candidates[@]}"; do
    # A name may be there and not run, as the shims of pyenv.
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2> /dev/null || continue
    if "$candidate" -c 'import ensurepip, venv' 2> /dev/null; then
      echo "$candidate"
      return
    fi
    incapable=${incapable:-$candidate}
  done
  if [[ -n $incapable ]]; then
    fail "$incapable cannot make environments as it lacks ensurepip; install" \
      "it, on Debian and Ubuntu with: sudo apt-get install" \
      "python$(version_of "$incapable")-venv"
  fi
  fail "Python 3.11 or newer is needed and ${candidates[*]} is not; install" \
    "it from https://www.python.org/downloads or set LDC_VAE_PYTHON to it"
}

# Prints the extra of jax for a wanted accelerator: cpu, cuda12, cuda13 or tpu.
find_accelerator() {
  local cuda
  case $1 in
    cpu | tpu) echo "$1" ;;
    cuda) cuda_of_driver || echo cuda12 ;;
    auto)
      if cuda=$(cuda_of_driver); then
        echo "$cuda"
      elif has_tpu /dev /sys; then
        echo tpu
      else
        echo cpu
      fi
      ;;
  esac
}

# Prints cuda12 or cuda13, or fails where no NVIDIA driver answers.
cuda_of_driver() {
  local answer
  answer=$(nvidia-smi --query-gpu=driver_version,compute_cap \
    --format=csv,noheader 2> /dev/null) || return 1
  # CUDA 13 needs driver 580 and leaves out GPUs below 7.5; CUDA 12 needs 525.
  awk -F '[,.] *' '
    NR == 1 { driver = $1; capability = 99 }
    { c = $(NF - 1) + $NF / 10; if (c < capability) capability = c }
    END {
      if (driver >= 580 && capability >= 7.5) print "cuda13"
      else if (driver >= 525) print "cuda12"
      else exit 1
    }' <<< "$answer"
}

# True on a machine with a TPU: its own device nodes, or vfio ones together
# with a TPU's variables or its PCI identity. (A folder DEV/accel is no TPU.)
has_tpu() {
  local dev=$1 sys=$2 node device
  for node in "$dev"/accel[0-9]*; do
    if [[ -e $node ]]; then
      return 0
    fi
  done
  for node in "$dev"/vfio/[0-9]*; do
    [[ -e $node ]] || continue
    if [[ -n ${TPU_NAME:-}${TPU_ACCELERATOR_TYPE:-}${TPU_WORKER_ID:-} ]]; then
      return 0
    fi
    for device in "$sys"/bus/pci/devices/*; do
      [[ $(cat "$device/vendor" 2> /dev/null) == 0x1ae0 ]] || continue
      case $(cat "$device/device" 2> /dev/null) in
        0x0027 | 0x0056 | 0x005e | 0x0062 | 0x0063 | 0x006f | 0x0076)
          return 0 ;;  # v3 to v7; the vendor makes network cards too
      esac
    done
  done
  return 1
}
