#!/usr/bin/env bash
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
# Trains on a SLURM cluster: one process per GPU, on one or more nodes.
#
#   bash launch/slurm.sh --nodes=2 --gpus-per-node=4 --time=8:00:00 \
#     -- --config=configs/mnist.py --workdir=/shared/runs/mnist
#
# It submits itself; a run that is queued or running already is left alone. A
# minute before the time limit, and when pre-empted, the program saves, and the
# job goes back to the queue and continues. Options:
#   --nodes=N --gpus-per-node=N  (default: 1 and 1; 0 GPUs: on the CPU)
#   --time= --partition= --account= --cpus-per-task=  as those of sbatch
#   --sbatch='OPTIONS'           more of them, separated by spaces
#   --name=NAME                  of the job (default: from the workdir)
#   --dry-run                    prints the commands, runs nothing
#
# The project, its environment and --workdir lie on storage that all nodes see.
# Where compute nodes cannot reach the internet, make the environment first:
#   LDC_VAE_ACCELERATOR=cuda bash launch/local.sh --help
set -euo pipefail

stage=submit
case ${1:-} in
  _job | _task)  # sbatch copies this file: its folder tells nothing
    stage=$1
    root=$2
    shift 2 ;;
  *)
    root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
    if [[ ! -f $root/launch/_common.sh ]]; then
      echo 'error: this file was given to sbatch; write bash launch/slurm.sh,' \
        'which calls sbatch itself' >&2
      exit 2
    fi ;;
esac
# shellcheck source=launch/_common.sh
source "$root/launch/_common.sh"

submit() {
  help_if_asked "${BASH_SOURCE[0]}" "$@"
  local nodes=1 gpus_per_node=1 time='' partition='' account='' sbatch=''
  local cpus_per_task='' name='' flags=() more=() word answer complaint
  split_arguments "$@"
  read_options nodes gpus-per-node time partition account cpus-per-task sbatch \
    name
  check_count --nodes "$nodes"
  check_pattern --gpus-per-node "$gpus_per_node" '[0-9]|[1-9][0-9]' \
    'give a whole number, 0 for the CPU'
  if [[ -n $time ]]; then
    check_pattern --time "$time" \
      '[0-9]+(:[0-9]{1,2}){0,2}|[0-9]+-[0-9]{1,2}(:[0-9]{1,2}){0,2}' \
      'give minutes, hours:minutes:seconds or days-hours'
    flags+=("--time=$time")
  fi
  if [[ -n $cpus_per_task ]]; then
    check_count --cpus-per-task "$cpus_per_task"
    flags+=("--cpus-per-task=$cpus_per_task")
  fi
  for word in partition account name; do
    if [[ -n ${!word} ]]; then
      check_pattern "--$word" "${!word}" '[A-Za-z0-9_.,@+-]+' \
        'use letters, digits and _.,@+-'
    fi
  done
  read -r -a more <<< "$sbatch"
  for word in ${more[@]+"${more[@]}"}; do
    check_pattern --sbatch "$word" '--[a-z].*' 'give options as --mem=64G'
  done
  check_program .
  name=${name:-$(run_name)}
  flags+=(${partition:+"--partition=$partition"}
    ${account:+"--account=$account"} ${more[@]+"${more[@]}"})
  if ((gpus_per_node)); then
    flags+=("--gpus-per-node=$gpus_per_node")
  fi
  require sbatch 'log in to a node of the cluster that has it'
  lookup && return
  run mkdir -p "$workdir" || fail "cannot make --workdir=$workdir"
  # One process per GPU, each of which sees all GPUs of its node.
  run sbatch "--job-name=$name" "--nodes=$nodes" \
    "--ntasks-per-node=$((gpus_per_node ? gpus_per_node : 1))" \
    ${flags[@]+"${flags[@]}"} "--output=${workdir//%/%%}/slurm-%j.log" \
    "$root/launch/slurm.sh" _job "$root" "$gpus_per_node" "${program[@]}" ||
    fail "sbatch refused $name; see the lines above"
}

