#!/usr/bin/env bash
# Runs on each worker of a TPU VM, called by tpu.sh over ssh.
#
#   _tpu_worker.sh setup [PYTHON]       makes the environment
#   _tpu_worker.sh train NUM_WORKERS ARGS...  starts the program, or says so
#   _tpu_worker.sh status               its state, log and metrics
#   _tpu_worker.sh stop                 SIGTERM, and waits until it has saved
#   _tpu_worker.sh idle                 fails while the program runs
#
# What it keeps lies in ~/.ldc_vae: the lock that a running program holds, its
# process, arguments, log and exit code.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/_common.sh
source "$root/launch/_common.sh"

readonly state=$HOME/.ldc_vae
readonly file_systems_of_one_host='ext2/ext3|btrfs|tmpfs|overlayfs|xfs'

main() {
  local command=$1
  shift
  mkdir -p "$state" || fail "cannot write to $state; is the disk full?"
  case $command in
    setup) setup "$@" ;;
    train) train "$@" ;;
    _supervise) supervise "$@" ;;
    status) status ;;
    stop) stop ;;
    idle) is_idle || fail "$(host): a run is under way; stop it first" ;;
  esac
}

host() {
  echo "worker ${HOSTNAME:-?}"
}

# A program that lives holds the lock, and its death gives it back.
is_idle() {
  (flock -n 9) 9>> "$state/lock"
}

setup() {
  export LDC_VAE_ACCELERATOR=${LDC_VAE_ACCELERATOR:-tpu}
  if (($#)); then
    export LDC_VAE_PYTHON=$1
  elif ! (find_python) > /dev/null 2>&1; then
    install_python
  fi
  ensure_environment "$root"
  say "$(host): ready"
}

# The images of TPU VMs have Ubuntu 22.04, whose Python is 3.10.
install_python() {
  local apt=(sudo DEBIAN_FRONTEND=noninteractive apt-get -y
    -o DPkg::Lock::Timeout=600)  # a fresh machine is upgrading itself
  say "$(host): installing Python 3.12"
  { sudo add-apt-repository -y ppa:deadsnakes/ppa &&
    "${apt[@]}" update &&
    "${apt[@]}" install python3.12 python3.12-venv; } >&2 ||
    fail "$(host): cannot install Python 3.12; see the lines above, or name" \
      'another one with --python='
}

train() {
  local num_workers=$1 python=${LDC_VAE_VENV:-$root/.venv}/bin/python pid
  shift
  program=("$@")
  check_program "$root"
  if ! is_idle; then
    if [[ $(quote "$@") == "$(cat "$state/arguments" 2> /dev/null)" ]]; then
      say "$(host): already running as process $(< "$state/pid")"
      return
    fi
    fail "$(host): another run is under way, with $(< "$state/arguments");" \
      'stop it first'
  fi
  [[ -x $python ]] || fail "$(host): there is no environment; set it up first"
  cd "$root"
  mkdir -p "$workdir" || fail "$(host): cannot make --workdir=$workdir"
  if ((num_workers > 1)); then
    check_is_shared
    export LDC_VAE_DISTRIBUTED=1
  fi
  quote "$@" > "$state/arguments"
  rm -f "$state/pid" "$state/exit"
  # Away from the terminal of ssh, and with the lock in its descriptor 9.
  setsid bash "$root/launch/_tpu_worker.sh" _supervise "$python" "$@" \
    < /dev/null >> "$state/log" 2>&1 9>> "$state/lock" &
  until [[ -s $state/pid || -s $state/exit ]]; do
    sleep 0.1
    kill -0 $! 2> /dev/null || break
  done
  pid=$(cat "$state/pid" 2> /dev/null) ||
    fail "$(host): the program did not start; see $state/log"
  say "$(host): started as process $pid, the log is $state/log"
}

# All workers write to the workdir: a disk of this machine will not do.
check_is_shared() {
  local kind
  kind=$(stat --file-system --format=%T "$workdir") || kind=unknown
  if [[ $kind =~ ^($file_systems_of_one_host)$ ]]; then
    fail "$(host): --workdir=$workdir lies on this machine's own disk" \
      "($kind); give a folder that all workers see, as of a Filestore mount"
  fi
}

# Keeps the program's process and its exit code.
supervise() {
  local python=$1 pid code
  shift
  flock -n 9 || exit 1  # another one was faster
  export PYTHONPATH=$root
  trap : HUP TERM  # they are for the program, which saves and ends
  echo "--- $(date -u +%Y-%m-%dT%H:%M:%SZ) starting: $(quote "$@")"
  "$python" -P -m ldc_vae.main "$@" &
  pid=$!
  echo "$pid" > "$state/pid"
  while kill -0 "$pid" 2> /dev/null; do
    wait "$pid" || true
  done
  code=0
  wait "$pid" || code=$?
  echo "--- $(date -u +%Y-%m-%dT%H:%M:%SZ) ended with exit code $code"
  echo "$code" > "$state/exit"
}

status() {
  local argument
  if [[ ! -s $state/arguments ]]; then
    echo "$(host): nothing was started"
    return
  fi
  if ! is_idle; then
    echo "$(host): running as process $(cat "$state/pid" 2> /dev/null)"
  elif [[ -s $state/exit ]]; then
    echo "$(host): ended with exit code $(< "$state/exit")"
  else
    echo "$(host): was killed; train continues it from its latest checkpoint"
  fi
  echo "arguments: $(< "$state/arguments")"
  tail -n 5 "$state/log"
  eval "program=($(< "$state/arguments"))"  # quote() wrote it
  for argument in "${program[@]}"; do
    if [[ $argument == --workdir=* ]]; then
      workdir=${argument#*=}
    fi
  done
  cd "$root"
  if [[ -s $workdir/metrics.jsonl ]]; then
    echo "$workdir/metrics.jsonl:"
    tail -n 3 "$workdir/metrics.jsonl"
  fi
}

stop() {
  local seconds
  if is_idle; then
    say "$(host): nothing is running"
    return
  fi
  kill -TERM "$(< "$state/pid")" 2> /dev/null || true
  for ((seconds = 0; seconds < ${LDC_VAE_STOP_SECONDS:-60}; ++seconds)); do
    if is_idle; then
      say "$(host): stopped"
      return
    fi
    sleep 1
  done
  fail "$(host): still saving after $seconds seconds; ask for its status later"
}

main "$@"
