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
# Each can be given again; a run continues from its latest checkpoint. Options:
#   --context=CONTEXT --namespace=NAMESPACE  of kubectl, whose own by default
#   --dry-run             prints the commands and the manifest, runs nothing
#   submit: --image=IMAGE   made by container.sh and pushed to a registry
#           --claim=CLAIM   a persistent volume claim, mounted at /runs; for
#                           several hosts one that all write to, as of Filestore
#           --tpu=v4|v5e|v5p|v6e --topology=AxB[xC] [--chips-per-node=N]
#           --gpu=TYPE --gpus-per-node=N [--nodes=N]  TYPE as GKE labels nodes
#           [--spot] [--max-restarts=N]
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/_common.sh
source "$root/launch/_common.sh"

readonly install_kubectl='install it: https://kubernetes.io/docs/tasks/tools'
readonly commands='submit, status, delete'
readonly port=8476
readonly a_name='[a-z]([-a-z0-9]{0,38}[a-z0-9])?'

main() {
  local command=${1:-} name context='' namespace='' image='' claim='' tpu=''
  local topology='' chips_per_node='' gpu='' gpus_per_node='' nodes='' spot=0
  local max_restarts=100 own=() where=() hosts limits selector
  case $command in
    submit)
      own=(image claim tpu topology chips-per-node gpu gpus-per-node nodes
        'spot!' max-restarts) ;;
    status | delete) ;;
    '') mistake "the command is missing; use one of $commands" ;;
    *) mistake "$command is not a command; use one of $commands" ;;
  esac
  shift
  name=${1:-}
  if [[ -z $name || $name == -* ]]; then
    mistake "the name of the run is missing; write $command NAME, as" \
      "$command mnist"
  fi
  shift
  # The names of its pods are longer, and may have 63.
  check_pattern NAME "$name" "$a_name" \
    'use up to 40 small letters, digits and hyphens, a letter first'
  split_arguments "$@"
  read_options context namespace ${own[@]+"${own[@]}"}
  if [[ -n $context ]]; then
    where+=("--context=$context")
  fi
  if [[ -n $namespace ]]; then
    check_pattern --namespace "$namespace" \
      '[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?' \
      'use small letters, digits and hyphens'
    where+=("--namespace=$namespace")
  fi
  if [[ $command == submit ]]; then
    check_submit
  elif ((${#program[@]})); then
    mistake "${program[0]} follows --, which only submit reads; leave it out"
  fi
  require kubectl "$install_kubectl"
  "$command"
}

check_submit() {
  check_program "$root" /runs
  [[ -n $image ]] ||
    mistake '--image is missing; give one that the cluster can pull, as' \
      'registry.example/ldc_vae:tpu'
  check_pattern --image "$image" '[a-z0-9][a-zA-Z0-9._/:@-]*' \
    'give an image, as registry.example/ldc_vae:tpu'
  [[ -n $claim ]] ||
    mistake '--claim is missing; name a persistent volume claim for /runs'
  check_pattern --claim "$claim" '[a-z0-9]([-.a-z0-9]*[a-z0-9])?' \
    'name a persistent volume claim'
  check_pattern --max-restarts "$max_restarts" '[0-9]{1,5}' \
    'give a whole number'
  if [[ -n $tpu && -n $gpu ]]; then
    mistake "--gpu=$gpu is given beside --tpu=$tpu; leave one of them out"
  elif [[ -n $tpu ]]; then
    check_tpu
  elif [[ -n $gpu ]]; then
    check_gpu
  else
    mistake '--tpu and --gpu are missing; give one, as --tpu=v6e' \
      '--topology=2x4 or --gpu=nvidia-l4 --gpus-per-node=1'
  fi
}

check_tpu() {
  local label pattern chips=1 length
  case $tpu in
    v4) label=tpu-v4-podslice pattern='[1-9][0-9]?x[1-9][0-9]?x[1-9][0-9]?' ;;
    v5e) label=tpu-v5-lite-podslice pattern='1x1|2x2|2x4|4x4|4x8|8x8|8x16|16x16'
      ;;
    v5p) label=tpu-v5p-slice pattern='[1-9][0-9]?x[1-9][0-9]?x[1-9][0-9]?' ;;
    v6e) label=tpu-v6e-slice pattern='1x1|2x2|2x4|4x4|4x8|8x8|8x16|16x16' ;;
    *) mistake "--tpu=$tpu is not valid; use v4, v5e, v5p or v6e" ;;
  esac
  [[ -z $nodes && -z $gpus_per_node ]] ||
    mistake "${nodes:+--nodes=$nodes }${gpus_per_node:+--gpus-per-node }is" \
      "given with --tpu=$tpu; leave it out, as --topology decides"
  [[ -n $topology ]] ||
    mistake "--topology is missing; give the one of the node pool, as 2x4"
  if [[ $tpu == v[45] || $tpu == v5p ]]; then
    check_pattern --topology "$topology" "$pattern" \
      "a $tpu has three numbers, as 2x2x1"
  else
    check_pattern --topology "$topology" "$pattern" \
      "a $tpu has ${pattern//|/, }"
  fi
  for length in ${topology//x/ }; do
    ((chips *= length))
  done
  # Up to eight chips of a v5e or v6e fit one host; hosts of slices have four.
  if [[ -z $chips_per_node ]]; then
    chips_per_node=4
    if ((chips < 4)) || [[ $topology == 2x4 ]]; then
      chips_per_node=$chips
    fi
  fi
  check_pattern --chips-per-node "$chips_per_node" '1|4|8' 'use 1, 4 or 8'
  if [[ $chips_per_node != 4 && $chips_per_node != "$chips" ]]; then
    mistake "--chips-per-node=$chips_per_node: a host with other than four" \
      "chips is a whole slice, and --topology=$topology has $chips"
  elif [[ $chips_per_node != 4 && $tpu != v5e && $tpu != v6e ]]; then
    mistake "--topology=$topology: hosts of a $tpu have four chips; use" \
      '2x2x1 or more'
  fi
  ((chips % chips_per_node == 0)) ||
    mistake "--topology=$topology has $chips chips, not a multiple of" \
      "$chips_per_node; give another --chips-per-node"
  hosts=$((chips / chips_per_node))
  limits="google.com/tpu: $chips_per_node"
  selector="cloud.google.com/gke-tpu-accelerator: $label,"
  selector+=" cloud.google.com/gke-tpu-topology: $topology"
}

