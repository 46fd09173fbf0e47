#!/bin/sh
# client_install.sh SOURCE_DIR BUILD_DIR: what is installed serves a program outside the tree: found by pkg-config, linked
# shared and static, from C and from C++. The program is the recipe of the header's first comment.
set -eu

source=$1 build=$2
root=$(mktemp -d /tmp/pgherald-XXXXXX)
trap 'rm -rf "$root"' EXIT

# What a sanitizer's build installs can be linked only with the same.
flags=$(sed -n 's/.*"name": "b_sanitize", "value": "\([^"]*\)".*/\1/p' "$build/meson-info/intro-buildoptions.json")
case $flags in none | '') flags= ;; *) flags=-fsanitize=$flags ;; esac

cd "$source"
DESTDIR=$root meson install -C "$build" --no-rebuild --quiet
pc=$(dirname "$(find "$root" -name pgherald.pc)")
export PKG_CONFIG_SYSROOT_DIR="$root" PKG_CONFIG_LIBDIR="$pc"
cflags=$(pkg-config --cflags pgherald) libs=$(pkg-config --libs pgherald)
libdir=$(pkg-config --variable=libdir pgherald)
case $libdir in "$root"*) ;; *) libdir=$root$libdir ;; esac

cd "$root"
{
	echo '#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <pgherald.h>'
	sed -n '1,/\*\//s/^ \*\t//p' "$source/client/pgherald.h" | sed -n '1,/^}/p'
	echo 'int main(void)
{'
	sed -n '1,/\*\//s/^ \*\t//p' "$source/client/pgherald.h" | sed '1,/^}/d' |
		# So that it hears something, and comes to an end
		sed 's/^while (r >= 0) {/pgherald_notify(h, "data_sync_changes", "alice", NULL, NULL, NULL);\n&/; s/pgherald_dispatch(h);/&\n\tif (r > 0) break;/'
	echo '	pgherald_close(h);
	return r < 0;
}'
} >recipe.c
grep -q pgherald_dispatch recipe.c

expect_alice() {
	[ "$(PGHERALD_SOCKET='' LD_LIBRARY_PATH=$libdir timeout 10 "$1")" = "alice changed" ] || { echo "$1 does not work"; exit 1; }
}

# shellcheck disable=SC2086 # lists of flags
{
	cc -Wall -Wextra -Werror -Wno-unused-parameter $flags $cflags -o shared recipe.c $libs
	expect_alice ./shared
	cc $flags $cflags -o static recipe.c "$libdir/libpgherald.a" $(pkg-config --static --libs-only-other pgherald)
	expect_alice ./static
	if [ -z "$flags" ]; then
		cc -static $cflags -o all-static recipe.c $(pkg-config --static --libs pgherald)
		expect_alice ./all-static
	fi
	echo '#include <pgherald.h>
int main() { struct pgherald_options options = {}; options.size = sizeof options; return options.size != sizeof options || *pgherald_strerror(0) == 0; }' >plus.cc
	c++ -Wall -Wextra -Werror -pedantic $flags $cflags -o plus plus.cc $libs
	LD_LIBRARY_PATH=$libdir ./plus
}

PGHERALD_SOCKET='' LD_LIBRARY_PATH=$libdir "$(find "$root" -name pgherald-cat)" --notify alice
