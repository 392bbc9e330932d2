#!/bin/bash
# Makes an image with Python out of Debian's packages: a root directory as a tarball, for `cloister image import`.
#   examples/images/python/build.sh [--with PACKAGE]... [--output FILE]
# No registry is needed. The result is kept in ${CLOISTER_CACHE:-${XDG_CACHE_HOME:-~/.cache}/cloister}/images/KEY/,
# where KEY is a hash of these scripts and of the packages' versions; two builds of the same KEY are equal, byte by byte.
# With --output it is copied there. Exit status: 0 built, 1 failed, 2 bad usage or missing packages.
set -euo pipefail
export LC_ALL=C
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -- "$here/../../.." && pwd)
# What an agent's program needs: an interpreter with its library, and what a shell script expects.
packages=(python3 python3-minimal busybox-static base-files base-passwd)
cache=${CLOISTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cloister}/images

stage() { printf 'image: [%4ds] %s\n' "$SECONDS" "$1" >&2; }
die() { echo "image: error: $1" >&2; exit "${2:-1}"; }

output='' more=()
while (($#)); do
  case $1 in
    --output) (($# > 1)) || die '--output needs a file' 2; output=$2; shift 2 ;;
    --with) (($# > 1)) || die '--with needs a package' 2; more+=("$2"); shift 2 ;;
    --help) sed -n '2,6s/^# \?//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "unknown argument: $1 (see --help)" 2 ;;
  esac
done

"$root/scripts/packages" mmdebstrap zstd
# The lists of a fresh machine are empty, and then no version is known.
packages+=("${more[@]}")
versions() { apt-cache policy "${packages[@]}" | sed -n 's/^  Candidate: //p'; }
[[ $(versions) ]] || apt-get update -qq >&2
key=$({ echo "${packages[*]}"; versions; cat "${BASH_SOURCE[0]}" "$here/tidy"; } | sha256sum | cut -c 1-20)
image=$cache/$key/python.tar.zst

build() {
  local work=$1 suite
  # shellcheck source=/dev/null
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  stage "unpacking ${packages[*]} and what they need"
  # Only unpacked: no maintainer script runs. Times are cut to one instant, names are sorted: the same every time.
  SOURCE_DATE_EPOCH=1704067200 mmdebstrap --quiet --variant=extract --format=tar --skip=output/dev \
    --include="$(IFS=,; echo "${packages[*]}")" \
    --extract-hook="$here/tidy \"\$1\"" \
    "$suite" "$work/python.tar" >&2
  stage 'compressing'
  zstd -q --rm -3 "$work/python.tar" -o "$work/python.tar.zst"
}

if [[ ! -e $image ]]; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  build "$work"
  mkdir -p "$cache/$key"
  # Whole or not at all, also when two build at once.
  mv "$work/python.tar.zst" "$image"
fi
stage "$(stat -c %s "$image") bytes: $image"
[[ ! $output ]] || cp "$image" "$output"
