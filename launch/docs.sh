#!/usr/bin/env bash
# Builds and checks the site of the pages, and the packages that pip installs.
#
#   bash launch/docs.sh
#   python3 -m http.server --directory build/site     # shows the site
#
# It leaves build/site and build/dist. A warning, such as that of a link that
# leads nowhere, is an error. The first call makes an environment of its own,
# build/docs_venv, from launch/locks/docs.txt.

# shellcheck source=launch/_environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_environment.sh"

# The site has the places of the project, so that each link holds in both.
readonly parts=(
  docs benchmarks CHANGELOG.md CITATION.cff CONTRIBUTING.md LICENSE README.md
  SECURITY.md requirements.txt
)

LDC_VAE_VENV=$root/build/docs_venv
LDC_VAE_ACCELERATOR=cpu
requirements=$root/docs/requirements.txt
lock=docs
ensure_environment
cd "$root"

rm -rf build/pages build/site build/dist
mkdir build/pages
cp -R "${parts[@]}" build/pages
# mkdocs-material warns of MkDocs 2, which docs/requirements.txt leaves out.
NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --strict

"$python" -m build --no-isolation --outdir build/dist > build/dist.log || {
  cat build/dist.log >&2
  fail 'the packages could not be built; see the lines above'
}
"$python" -m twine check --strict build/dist/*
