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
# minute before the time limit, and when it is pre-empted, the program saves.
# Then the job goes back to the queue and continues. Options:
#   --nodes=N --gpus-per-node=N  (default: 1 and 1; 0 GPUs: on the CPU)
#   --time= --partition= --account= --cpus-per-task=  as those of sbatch
#   --sbatch='OPTIONS'           more of them, separated by spaces
#   --name=NAME                  of the job (default: from the workdir)
#   --dry-run                    prints the commands, runs nothing
#
# All nodes must see the project and its environment, and the first node
# --workdir, which may be in a bucket: then the log is in this folder. If the
# nodes cannot reach the internet, make the environment first:
#   LDC_VAE_ACCELERATOR=cuda bash launch/local.sh --help

case $1 in
  job | task)  # SLURM runs a copy of this file from another folder
    common=$2/launch/_common.sh ;;
  *) common=$(dirname -- "${BASH_SOURCE[0]}")/_common.sh ;;
esac
if [[ ! -f $common ]]; then
  echo 'error: this file was given to sbatch; write bash launch/slurm.sh,' \
    'which calls sbatch itself' >&2
  exit 2
fi
# shellcheck source=launch/_common.sh
source "$common"

submit() {
  local nodes=1 gpus_per_node=1 time='' partition='' account='' sbatch=''
  local cpus_per_task='' name='' flags logs more
  help_if_asked
  read_options nodes= gpus-per-node= time= partition= account= cpus-per-task= \
    sbatch= name=
  check_count --nodes "$nodes"
  check_pattern --gpus-per-node "$gpus_per_node" '[0-9]|[1-9][0-9]' \
    'give a whole number, 0 for the CPU'
  check_program ''
  name=${name:-$(run_name)}
  read -r -a more <<< "$sbatch"
  flags=("--job-name=$name" "--nodes=$nodes"
    "--ntasks-per-node=$((gpus_per_node ? gpus_per_node : 1))"
    ${time:+"--time=$time"} ${cpus_per_task:+"--cpus-per-task=$cpus_per_task"}
    ${partition:+"--partition=$partition"} ${account:+"--account=$account"}
    "${more[@]}")
  # One process per GPU, each of which sees all GPUs of its node.
  ((gpus_per_node == 0)) || flags+=("--gpus-per-node=$gpus_per_node")
  require sbatch 'log in to a node of the cluster that has it'
  if look_up run squeue --noheader "--name=$name" "--user=$(id -un)" \
    '--format=%i %T'; then
    say "$name is queued or running already, as job ${answer%%$'\n'*}"
    return
  fi
  logs=$workdir
  ! is_in_bucket || logs=$PWD
  run mkdir -p "$logs" || fail "cannot make --workdir=$workdir"
  run sbatch "${flags[@]}" "--output=${logs//%/%%}/slurm-%j.log" \
    "$root/launch/slurm.sh" job "$root" "$gpus_per_node" "${program[@]}" ||
    fail "sbatch refused $name; see the lines above"
}

# Runs on the first node of the job.
job() {
  local gpus=$2 hosts state before code=0 flags=(--kill-on-bad-exit=0)
  shift 2
  before=$(newest_checkpoint "$@")
  if [[ -z $LDC_VAE_ACCELERATOR ]]; then
    export LDC_VAE_ACCELERATOR=cuda
    ((gpus)) || LDC_VAE_ACCELERATOR=cpu
  fi
  ensure_environment
  hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") ||
    fail "scontrol could not expand SLURM_JOB_NODELIST=$SLURM_JOB_NODELIST"
  # Each job has its own port, below those that the system hands out.
  export LDC_VAE_COORDINATOR
  LDC_VAE_COORDINATOR=${hosts%%$'\n'*}:$((10000 + SLURM_JOB_ID % 20000))
  # srun no longer inherits this from sbatch.
  [[ -z $SLURM_CPUS_PER_TASK ]] ||
    flags+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
  trap : TERM  # the steps receive it too and save; this shell goes on
  # A process may end before the one that writes: srun must not kill that.
  srun "${flags[@]}" bash "$root/launch/slurm.sh" task "$root" "$python" "$@" ||
    code=$?
  if ((code == 143)); then
    requeue "$@"
  fi
  exit "$code"
}

# Puts the job back into the queue, unless scancel has ended it: before a time
# limit, or when it is pre-empted, its state is still RUNNING.
requeue() {
  local state
  # %L is the time that is left.
  state=$(squeue --noheader "--jobs=$SLURM_JOB_ID" '--format=%T %L') || return 0
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
}

# Prints the step of the newest checkpoint in the --workdir of ARGS, or nothing.
# This node has a copy of a workdir in a bucket.
newest_checkpoint() {
  local argument folder=''
  for argument in "$@"; do
    [[ $argument != --workdir=* ]] || folder=${argument#*=}
  done
  [[ $folder != *://* ]] ||
    folder=${LDC_VAE_CACHE:-$HOME/.cache/ldc_vae}/buckets/${folder/:\/\///}
  printf '%s\n' "$folder"/checkpoints/* | awk -F / '
    $NF ~ /^[0-9]+$/ && $NF + 0 >= newest { newest = $NF }
    END { print newest }'
}

# Runs in each process.
task() {
  python=$2
  shift 2
  [[ -x $python ]] ||
    fail "${SLURMD_NODENAME:-this node} does not see $python; put the project" \
      'or LDC_VAE_VENV on storage that all nodes see'
  if ((SLURM_NTASKS > 1)); then
    set -- "$@" "--coordinator_address=$LDC_VAE_COORDINATOR" \
      "--num_processes=$SLURM_NTASKS" "--process_id=$SLURM_PROCID"
    # Each process sees all GPUs of the node and takes one, or sees its own.
    export JAX_LOCAL_DEVICE_IDS=$SLURM_LOCALID
    [[ ${CUDA_VISIBLE_DEVICES-,} == *,* ]] || JAX_LOCAL_DEVICE_IDS=0
  fi
  become_main "$@"
}

case $1 in
  job | task) "$1" "${@:2}" ;;
  *) submit ;;
esac
