#!/bin/bash
# Builds the guest kernel: an uncompressed, stripped vmlinux with a PVH entry.
#   kernel-config/build.sh [--output FILE]
# Source: Debian's package linux-source-6.12, patches/ applied, fragments/ as the whole configuration.
# The result is kept in ${CLOISTER_CACHE:-${XDG_CACHE_HOME:-~/.cache}/cloister}/kernel/KEY/ (vmlinux, kernel.config,
# System.map), where KEY is a hash of all that goes in. With --output, vmlinux and its configuration (FILE.config)
# are copied there. Exit status: 0 built, 1 failed, 2 bad usage or missing packages.
set -euo pipefail
export LC_ALL=C
# A calling make's flags and a user's compiler settings are not part of the key, so they must not reach the build.
unset MAKEFLAGS MFLAGS MAKELEVEL CFLAGS KCFLAGS KCPPFLAGS ARCH CROSS_COMPILE LOCALVERSION KBUILD_OUTPUT

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
package=linux-source-6.12
source_archive=/usr/src/$package.tar.xz
packages=("$package" gcc binutils make flex bison bc libelf-dev libc6-dev xz-utils patch)
cache=${CLOISTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cloister}/kernel
# XEN_ELFNOTE_PHYS32_ENTRY (include/xen/interface/elfnote.h): the note by which a VMM finds the PVH entry.
pvh_note=0x00000012

stage() { printf 'kernel: [%4ds] %s\n' "$SECONDS" "$1"; }
die() { echo "kernel: error: $1" >&2; exit "${2:-1}"; }

output=''
while [ $# -gt 0 ]; do
  case $1 in
    --output) [ $# -gt 1 ] || die '--output needs a file' 2; output=$2; shift 2 ;;
    --help) sed -n '2,7s/^# \?//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "unknown argument: $1 (see --help)" 2 ;;
  esac
done

missing_packages() {
  local name
  for name in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || echo "$name"
  done
}

set_up_packages() {
  local missing
  command -v dpkg-query >/dev/null || die 'this needs Debian 12 or newer (no dpkg here)' 2
  mapfile -t missing < <(missing_packages)
  [ "${#missing[@]}" -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "missing packages; as root: apt-get install ${missing[*]}" 2
  stage "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# Everything that can change the result. A file's place in the list is its name, not where this directory lies.
cache_key() {
  {
    dpkg-query -W -f='${Version}\n' "$package"
    gcc --version | head -n 1
    ld --version | head -n 1
    cd "$here"
    sha256sum build.sh fragments/*.config patches/*.patch
  } | sha256sum | cut -c 1-20
}

# deliver DIRECTORY: copies a finished result to --output, whole or not at all.
deliver() {
  stage "done: $1/vmlinux ($(stat -c %s "$1/vmlinux") bytes)"
  [ -n "$output" ] || return 0
  mkdir -p "$(dirname "$output")"
  local part
  part=$(mktemp "$output.XXXXXX")
  cp "$1/kernel.config" "$part" && chmod 0644 "$part" && mv "$part" "$output.config"
  part=$(mktemp "$output.XXXXXX")
  cp "$1/vmlinux" "$part" && chmod 0644 "$part" && mv "$part" "$output"
  stage "copied to $output"
}

apply_patches() {
  local file
  for file in "$here"/patches/*.patch; do
    patch --quiet --strip=1 --forward < "$file" \
      || die "patches/${file##*/} does not apply to $package $(dpkg-query -W -f='${Version}' "$package")"
  done
}

# check_config FILE: every option of the fragments stands in FILE as it was asked. A misspelt option, one whose
# dependencies are not met, and one that something else selects would otherwise be dropped without a word.
check_config() {
  local failures=0 line name known
  known=$(mktemp "$work/known.XXXXXX")
  find . -name 'Kconfig*' -type f -exec sed -nE 's/^[[:space:]]*(menu)?config ([A-Za-z0-9_]+)$/CONFIG_\2/p' {} + | sort -u > "$known"
  while read -r line; do
    name=${line#\# }; name=${name%%[= ]*}
    if ! grep -qxF "$name" "$known"; then
      echo "kernel: error: no option is called $name in this source" >&2
    elif [ "${line:0:1}" = '#' ]; then
      ! grep -q "^$name=" "$1" && continue
      echo "kernel: error: $name was switched off but came out as: $(grep "^$name=" "$1")" >&2
    else
      grep -qxF "$line" "$1" && continue
      echo "kernel: error: asked for $line but got: $(grep -w "$name" "$1" || echo 'nothing (dependencies?)')" >&2
    fi
    failures=$((failures + 1))
  done < <(cat "$here"/fragments/*.config | grep -E '^(CONFIG_[A-Za-z0-9_]+=|# CONFIG_[A-Za-z0-9_]+ is not set$)')
  [ "$failures" = 0 ] || die "$failures options of the fragments do not stand"
}

# compile: make with a line of progress after every hundred files; the whole log stays in build.log.
compile() {
  make -j"$(nproc)" vmlinux 2>&1 | tee "$work/build.log" \
    | awk '/^  (CC|AS) / { n++; if (n % 100 == 0) { printf "kernel:         %d of about 1200 files\n", n; fflush() } }' \
    || { tail -n 30 "$work/build.log" >&2; die 'the build failed (last lines above)'; }
}

build() {
  stage "unpacking $package $(dpkg-query -W -f='${Version}' "$package")"
  tar -xf "$source_archive" -C "$work"
  cd "$work/$package"
  apply_patches

  stage 'configuring'
  # Who, when and where must not show in the image.
  export KBUILD_BUILD_TIMESTAMP='1970-01-01 00:00:00 UTC' KBUILD_BUILD_USER=cloister KBUILD_BUILD_HOST=cloister
  export KBUILD_BUILD_VERSION=1 SOURCE_DATE_EPOCH=0
  cat "$here"/fragments/*.config > "$work/all.config"
  make -s KCONFIG_ALLCONFIG="$work/all.config" allnoconfig >/dev/null
  check_config .config

  stage "compiling on $(nproc) CPUs (some minutes)"
  compile

  stage 'checking and stripping'
  mkdir "$work/result"
  objcopy --strip-all --remove-section=.comment vmlinux "$work/result/vmlinux"
  readelf -nW "$work/result/vmlinux" | grep -q "Xen.*$pvh_note" || die 'vmlinux has no PVH entry note'
  cp .config "$work/result/kernel.config"
  cp System.map "$work/result/System.map"
}

set_up_packages
key=$(cache_key)
if [ -e "$cache/$key/vmlinux" ]; then deliver "$cache/$key"; exit 0; fi

mkdir -p "$cache"
exec 9> "$cache/lock"
if ! flock --nonblock 9; then
  stage 'waiting for another build to end'
  flock 9
fi
if [ -e "$cache/$key/vmlinux" ]; then deliver "$cache/$key"; exit 0; fi

# The lock is ours, so what lies here was left by a build that was killed.
rm -rf "$cache"/build.*
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
(build) 9>&-
mv "$work/result" "$cache/$key"
deliver "$cache/$key"
