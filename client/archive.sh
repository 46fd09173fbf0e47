#!/bin/sh
# archive.sh AR OBJCOPY OUT OBJECT... -l:ARCHIVE -- COMPILER...
# Make the static library OUT from the objects and msgpack-c: one object, in which only pgherald_* is global.
set -eu

ar=$1 objcopy=$2 out=$3
shift 3
objects=
while [ "$1" != -- ]; do
	objects="$objects $1"
	shift
done
shift

# The paths are meson's own, without spaces.
"$@" -r -nostdlib -o "$out.o" $objects
"$objcopy" --wildcard --keep-global-symbol='pgherald_*' "$out.o"
rm -f "$out"
"$ar" rcs "$out" "$out.o"
rm -f "$out.o"
