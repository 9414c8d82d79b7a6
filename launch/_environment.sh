#!/usr/bin/env bash
# Sourced by all launchers. Makes the Python environment, or reuses it.
#
# ensure_environment sets $python, the interpreter of the environment. It reads
#   LDC_VAE_VENV         the folder of the environment (default: ROOT/.venv)
#   LDC_VAE_PYTHON       the Python to make it with (default: it looks for one)
#   LDC_VAE_ACCELERATOR  cpu, cuda or tpu (default: what the machine has)
# and installs a file of launch/locks/, with the hashes of all packages: that of
# the accelerator, or $lock.txt. $requirements is what it was made from.

# Without -u: bash 3.2, which macOS has, calls an empty array unset.
set -eo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
requirements=$root/requirements.txt
lock=''

fail() {
  echo "error: $*" >&2
  exit 1
}

# Becomes the program. -P: no module of the current folder hides one of ours.
become_main() {
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  exec "$python" -P -m ldc_vae.main "$@"
}

ensure_environment() {
  local venv=${LDC_VAE_VENV:-$root/.venv} wanted=$LDC_VAE_ACCELERATOR
  case $wanted in
    '') wanted=$(guess_accelerator /dev /sys) ;;
    cpu) export JAX_PLATFORMS=cpu ;;
    cuda | tpu) ;;
    *) fail "LDC_VAE_ACCELERATOR=$wanted is unknown; use cpu, cuda or tpu" ;;
  esac
  [[ $venv == /* ]] || venv=$PWD/$venv
  # This file records what the environment was made from. It is empty until
  # the environment is complete.
  local stamp_file=$venv/ldc_vae_stamp
  python=$venv/bin/python
  if is_current; then
    return
  fi
  mkdir -p "$(dirname "$venv")" ||
    fail "cannot make $(dirname "$venv"); set LDC_VAE_VENV to another folder"
  if ! command -v flock > /dev/null; then  # macOS has none
    make_environment
    return
  fi
  (
    if ! flock -n 9; then
      echo 'waiting for another process that makes the environment' >&2
      flock 9
    fi
    is_current || make_environment
  ) 9> "$venv.lock" || exit
}

# True if the environment is complete and fits the requirements, the
# accelerator and the Python.
is_current() {
  local stamp
  [[ -x $python && -s $stamp_file ]] || return 1
  stamp=$(< "$stamp_file")
  [[ $stamp == *"$(requirements_line)"* ]] || return 1
  [[ $stamp == *"version $(version_of "$python")"* ]] || return 1
  [[ -z $LDC_VAE_PYTHON || $stamp == *"python $LDC_VAE_PYTHON"$'\n'* ]] ||
    return 1
  # Every build of jax runs on a CPU.
  [[ $wanted == cpu || $stamp == *"accelerator $wanted"* ]]
}

requirements_line() {
  echo "requirements $(cksum < "$requirements")"
}

# Prints the version of an interpreter, such as 3.11.
version_of() {
  "$1" -ISc 'import sys; print("%d.%d" % sys.version_info[:2])'
}

# `set -e` has no effect in here, because this runs before a `||`.
make_environment() {
  local base accelerator file
  if [[ ! -f $stamp_file && -n $(ls -A "$venv" 2> /dev/null) ]]; then
    fail "$venv exists and was not made here; remove it, or set LDC_VAE_VENV" \
      'to another folder'
  fi
  base=$(find_python) || exit
  accelerator=$wanted
  if [[ $wanted == cuda ]]; then
    accelerator=$(cuda_of_driver) || accelerator=cuda12
  fi
  echo "making the environment $venv ($("$base" --version)," \
    "$accelerator); the first time takes some minutes" >&2
  { rm -rf "$venv" && mkdir -p "$venv" && : > "$stamp_file"; } ||
    fail "cannot write to $venv; set LDC_VAE_VENV to another folder"
  "$base" -m venv "$venv" >&2 ||
    fail "$base could not make an environment in $venv; see the lines above"
  file=launch/locks/${lock:-$accelerator}.txt
  # -I: packages of PYTHONPATH or of the user do not count as installed.
  "$python" -I -m pip install --disable-pip-version-check \
    --require-hashes -r "$root/$file" >&2 ||
    fail "pip could not install $file; see the lines above, and run the same" \
      'command again'
  {
    requirements_line
    echo "version $(version_of "$base")"
    echo "python $base"
    echo "accelerator $accelerator"
  } > "$stamp_file" || fail "cannot write to $venv; is the disk full?"
}

# Prints a Python that is new enough and can make environments.
find_python() {
  local candidates=(python3.13 python3.12 python3.11 python3.14 python3 python)
  local candidate incapable=''
  if [[ -n $LDC_VAE_PYTHON ]]; then
    candidates=("$LDC_VAE_PYTHON")
  fi
  for candidate in "${candidates[@]}"; do
    # A name can exist and still not run, such as a shim of pyenv.
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2> /dev/null || continue
    if "$candidate" -c 'import ensurepip, venv' 2> /dev/null; then
      echo "$candidate"
      return
    fi
    incapable=${incapable:-$candidate}
  done
  if [[ -n $incapable ]]; then
    fail "$incapable cannot make environments, because it lacks ensurepip;" \
      'install it, on Debian and Ubuntu with: sudo apt-get install' \
      "python$(version_of "$incapable")-venv"
  fi
  fail "Python 3.11 or newer is needed, and ${candidates[*]} is not; install" \
    'it from https://www.python.org/downloads or set LDC_VAE_PYTHON to it'
}

# Prints cuda12 or cuda13, or fails if no NVIDIA driver answers.
cuda_of_driver() {
  local answer
  answer=$(nvidia-smi --query-gpu=driver_version,compute_cap \
    --format=csv,noheader 2> /dev/null) || return 1
  # CUDA 13 needs driver 580 and a GPU of 7.5 or newer; CUDA 12 needs 525.
  awk -F '[,.] *' '
    NR == 1 { driver = $1; capability = 99 }
    { c = $(NF - 1) + $NF / 10; if (c < capability) capability = c }
    END {
      if (driver >= 580 && capability >= 7.5) print "cuda13"
      else if (driver >= 525) print "cuda12"
      else exit 1
    }' <<< "$answer"
}

# guess_accelerator DEV SYS: prints cuda, tpu or cpu. nvidia-smi takes too long
# to be run at each start. A TPU (v2 to v7) is known by its PCI device.
guess_accelerator() {
  if command -v nvidia-smi > /dev/null && [[ -e $1/nvidiactl || -e $1/dxg ]]
  then
    echo cuda
  elif grep -qsE '^PCI_ID=1AE0:00(27|56|5E|62|63|6F|76)$' \
    "$2"/bus/pci/devices/*/uevent; then
    echo tpu
  else
    echo cpu
  fi
}
