#!/usr/bin/env bash
# Makes the files of launch/locks/: every version and the SHA-256 of every file
# that pip may install, for all platforms and Pythons.
#
#   bash launch/lock.sh          # after a change of a requirements.txt
#
# requirements.txt and docs/requirements.txt decide the versions. Of what is in
# neither, such as the CUDA libraries, a version that is locked already stays.
# Those of accelerators have the packages of buckets, too.
# It needs uv: https://docs.astral.sh/uv

# shellcheck source=launch/_environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

# lock NAME FILE...: `-` is the standard input.
lock() {
  uv pip compile --quiet --universal --python-version=3.11.5 \
    --generate-hashes --no-annotate --no-header \
    "--output-file=launch/locks/$1.txt" "${@:2}" ||
    fail "uv could not make launch/locks/$1.txt; see the lines above"
}

command -v uv > /dev/null ||
  fail 'uv is not on PATH; install it: https://docs.astral.sh/uv'
cd "$root"
lock cpu requirements.txt
for accelerator in cuda12 cuda13 tpu; do
  lock "$accelerator" requirements.txt - << EOF
jax[$accelerator]
gcsfs
s3fs
EOF
done
lock docs docs/requirements.txt
