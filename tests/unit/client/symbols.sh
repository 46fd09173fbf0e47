#!/bin/sh
# symbols.sh SHARED STATIC MAP HEADER
# What the library exports is the map, no more and no less, in both forms; each of it stands in the header;
# and it needs nothing but libc.
set -eu

shared=$1 static=$2 map=$3 header=$4

# expect_mapped WHERE: the names on stdin are those of the map
expect_mapped() {
	names=$(LC_ALL=C sort)
	[ "$names" = "$mapped" ] && return
	printf '%s differs from the map:\n%s\n--- the map:\n%s\n' "$1" "$names" "$mapped"
	exit 1
}

mapped=$(sed -n 's/^\t\(pgherald_[a-z_]*\);$/\1/p' "$map" | LC_ALL=C sort)
[ -n "$mapped" ]
nm -D --defined-only "$shared" | sed -n 's/.* T \(.*\)@@PGHERALD_0$/\1/p' | expect_mapped "$shared"
nm -D --defined-only "$shared" | sed -n 's/.* [^A] \([^@]*\).*/\1/p' | expect_mapped "$shared, of any kind,"
nm -g --defined-only "$static" | sed -n 's/^[0-9a-f]* . //p' | expect_mapped "$static"
sed -n 's/^[a-z][a-z *]*\(pgherald_[a-z]*\)(.*/\1/p' "$header" |
	grep -v '^pgherald_done$' | expect_mapped "$header"

for library in $(readelf -d "$shared" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
	case $library in
	libc.* | ld-linux* | libasan.* | libubsan.*) ;;
	*) echo "needs $library"; exit 1 ;;
	esac
done
readelf -d "$shared" | grep -q 'SONAME.*\[libpgherald\.so\.0\]'
