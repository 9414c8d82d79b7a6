#!/usr/bin/env bash
# Trains on Google Kubernetes Engine, on TPUs or GPUs, as a JobSet.
#
#   bash launch/gke.sh submit NAME --tpu=v6e --topology=4x4 --image=IMAGE \
#     --claim=CLAIM -- --config=configs/mnist.py --workdir=/runs/mnist
#   bash launch/gke.sh submit NAME --gpu=nvidia-h100-80gb --gpus-per-node=8 \
#     --nodes=2 --image=IMAGE --claim=CLAIM -- ...
#   bash launch/gke.sh status NAME
#   bash launch/gke.sh delete NAME      # the claim and its files stay
#
# Each command can be repeated; a run continues from its latest checkpoint.
# Options:
#   --context=CONTEXT --namespace=NAMESPACE  of kubectl, whose own by default
#   --dry-run             prints the commands and the manifest, runs nothing
#   submit: --image=IMAGE   made by container.sh and pushed to a registry
#           --claim=CLAIM   a persistent volume claim, mounted at /runs; for
#                           several hosts one that all write to, as of Filestore
#                           (not needed with --workdir=gs://BUCKET/RUN)
#           --tpu=v4|v5e|v5p|v6e --topology=AxB[xC] [--chips-per-node=N]
#           --gpu=TYPE --gpus-per-node=N [--nodes=N]  TYPE as GKE labels nodes
#           [--spot] [--max-restarts=N]

# shellcheck disable=SC2034  # `render` reads variables by their names
# shellcheck source=launch/_common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

readonly port=8476

main() {
  local command name context='' namespace='' image='' claim='' tpu=''
  local topology='' chips_per_node='' gpu='' gpus_per_node='' nodes='' spot=0
  local max_restarts=100 own=() where hosts limits selector
  local hint='install JobSet if the cluster has none:'
  hint+=' https://jobset.sigs.k8s.io/docs/installation'
  read_command 'submit, status, delete'
  read_name run 40 mnist  # the names of its pods are longer, and may have 63
  [[ $command != submit ]] ||
    own=(image= claim= tpu= topology= chips-per-node= gpu= gpus-per-node= nodes=
      spot max-restarts=)
  read_options context= namespace= "${own[@]}"
  where=(${context:+"--context=$context"}
    ${namespace:+"--namespace=$namespace"})
  if [[ $command == submit ]]; then
    check_submit
  else
    check_no_program submit
  fi
  require kubectl 'install it: https://kubernetes.io/docs/tasks/tools'
  "$command"
}

check_submit() {
  check_program "$root/" /runs
  check_pattern --image "$image" '[a-z0-9][a-zA-Z0-9._/:@-]*' \
    'give one that the cluster can pull, such as registry.example/ldc_vae:tpu'
  if [[ -n $claim ]] || ! is_in_bucket; then
    check_pattern --claim "$claim" '[a-z0-9]([-.a-z0-9]*[a-z0-9])?' \
      'name a persistent volume claim for /runs, or give a bucket'
  fi
  check_pattern --max-restarts "$max_restarts" '[0-9]{1,5}' \
    'give a whole number'
  [[ -z $tpu && -n $gpu || -n $tpu && -z $gpu ]] ||
    mistake "--tpu=$tpu and --gpu=$gpu: give one of them, such as --tpu=v6e" \
      '--topology=2x4 or --gpu=nvidia-l4 --gpus-per-node=1'
  if [[ -n $tpu ]]; then
    [[ -z $nodes && -z $gpus_per_node ]] ||
      mistake "--nodes and --gpus-per-node do not go with --tpu=$tpu; leave" \
        'them out, because --topology decides'
    check_tpu
  else
    [[ -z $topology && -z $chips_per_node ]] ||
      mistake "--topology and --chips-per-node do not go with --gpu=$gpu;" \
        'leave them out'
    check_gpu
  fi
}

