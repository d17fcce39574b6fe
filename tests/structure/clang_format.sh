#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: clang_format.sh CLANG_FORMAT ROOT. Fails if a source is not formatted by .clang-format.
set -euo pipefail

cd "$2"
folders=()
for folder in core backends attention parallel models training runtime apps tests bench; do
  if [[ -d $folder ]]; then folders+=("$folder"); fi
done
find "${folders[@]}" -path tests/structure/violations -prune -o \
  \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 "$1" --dry-run --Werror
