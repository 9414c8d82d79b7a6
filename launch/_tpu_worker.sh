#!/usr/bin/env bash
# Runs on each worker of a TPU VM. tpu.sh calls it over ssh.
#
#   _tpu_worker.sh setup [PYTHON]             makes the environment
#   _tpu_worker.sh train NUM_WORKERS ARGS...  starts the program
#   _tpu_worker.sh status                     its state, log and metrics
#   _tpu_worker.sh stop                       SIGTERM, and waits for the save
#   _tpu_worker.sh idle                       fails while the program runs
#
# The folder ~/.ldc_vae keeps what these must know: a lock that the running
# program holds, its process, arguments, log and exit code.

# shellcheck source=launch/_common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

readonly state=$HOME/.ldc_vae
readonly host="worker ${HOSTNAME:-?}"

is_idle() {
  (flock -n 9) 9>> "$state/lock"
}

idle() {
  is_idle || fail "$host: a run is under way; stop it first"
}

setup() {
  export LDC_VAE_ACCELERATOR=${LDC_VAE_ACCELERATOR:-tpu}
  if (($#)); then
    export LDC_VAE_PYTHON=$1
  elif ! (find_python) > /dev/null 2>&1; then
    install_python
  fi
  ensure_environment
  say "$host: ready"
}

# TPU VMs have Ubuntu 22.04, with Python 3.10.
install_python() {
  # A new machine may be upgrading itself: wait for the lock of apt.
  local apt=(sudo DEBIAN_FRONTEND=noninteractive apt-get -y
    -o DPkg::Lock::Timeout=600)
  say "$host: installing Python 3.12"
  { sudo add-apt-repository -y ppa:deadsnakes/ppa &&
    "${apt[@]}" update &&
    "${apt[@]}" install python3.12 python3.12-venv; } >&2 ||
    fail "$host: cannot install Python 3.12; see the lines above, or name" \
      'another one with --python='
}

train() {
  local num_workers=$1 python=${LDC_VAE_VENV:-$root/.venv}/bin/python pid
  shift
  program=("$@")
  check_program "$root/"
  if ! is_idle; then
    [[ $(quote "$@") == "$(cat "$state/arguments" 2> /dev/null)" ]] ||
      fail "$host: another run is under way, with" \
        "$(cat "$state/arguments"); stop it first"
    say "$host: already running as process $(< "$state/pid")"
    return
  fi
  [[ -x $python ]] || fail "$host: there is no environment; set it up first"
  cd "$root"
  is_in_bucket || mkdir -p "$workdir" ||
    fail "$host: cannot make --workdir=$workdir"
  ((num_workers == 1)) || export LDC_VAE_DISTRIBUTED=1
  LDC_VAE_COMMIT=$(cat .commit 2> /dev/null) || true
  export LDC_VAE_COMMIT
  quote "$@" > "$state/arguments"
  echo "$workdir" > "$state/workdir"
  rm -f "$state/pid" "$state/exit"
  # The program outlives ssh, and holds the lock by its descriptor 9.
  setsid bash "$root/launch/_tpu_worker.sh" supervise "$python" "$@" \
    < /dev/null >> "$state/log" 2>&1 9>> "$state/lock" &
  until [[ -s $state/pid || -s $state/exit ]]; do
    sleep 0.1
    kill -0 $! 2> /dev/null || break
  done
  pid=$(cat "$state/pid" 2> /dev/null) ||
    fail "$host: the program did not start; see $state/log"
  say "$host: started as process $pid, the log is $state/log"
}

# Runs the program, and keeps its process and its exit code.
supervise() {
  local python=$1 pid code=0
  shift
  flock -n 9 || exit 1  # another call was faster
  trap : HUP TERM  # they are for the program, which saves and ends
  echo "--- $(date -u +%Y-%m-%dT%H:%M:%SZ) starting: $(quote "$@")"
  become_main "$@" &
  pid=$!
  echo "$pid" > "$state/pid"
  while kill -0 "$pid" 2> /dev/null; do
    wait "$pid" || true  # a signal ends it early
  done
  wait "$pid" || code=$?
  echo "--- $(date -u +%Y-%m-%dT%H:%M:%SZ) ended with exit code $code"
  echo "$code" > "$state/exit"
}

status() {
  if [[ ! -s $state/arguments ]]; then
    echo "$host: nothing was started"
    return
  fi
  if ! is_idle; then
    echo "$host: running as process $(cat "$state/pid" 2> /dev/null)"
  elif [[ -s $state/exit ]]; then
    echo "$host: ended with exit code $(< "$state/exit")"
  else
    echo "$host: was killed; train continues it from its latest checkpoint"
  fi
  echo "arguments: $(< "$state/arguments")"
  tail -n 5 "$state/log"
  workdir=$(< "$state/workdir")
  cd "$root"
  if [[ -s $workdir/metrics.jsonl ]]; then
    echo "$workdir/metrics.jsonl:"
    tail -n 3 "$workdir/metrics.jsonl"
  fi
}

stop() {
  local seconds
  if is_idle; then
    say "$host: nothing is running"
    return
  fi
  kill -TERM "$(< "$state/pid")" 2> /dev/null || true
  for ((seconds = 0; seconds < ${LDC_VAE_STOP_SECONDS:-60}; ++seconds)); do
    if is_idle; then
      say "$host: stopped"
      return
    fi
    sleep 1
  done
  fail "$host: still saving after $seconds seconds; ask for its status later"
}

mkdir -p "$state" || fail "cannot write to $state; is the disk full?"
"$@"
