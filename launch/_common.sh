#!/usr/bin/env bash
# Sourced by the launchers of other machines. It holds what they share: options,
# checks, dry runs and questions to other programs.
#
# Each of them is called as
#   bash launch/NAME.sh [COMMAND [NAME]] [--option=VALUE ...] [-- PROGRAM ARGS]
# Its exit code is 0 for success (also if there was nothing left to do), 1 if
# another program failed, and 2 for a mistake in its arguments. After a mistake
# it has run nothing.

# shellcheck source=launch/_environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

# The label of everything that is made here; nothing without it is deleted.
readonly label_value=ldc-vae

dry_run=0
arguments=("$@")  # those that are not read yet
program=()        # the arguments of ldc_vae.main
workdir=''        # its --workdir

say() {
  echo "$*" >&2
}

# Ends the launcher because of a mistake in its arguments.
mistake() {
  echo "error: $*" >&2
  exit 2
}

# Prints the comment at the head of the launcher if --help stands before `--`.
help_if_asked() {
  local argument
  for argument in "${arguments[@]}"; do
    case $argument in
      --) return ;;
      --help | -h)
        awk '/^#[!S]/ { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$0"
        exit ;;
    esac
  done
}

# read_command 'A, B': sets `command` to the first argument, one of these.
read_command() {
  command=${arguments[0]}
  arguments=("${arguments[@]:1}")
  [[ -n $command ]] || mistake "the command is missing; use one of $1"
  [[ ", $1," == *", $command,"* ]] ||
    mistake "$command is not a command; use one of $1"
}

# read_name WHAT LENGTH EXAMPLE: sets `name` to the next argument.
read_name() {
  name=${arguments[0]}
  arguments=("${arguments[@]:1}")
  [[ -n $name && $name != -* ]] ||
    mistake "the name of the $1 is missing; write $command NAME, such as" \
      "$command $3"
  check_pattern NAME "$name" "[a-z]([-a-z0-9]{0,$(($2 - 2))}[a-z0-9])?" \
    "use up to $2 small letters, digits and hyphens, a letter first"
}

