#!/usr/bin/env bash
# Sourced by the launchers of other machines: their words, checks and dry runs.
#
# Each of them is called as
#   bash launch/NAME.sh [COMMAND [NAME]] [--option=VALUE ...] [-- PROGRAM ARGS]
# and ends with 0 for success (what exists already is success), 1 where another
# program failed, 2 for a mistake in its own arguments: then nothing was run.

# shellcheck source=launch/_environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

# The label of all that is made here; nothing without it is deleted.
# shellcheck disable=SC2034  # the callers read it
readonly label_value=ldc-vae

dry_run=0
program=()  # the arguments of ldc_vae.main
workdir=''  # its --workdir

# Ends with the code of a mistake: the input, its value and the remedy.
mistake() {
  echo "error: $*" >&2
  exit 2
}

# help_if_asked SCRIPT ARGS...: --help before `--` prints the script's head.
help_if_asked() {
  local script=$1 argument
  shift
  for argument in "$@"; do
    case $argument in
      --) return ;;
      --help | -h)
        awk '/^#[!S]/ { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' \
          "$script"
        exit 0 ;;
    esac
  done
}

say() {
  echo "$*" >&2
}

# Prints a command so that it can be pasted into a shell.
quote() {
  local word line='' apart="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*)
        word=\'${word//\'/$apart}\' ;;
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
  if ((dry_run)); then
    quote "$@"
  else
    exec "$@"
  fi
}

# Splits the arguments at `--`: sets `options` and `program`.
split_arguments() {
  options=()
  while (($#)); do
    if [[ $1 == -- ]]; then
      shift
      program=("$@")
      return
    fi
    options+=("$1")
    shift
  done
}

# Sets variables from `options`. A specification is `zone` for --zone=VALUE,
# and `spot!` for a flag without a value; --a-b sets a_b of the caller, which
# the names here must not hide.
read_options() {
  local _option _name _spec _known
  for _option in ${options[@]+"${options[@]}"}; do
    _name=${_option%%=*}
    _name=${_name#--}
    _known=''
    for _spec in "$@" 'dry-run!'; do
      if [[ $_option == --* && ${_spec%!} == "$_name" ]]; then
        _known=$_spec
      fi
    done
    if [[ -z $_known ]]; then
      mistake "$_option is not an option here; use $(list_options "$@"), and" \
        'put the arguments of ldc_vae.main after --'
    elif [[ $_known == *! && $_option == *=* ]]; then
      mistake "$_option: --$_name takes no value; write --$_name"
    elif [[ $_known != *! && ($_option != *=* || -z ${_option#*=}) ]]; then
      mistake "--$_name has no value; write --$_name=VALUE"
    fi
    if [[ $_known == *! ]]; then
      printf -v "${_name//-/_}" 1
    else
      printf -v "${_name//-/_}" '%s' "${_option#*=}"
    fi
  done
}

list_options() {
  local spec line=''
  for spec in "$@" 'dry-run!'; do
    if [[ $spec == *! ]]; then
      line+="${line:+, }--${spec%!}"
    else
      line+="${line:+, }--$spec="
    fi
  done
  echo "$line"
}

# check_pattern INPUT VALUE REGEX REMEDY: the whole value must match.
check_pattern() {
  [[ $2 =~ ^($3)$ ]] || mistake "$1=$2 is not valid; $4"
}

# check_count INPUT VALUE: a positive whole number without sign.
check_count() {
  check_pattern "$1" "$2" '[1-9][0-9]{0,4}' 'give a whole number from 1 up'
}

# check_program FOLDER [MOUNT]: checks what can be known of `program` before it
# is run, and sets `workdir`. The path of the config file is relative to FOLDER,
# or absolute where that is `.`; the workdir must lie below MOUNT, if given.
check_program() {
  local folder=$1 mount=${2:-} mode=train argument config='' file name
  for argument in ${program[@]+"${program[@]}"}; do
    name=${argument%%=*}
    case $argument in
      --config=*) config=${argument#*=} ;;
      --workdir=*) workdir=${argument#*=} ;;
      --config | --workdir | --mode)
        mistake "$argument has no value; write $argument=VALUE" ;;
      --coordinator_address* | --num_processes* | --process_id*)
        mistake "$argument is set by this script; leave $name out" ;;
      --distributed*)
        mistake "$argument is decided by this script; leave $name out" ;;
      --mode=train | --mode=evaluate) mode=${argument#*=} ;;
      --mode=*)
        mistake "$argument cannot be launched here; use --mode=train or" \
          '--mode=evaluate, or launch/local.sh' ;;
    esac
  done
  if [[ -z $config && $mode == train ]]; then
    mistake '--config is missing after --; give a run file, as' \
      '-- --config=configs/mnist.py --workdir=DIR'
  elif [[ -z $config ]]; then  # the workdir has one
    check_workdir "$mount"
    return
  fi
  file=${config%%:*}
  [[ $file != *.py,* ]] || file=${file%%.py,*}.py
  [[ $folder == . && $file == /* ]] || file=$folder/$file
  if [[ ! -f $file ]]; then
    [[ $folder != . ]] || folder=$PWD
    mistake "--config=$config names no file of $folder; give one, as" \
      'configs/mnist.py'
  fi
  check_workdir "$mount"
}

# check_workdir [MOUNT]: checks `workdir`.
check_workdir() {
  local mount=${1:-}
  case $workdir in
    '')
      mistake '--workdir is missing; say where the run lives, as' \
        "--workdir=${mount:-runs}/mnist" ;;
    *://*)
      mistake "--workdir=$workdir is an address; give a folder of a mounted" \
        'file system' ;;
  esac
  check_expanded --workdir "$workdir"
  if [[ -n $mount && ($workdir != "$mount"/?* || $workdir/ == */../*) ]]; then
    mistake "--workdir=$workdir is lost with the container; give a folder" \
      "below $mount, as $mount/mnist"
  fi
}

# check_expanded INPUT VALUE: no shell expands a ~ behind a `=`.
check_expanded() {
  [[ $2 != '~'* ]] ||
    mistake "$1=$2 begins with a ~ that no shell has expanded; write the" \
      "folder's path out"
}

# Prints a name for the run in `workdir`, the same each time: its last part and
# a checksum of the whole.
run_name() {
  local path=$workdir base sum
  [[ $path == /* ]] || path=$PWD/$path
  base=${path%/}
  base=${base##*/}
  sum=$(cksum <<< "${path%/}")
  echo "ldc_vae-${base//[!A-Za-z0-9_.-]/_}-${sum%% *}"
}

# Fails where a program is missing, with where to get it; a dry run needs none.
require() {
  ((dry_run)) || command -v "$1" > /dev/null ||
    fail "$1 is not on PATH; $2"
}

# Runs a command and keeps both of its outputs: sets `answer`, `complaint`.
# shellcheck disable=SC2034  # the callers read them
ask() {
  local file code=0
  file=$(mktemp) || fail 'cannot make a temporary file; is the disk full?'
  answer=$("$@" 2> "$file") || code=$?
  complaint=$(< "$file")
  rm -f "$file"
  return "$code"
}
