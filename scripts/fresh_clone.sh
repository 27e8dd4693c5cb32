#!/usr/bin/env bash
# Proves the two commands of the README: clones the committed state to a new folder, strips the
# environment, and runs them there with their times.
#   scripts/fresh_clone.sh [run|test ...]      # both when none is named
set -euo pipefail
source=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
folder=$(mktemp -d)
git clone --quiet "$source" "$folder/jaxinv"
cd "$folder/jaxinv"
for target in "${@:-run test}"; do
    for one in $target; do
        echo "make $one in $PWD"
        time env -i HOME="$HOME" PATH="$PATH" make "$one"
    done
done