# read_options SPEC...: sets a variable for each option among the arguments, and
# `program` to those that follow `--`. The specification of --zone=VALUE is
# `zone=` and that of the flag --spot is `spot`; --a-b sets a_b.
read_options() {
  local _option _name _known="$* dry-run"
  while ((${#arguments[@]})); do
    _option=${arguments[0]}
    arguments=("${arguments[@]:1}")
    if [[ $_option == -- ]]; then
      program=("${arguments[@]}")
      return
    fi
    _name=${_option#--}
    _name=${_name%%=*}
    if [[ $_option == --* && " $_known " == *" $_name= "* ]]; then
      [[ $_option == *=?* ]] ||
        mistake "--$_name has no value; write --$_name=VALUE"
      printf -v "${_name//-/_}" '%s' "${_option#*=}"
    elif [[ $_option == --* && " $_known " == *" $_name "* ]]; then
      [[ $_option != *=* ]] ||
        mistake "$_option: --$_name takes no value; write --$_name"
      printf -v "${_name//-/_}" 1
    else
      mistake "$_option is not an option here; use --${_known// /, --}, and" \
        'put the arguments of ldc_vae.main after --'
    fi
  done
}

# check_no_program COMMAND: only that command reads what follows `--`.
check_no_program() {
  ((${#program[@]} == 0)) ||
    mistake "${program[0]} follows --, which only $1 reads; leave it out"
}

# check_pattern INPUT VALUE REGEX REMEDY: the whole value must match.
check_pattern() {
  [[ $2 =~ ^($3)$ ]] || mistake "$1=$2 is not valid; $4"
}

# check_count INPUT VALUE
check_count() {
  check_pattern "$1" "$2" '[1-9][0-9]{0,4}' 'give a whole number from 1 up'
}

# check_expanded INPUT VALUE: no shell expands a ~ that follows a `=`.
check_expanded() {
  [[ $2 != '~'* ]] ||
    mistake "$1=$2 begins with a ~ that no shell has expanded; write the" \
      'path of the folder out'
}

# check_program PREFIX [MOUNT]: checks the arguments of ldc_vae.main, and sets
# `workdir`. PREFIX leads to the run files: it is empty if the program runs in
# the current folder. The workdir must be in a bucket, or below MOUNT, if one is
# given.
check_program() {
  local argument mode=train config='' file
  for argument in "${program[@]}"; do
    case $argument in
      --config=*) config=${argument#*=} ;;
      --workdir=*) workdir=${argument#*=} ;;
      --mode=train | --mode=evaluate) mode=${argument#*=} ;;
      --config | --workdir | --mode)
        mistake "$argument has no value; write $argument=VALUE" ;;
      --mode=*)
        mistake "$argument cannot be launched here; use --mode=train or" \
          '--mode=evaluate, or launch/local.sh' ;;
      --coordinator_address* | --num_processes* | --process_id* | \
        --distributed*)
        mistake "$argument is set by this script; leave ${argument%%=*} out" ;;
    esac
  done
  if [[ -n $config ]]; then
    file=${config%%[:,]*}
    [[ -f $1$file || -f $root/$file || -f $root/configs/$file.py ]] ||
      mistake "--config=$config names no run file; give one, such as" \
        'configs/mnist.py'
  elif [[ $mode == train ]]; then  # otherwise the workdir has one
    mistake '--config is missing after --; give a run file, such as' \
      '-- --config=configs/mnist.py --workdir=DIR'
  fi
  check_workdir "$2"
}

# check_workdir [MOUNT]
check_workdir() {
  case $workdir in
    '')
      mistake '--workdir is missing; give the folder of the run, such as' \
        "--workdir=${1:-runs}/mnist" ;;
    *://*)
      check_pattern --workdir "$workdir" '(gs|s3)://[^/]+/.*[^/].*' \
        'give a path, or a folder of a bucket, such as gs://BUCKET/mnist'
      return ;;
  esac
  check_expanded --workdir "$workdir"
  if [[ -n $1 && ($workdir != "$1"/?* || $workdir/ == */../*) ]]; then
    mistake "--workdir=$workdir is lost with the container; give a folder" \
      "below $1, such as $1/mnist"
  fi
}

# True if the workdir is in a bucket.
is_in_bucket() {
  [[ $workdir == *://* ]]
}

# Prints a name for the run in `workdir`, the same each time: the last part of
# the path and a checksum of the whole.
run_name() {
  local path=${workdir%/} base sum
  [[ $path == /* ]] || is_in_bucket || path=$PWD/$path
  base=${path##*/}
  sum=$(cksum <<< "$path")
  echo "ldc_vae-${base//[!A-Za-z0-9_.-]/_}-${sum%% *}"
}

# Prints a command that can be pasted into a shell.
quote() {
  local word line='' apart="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) word=\'${word//\'/$apart}\' ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Runs a command, or prints it in a dry run.
run() {
  if ((dry_run)); then
    quote "$@"
  else
    "$@"
  fi
}

# The same for the last command, which takes the place of this process.
run_last() {
  ((dry_run)) || exec "$@"
  quote "$@"
}

# Fails if a program is missing. A dry run needs none.
require() {
  ((dry_run)) || command -v "$1" > /dev/null || fail "$1 is not on PATH; $2"
}

# look_up COMMAND...: asks by a command of `run`; sets `answer` to its output.
# False if there is no answer, or only the complaint NOT_FOUND. A dry run prints
# the command, and is false. `hint` is a remedy for other complaints.
look_up() {
  local errors code=0
  answer=''
  if ((dry_run)); then
    "$@"
    return 1
  fi
  errors=$(mktemp) || fail 'cannot make a temporary file; is the disk full?'
  answer=$("$@" 2> "$errors") || code=$?
  complaint=$(< "$errors")
  rm -f "$errors"
  if ((code)) && [[ $complaint != *NOT_FOUND* ]]; then
    say "$complaint"
    fail "could not look up $name; see the lines above${hint:+, and $hint}"
  fi
  [[ $code == 0 && -n $answer ]]
}

# check_label LABEL: fails unless it is that of what these launchers make.
check_label() {
  [[ $1 == "$label_value" ]] ||
    fail "$name was not made by this script (it lacks the label" \
      "$label_value); delete it yourself if you mean it"
}

# Prints the commit of the project, or nothing where it is no git checkout.
commit_of_root() {
  local commit
  [[ -e $root/.git ]] && command -v git > /dev/null || return 0
  commit=$(git -C "$root" rev-parse HEAD 2> /dev/null) || return 0
  [[ -z $(git -C "$root" status --porcelain -uno) ]] || commit+=+dirty
  echo "$commit"
}