# True where the job waits or runs; in a dry run it does not.
lookup() {
  local command=(run squeue --noheader "--name=$name" "--user=$(id -un)"
    '--format=%i %T')
  if ((dry_run)); then
    "${command[@]}"
    return 1
  fi
  if ! ask "${command[@]}"; then
    say "$complaint"
    fail 'squeue could not look the job up; see the lines above'
  fi
  [[ -n $answer ]] || return 1
  say "$name is queued or running already, as job ${answer%%$'\n'*}"
}

# On the first node of the job.
job() {
  local gpus=$1 hosts state before code=0 flags=(--kill-on-bad-exit=0)
  shift
  before=$(newest_checkpoint "$@")
  if [[ -z ${LDC_VAE_ACCELERATOR:-} ]]; then
    export LDC_VAE_ACCELERATOR=cuda
    ((gpus)) || LDC_VAE_ACCELERATOR=cpu
  fi
  ensure_environment "$root"
  hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") ||
    fail "scontrol could not expand SLURM_JOB_NODELIST=$SLURM_JOB_NODELIST"
  # A port of its own for each job, below those that the system hands out.
  export LDC_VAE_COORDINATOR
  LDC_VAE_COORDINATOR=${hosts%%$'\n'*}:$((10000 + SLURM_JOB_ID % 20000))
  if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then
    flags+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")  # srun inherits it no more
  fi
  trap : TERM  # the steps have it too, and save; this shell lives on
  # A process that has saved may end before the one that writes: no killing.
  srun "${flags[@]}" bash "$root/launch/slurm.sh" _task "$root" "$python" \
    "$@" || code=$?
  if ((code == 143)); then
    # SIGTERM: before the time limit or when pre-empted the job is still
    # RUNNING; after scancel it is not, and must not come back.
    state=$(squeue --noheader "--jobs=$SLURM_JOB_ID" '--format=%T %L') ||
      state=''
    # %L is the time that is left.
    if [[ $state =~ ^RUNNING\ +[01]:[0-9]{2}$ &&
      $(newest_checkpoint "$@") == "$before" ]]; then
      fail 'the time limit came before anything new was saved, and would come' \
        'again; submit the run with a longer --time'
    fi
    if [[ $state == RUNNING* ]]; then
      say 'saved; back to the queue'
      scontrol requeue "$SLURM_JOB_ID" ||
        fail "job $SLURM_JOB_ID could not be requeued; submit it again: it" \
          'continues from its latest checkpoint'
    fi
  fi
  exit "$code"
}

# Prints the step of the newest checkpoint in the --workdir of ARGS, or nothing.
newest_checkpoint() {
  local argument folder='' path step newest=''
  for argument in "$@"; do
    [[ $argument != --workdir=* ]] || folder=${argument#*=}
  done
  for path in "$folder"/checkpoints/*; do
    step=${path##*/}
    if [[ $step =~ ^[0-9]+$ ]] && ((step > ${newest:--1})); then
      newest=$step
    fi
  done
  echo "$newest"
}

# In each process.
task() {
  local python=$1
  shift
  [[ -x $python ]] ||
    fail "${SLURMD_NODENAME:-this node} does not see $python; put the project" \
      'or LDC_VAE_VENV on storage that all nodes see'
  if ((SLURM_NTASKS > 1)); then
    set -- "$@" "--coordinator_address=$LDC_VAE_COORDINATOR" \
      "--num_processes=$SLURM_NTASKS" "--process_id=$SLURM_PROCID"
    # Its own GPU among those that it sees: all of the node, or only this one.
    export JAX_LOCAL_DEVICE_IDS=$SLURM_LOCALID
    if [[ ${CUDA_VISIBLE_DEVICES-,} != *,* ]]; then
      JAX_LOCAL_DEVICE_IDS=0
    fi
  fi
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  exec "$python" -P -m ldc_vae.main "$@"
}

"${stage#_}" "$@"
