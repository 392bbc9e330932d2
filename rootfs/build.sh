#!/bin/bash
# Builds the guest's root image: an uncompressed newc cpio archive with the supervisor as /init and busybox.
#   rootfs/build.sh --supervisor FILE --output FILE
# The same inputs give the same bytes: every header field is written here, in a fixed order, and nothing is
# taken from the file system but contents. So no root rights, staging directory or cpio program are needed.
# Exit status: 0 built, 1 failed, 2 bad usage or missing package.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
busybox=/bin/busybox

die() { echo "rootfs: $1" >&2; exit "${2:-1}"; }

usage() { sed -n '2,3s/^# \?//p' "${BASH_SOURCE[0]}"; }

supervisor='' output=''
while [ $# -gt 0 ]; do
  case $1 in
    --supervisor) supervisor=${2:?--supervisor needs a file}; shift 2 ;;
    --output) output=${2:?--output needs a file}; shift 2 ;;
    --help) usage; exit 0 ;;
    *) usage >&2; die "unknown argument: $1" 2 ;;
  esac
done
if [ -z "$supervisor" ] || [ -z "$output" ]; then usage >&2; die 'both --supervisor and --output are needed' 2; fi
[ -f "$supervisor" ] || die "no supervisor at $supervisor (cargo build -p cloister-supervisor)" 2

# A busybox that isn't static couldn't start in a root without libraries.
has_static_busybox() { [ -x "$busybox" ] && dpkg-query -W -f='${Status}' busybox-static 2>/dev/null | grep -q 'ok installed'; }
if ! has_static_busybox; then
  [ "$(id -u)" = 0 ] || die 'package busybox-static is missing; as root: apt-get install busybox-static' 2
  echo 'rootfs: installing busybox-static'
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends busybox-static; } >/dev/null
fi

# --- newc format (linux/Documentation/driver-api/early-userspace/buffer-format.rst) ---
inode=0
# header MODE LINKS SIZE RDEV_MAJOR RDEV_MINOR NAME: owner 0:0, mtime 0, device 0:0, inode = place in the archive
header() {
  local mode=$1 links=$2 size=$3 major=$4 minor=$5 name=$6
  inode=$((inode + 1))
  printf '070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\0' \
    "$inode" $((8#$mode)) 0 0 "$links" 0 "$size" 0 0 "$major" "$minor" $((${#name} + 1)) 0 "$name"
  pad $((110 + ${#name} + 1))
}
# pad LENGTH: zeros up to the next multiple of 4
pad() { case $(($1 % 4)) in 1) printf '\0\0\0' ;; 2) printf '\0\0' ;; 3) printf '\0' ;; esac; }
directory() { header "04$1" 2 0 0 0 "$2"; }
symlink() { header 0120777 1 "${#1}" 0 0 "$2"; printf '%s' "$1"; pad "${#1}"; }
device() { header "02$1" 1 0 "$2" "$3" "$4"; }
file() {
  local size
  size=$(stat -L -c %s "$2")
  header "010$1" 1 "$size" 0 0 "$3"
  cat "$2"
  pad "$size"
}

# The applets that are wanted and that this busybox has.
applets() { sed '/^#/d' "$here/applets" | tr ' ' '\n' | sort -u | comm -12 - <("$busybox" --list | sort -u); }

archive() {
  local name applet
  for name in bin dev etc home opt proc run sys usr var; do directory 0755 "$name"; done
  directory 0700 root
  directory 1777 tmp
  directory 1777 var/tmp
  # One directory of programs under all its usual names, for `#!/usr/bin/env` and fixed search paths.
  symlink bin sbin
  symlink ../bin usr/bin
  symlink ../bin usr/sbin
  # Before devtmpfs is mounted: a Rust program with closed standard streams opens /dev/null or aborts, and
  # the supervisor can report a failed mount only through the kernel's log.
  device 0666 1 3 dev/null
  device 0600 1 11 dev/kmsg
  for name in group hostname hosts nsswitch.conf passwd; do file 0644 "$here/etc/$name" "etc/$name"; done
  file 0755 "$busybox" bin/busybox
  while read -r applet; do symlink busybox "bin/$applet"; done < <(applets)
  file 0755 "$supervisor" init
  header 0 1 0 0 0 'TRAILER!!!'
}

mkdir -p "$(dirname "$output")"
part=$(mktemp "$output.XXXXXX")
trap 'rm -f "$part"' EXIT
archive > "$part"
chmod 0644 "$part"
mv "$part" "$output"
trap - EXIT
echo "rootfs: $(stat -c %s "$output") bytes, $(applets | wc -l) applets: $output"