check_tpu() {
  local label pattern='1x1|2x2|2x4|4x4|4x8|8x8|8x16|16x16' chips
  local known=${pattern//|/, }
  case $tpu in
    v4) label='tpu-v4-podslice' ;;
    v5e) label='tpu-v5-lite-podslice' ;;
    v5p) label='tpu-v5p-slice' ;;
    v6e) label='tpu-v6e-slice' ;;
    *) mistake "--tpu=$tpu is not valid; use v4, v5e, v5p or v6e" ;;
  esac
  if [[ $tpu == v4 || $tpu == v5p ]]; then
    pattern='[1-9][0-9]?x[1-9][0-9]?x[1-9][0-9]?'
    known='three numbers, such as 2x2x1'
  fi
  check_pattern --topology "$topology" "$pattern" \
    "give the one of the node pool: a $tpu has $known"
  chips=$((${topology//x/*}))
  # Up to eight chips of a v5e or v6e fit one host; hosts of slices have four.
  if [[ -z $chips_per_node ]]; then
    chips_per_node=4
    [[ $chips -ge 4 && $topology != 2x4 ]] || chips_per_node=$chips
  fi
  check_pattern --chips-per-node "$chips_per_node" '1|4|8' 'use 1, 4 or 8'
  ((chips_per_node == 4 && chips % 4 == 0)) ||
    [[ $chips_per_node == "$chips" && $tpu == v[56]e ]] ||
    mistake "--chips-per-node=$chips_per_node: a host has four chips, or is" \
      "the whole slice of a v5e or v6e, and --topology=$topology has $chips;" \
      'a v4 or v5p begins with 2x2x1'
  hosts=$((chips / chips_per_node))
  limits="google.com/tpu: $chips_per_node"
  selector="cloud.google.com/gke-tpu-accelerator: $label,"
  selector+=" cloud.google.com/gke-tpu-topology: $topology"
}

check_gpu() {
  check_pattern --gpu "$gpu" 'nvidia-[a-z0-9-]+' \
    'give a type as GKE labels its nodes, such as nvidia-h100-80gb'
  check_count --gpus-per-node "$gpus_per_node"
  hosts=${nodes:-1}
  check_count --nodes "$hosts"
  limits="nvidia.com/gpu: $gpus_per_node"
  selector="cloud.google.com/gke-accelerator: $gpu"
}

# Prints words as the inside of a YAML list. Kubernetes would expand $(NAME).
yaml_words() {
  local word line='' open="\$(" literal="\$\$("
  for word in "$@"; do
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    line+="${line:+, }\"${word//"$open"/$literal}\""
  done
  echo "$line"
}

# Sets `manifest`, and `wanted` to its checksum.
render() {
  local args env annotations security tolerations='' word
  local capabilities='drop: [ALL]' volume='emptyDir: {}'
  [[ -z $claim ]] ||
    volume="persistentVolumeClaim: {claimName: \"$claim\"}"
  args=$(yaml_words "${program[@]}")
  [[ $args != *[[:cntrl:]]* ]] ||
    mistake "${args//[[:cntrl:]]/?} has a control character, shown as ?;" \
      'leave it out'
  if ((hosts > 1)); then  # Kubernetes expands the index, JobSet the name
    args+=", \"--coordinator_address=$name-worker-0-0.$name:$port\""
    args+=", \"--num_processes=$hosts\""
    args+=", \"--process_id=\$(JOB_COMPLETION_INDEX)\""
  fi
  env='{name: LDC_VAE_CACHE, value: /runs/.cache}'
  annotations='ldc-vae/manifest: "__digest__"'
  if [[ -n $tpu ]]; then
    # Kubernetes gives device files the owner of the host, which is root:
    # https://github.com/kubernetes/kubernetes/issues/92211
    security='runAsUser: 0'
    capabilities+=', add: [DAC_OVERRIDE]'  # the volume may be of any user
    if ((hosts > 1)); then  # in one node pool, which is the slice
      annotations+=', alpha.jobset.sigs.k8s.io/exclusive-topology:'
      annotations+=' cloud.google.com/gke-nodepool'
    fi
  else
    security='runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000,'
    security+=' fsGroup: 1000'
    # GKE mounts the driver here.
    env+=', {name: LD_LIBRARY_PATH, value: /usr/local/nvidia/lib64}'
    # All GPUs of the host. Without it jax asks Kubernetes, which refuses.
    word=$(seq -s , 0 $((gpus_per_node - 1)))
    env+=", {name: JAX_LOCAL_DEVICE_IDS, value: \"${word%,}\"}"
  fi
  security+=', seccompProfile: {type: RuntimeDefault}'
  if ((spot)); then
    selector+=', cloud.google.com/gke-spot: "true"'
    tolerations='{key: cloud.google.com/gke-spot, operator: Equal,'
    tolerations+=' value: "true", effect: NoSchedule}'
  fi
  manifest=$(< "$root/launch/jobset.yaml")
  # `args` comes last, because it may contain the other words.
  for word in name annotations max_restarts hosts selector tolerations \
    security capabilities image env port limits volume args; do
    manifest=${manifest//"__${word}__"/"${!word}"}
  done
  wanted=$(cksum <<< "$manifest")
  wanted=${wanted%% *}
  manifest=${manifest/__digest__/"$wanted"}
}

kube() {
  run kubectl "$@" "${where[@]}"
}

# True if the JobSet exists. Sets label, digest and state.
find_jobset() {
  local fields='{.metadata.labels.app\.kubernetes\.io/managed-by}'
  fields+=',{.metadata.annotations.ldc-vae/manifest},{.status.terminalState}'
  look_up kube get jobsets.jobset.x-k8s.io "$name" --ignore-not-found \
    "--output=jsonpath=$fields" &&
    IFS=, read -r label digest state <<< "$answer"
}

submit() {
  local manifest label digest state wanted
  render
  if ! find_jobset; then
    if ((dry_run)); then
      echo "$(kube create --filename=-) << 'EOF_OF_MANIFEST'"
      printf '%s\nEOF_OF_MANIFEST\n' "$manifest"
      return
    fi
    ! kube create --filename=- <<< "$manifest" || return 0
    # Another call may have been faster.
    find_jobset || fail "kubectl could not create $name; see the lines above"
  fi
  [[ $digest == "$wanted" ]] ||
    fail "$name exists with other arguments; use another name, or delete it" \
      'first: its workdir stays'
  [[ $state != Failed ]] ||
    fail "$name has failed; see its status, then delete it and submit it" \
      'again: it continues from its latest checkpoint'
  say "$name exists already${state:+ ($state)}; see its status"
}

status() {
  local pods="jobset.sigs.k8s.io/jobset-name=$name" label digest state
  find_jobset || ((dry_run)) ||
    fail "there is no JobSet $name; submit it first"
  { kube get jobsets.jobset.x-k8s.io "$name" &&
    kube get pods "--selector=$pods" --output=wide &&
    kube logs --tail=20 \
      "--selector=$pods,batch.kubernetes.io/job-completion-index=0"; } ||
    fail "kubectl could not ask for $name; see the lines above"
}

delete() {
  local label digest state
  if find_jobset; then
    check_label "$label"
  elif ! ((dry_run)); then
    say "there is no JobSet $name: nothing to delete"
    return
  fi
  kube delete jobsets.jobset.x-k8s.io "$name" --ignore-not-found ||
    fail "kubectl could not delete $name; see the lines above"
}

help_if_asked
main
