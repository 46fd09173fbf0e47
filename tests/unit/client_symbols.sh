#!/bin/sh
# client_symbols.sh SHARED STATIC MAP HEADER: what the library exports is the map, no more and no less, in both forms; each
# of it stands in the header; and it needs nothing but libc.
set -eu

shared=$1 static=$2 map=$3 header=$4

same() {
	[ "$2" = "$3" ] && return
	printf '%s differs from the map:\n%s\n--- the map:\n%s\n' "$1" "$2" "$3"
	exit 1
}

mapped=$(sed -n 's/^\t\(pgherald_[a-z_]*\);$/\1/p' "$map" | LC_ALL=C sort)
[ -n "$mapped" ]
same "$shared" "$(nm -D --defined-only "$shared" | sed -n 's/.* T \(.*\)@@PGHERALD_0$/\1/p' | LC_ALL=C sort)" "$mapped"
same "$shared with all else" "$(nm -D --defined-only "$shared" | sed -n 's/.* [^A] \([^@]*\).*/\1/p' | LC_ALL=C sort)" "$mapped"
same "$static" "$(nm -g --defined-only "$static" | sed -n 's/^[0-9a-f]* . //p' | LC_ALL=C sort)" "$mapped"
same "$header" "$(sed -n 's/^[a-z][a-z *]*\(pgherald_[a-z]*\)($/\1/p; s/^[a-z][a-z *]*\(pgherald_[a-z]*\)(.*/\1/p' "$header" |
	grep -v '^pgherald_done$' | LC_ALL=C sort)" "$mapped"

needed=$(readelf -d "$shared" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -v -e '^libc\.' -e '^ld-linux' -e '^lib[a-z]*san\.' || :)
[ -z "$needed" ] || { echo "needs more than libc: $needed"; exit 1; }
readelf -d "$shared" | grep -q 'SONAME.*\[libpgherald\.so\.0\]' || { echo "soname"; exit 1; }