check_gpu() {
  check_pattern --gpu "$gpu" 'nvidia-[a-z0-9-]+' \
    'give a type as GKE labels its nodes, as nvidia-h100-80gb'
  if [[ -n $topology || -n $chips_per_node ]]; then
    mistake "--topology and --chips-per-node do not go with --gpu=$gpu; leave" \
      'them out'
  fi
  [[ -n $gpus_per_node ]] ||
    mistake '--gpus-per-node is missing; give the number of a node, as 8'
  check_count --gpus-per-node "$gpus_per_node"
  hosts=${nodes:-1}
  check_count --nodes "$hosts"
  limits="nvidia.com/gpu: $gpus_per_node"
  selector="cloud.google.com/gke-accelerator: $gpu"
}

# The manifest.

# Prints words as the inside of a YAML list, with nothing left to expand.
yaml_words() {
  local word line=''
  for word in "$@"; do
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    line+="${line:+, }\"$word\""
  done
  echo "$line"
}

render() {
  local text word args=() env tolerations='' security annotations digest
  local device devices='' open="\$(" apart="\$\$("
  for word in "${program[@]}"; do
    if [[ $word == *[[:cntrl:]]* ]]; then
      mistake "${word//[[:cntrl:]]/?} has a control character, shown as ?;" \
        'leave it out'
    fi
    args+=("${word//"$open"/$apart}")  # Kubernetes would expand $(NAME)
  done
  if ((hosts > 1)); then
    # Kubernetes expands the index; JobSet gives the pods these names.
    # shellcheck disable=SC2016
    args+=("--coordinator_address=$name-worker-0-0.$name:$port"
      "--num_processes=$hosts" '--process_id=$(JOB_COMPLETION_INDEX)')
  fi
  env='{name: LDC_VAE_CACHE, value: /runs/.cache}'
  annotations='ldc-vae/manifest: "__DIGEST__"'
  if [[ -n $tpu ]]; then
    security='runAsUser: 0'  # the device files are root's
    if ((hosts > 1)); then  # in one node pool, which is the slice
      annotations+=', alpha.jobset.sigs.k8s.io/exclusive-topology:'
      annotations+=' cloud.google.com/gke-nodepool'
    fi
  else
    security='runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000'
    # Where GKE mounts the driver.
    env+=', {name: LD_LIBRARY_PATH, value: /usr/local/nvidia/lib64}'
    for ((device = 0; device < gpus_per_node; ++device)); do
      devices+=${devices:+,}$device
    done
    # All of the host; otherwise jax would ask Kubernetes, without permission.
    env+=", {name: JAX_LOCAL_DEVICE_IDS, value: \"$devices\"}"
  fi
  if ((spot)); then
    selector+=', cloud.google.com/gke-spot: "true"'
    tolerations='{key: cloud.google.com/gke-spot, operator: Equal,'
    tolerations+=' value: "true", effect: NoSchedule}'
  fi
  text=$(< "$root/launch/jobset.yaml")
  text=${text//__NAME__/"$name"}
  text=${text//__ANNOTATIONS__/"$annotations"}
  text=${text//__MAX_RESTARTS__/"$max_restarts"}
  text=${text//__HOSTS__/"$hosts"}
  text=${text//__NODE_SELECTOR__/"$selector"}
  text=${text//__TOLERATIONS__/"$tolerations"}
  text=${text//__SECURITY__/"$security"}
  text=${text//__IMAGE__/"$image"}
  text=${text//__ENV__/"$env"}
  text=${text//__PORT__/"$port"}
  text=${text//__LIMITS__/"$limits"}
  text=${text//__CLAIM__/"$claim"}
  text=${text/__ARGS__/"$(yaml_words "${args[@]}")"}  # last: they may say it
  digest=$(cksum <<< "$text")
  manifest=${text/__DIGEST__/"${digest%% *}"}
}

# kubectl.

kube() {
  run kubectl "$@" ${where[@]+"${where[@]}"}
}

# Sets label, digest and state of the JobSet; false where there is none.
lookup() {
  local fields='{.metadata.labels.app\.kubernetes\.io/managed-by}'
  fields+=',{.metadata.annotations.ldc-vae/manifest},{.status.terminalState}'
  label='' digest='' state=''
  if ((dry_run)); then
    kube get jobsets.jobset.x-k8s.io "$name" --ignore-not-found \
      "--output=jsonpath=$fields"
    return 1
  fi
  if ! ask kube get jobsets.jobset.x-k8s.io "$name" --ignore-not-found \
    "--output=jsonpath=$fields"; then
    say "$complaint"
    if [[ $complaint == *'have a resource type'* ]]; then
      fail 'the cluster has no JobSet; install it:' \
        'https://jobset.sigs.k8s.io/docs/installation'
    fi
    fail "kubectl could not look $name up; see the lines above"
  fi
  [[ -n $answer ]] || return 1
  IFS=, read -r label digest state <<< "$answer"
}

# The commands.

submit() {
  local manifest label digest state wanted
  render
  wanted=${manifest#*ldc-vae/manifest: \"}
  wanted=${wanted%%\"*}
  if lookup; then
    keep
    return
  fi
  if ((dry_run)); then
    echo "$(kube create --filename=-) << 'EOF_OF_MANIFEST'"
    printf '%s\nEOF_OF_MANIFEST\n' "$manifest"
    return
  fi
  if ! kube create --filename=- <<< "$manifest"; then
    lookup || fail "kubectl could not create $name; see the lines above"
    keep  # another call was faster
  fi
}

# An existing JobSet: success where it is this one and has not failed.
keep() {
  if [[ $digest != "$wanted" ]]; then
    fail "$name exists with other arguments; use another name, or delete it" \
      'first: its workdir stays'
  fi
  case $state in
    Failed)
      fail "$name has failed; see its status, then delete it and submit it" \
        'again: it continues from its latest checkpoint' ;;
    Completed) say "$name has completed" ;;
    *) say "$name exists already; see its status" ;;
  esac
}

status() {
  local pods="jobset.sigs.k8s.io/jobset-name=$name" label digest state
  if ! lookup && ! ((dry_run)); then
    fail "there is no JobSet $name; submit it first"
  fi
  { kube get jobsets.jobset.x-k8s.io "$name" &&
    kube get pods "--selector=$pods" --output=wide &&
    kube logs --tail=20 \
      "--selector=$pods,batch.kubernetes.io/job-completion-index=0"; } ||
    fail "kubectl could not ask for $name; see the lines above"
}

delete() {
  local label digest state
  if lookup; then
    [[ $label == "$label_value" ]] ||
      fail "$name was not made by this script (it lacks the label" \
        "app.kubernetes.io/managed-by=$label_value); delete it with kubectl" \
        'if you mean it'
  elif ! ((dry_run)); then
    say "there is no JobSet $name: nothing to delete"
    return
  fi
  kube delete jobsets.jobset.x-k8s.io "$name" --ignore-not-found ||
    fail "kubectl could not delete $name; see the lines above"
}

help_if_asked "${BASH_SOURCE[0]}" "$@"
main "$@"
