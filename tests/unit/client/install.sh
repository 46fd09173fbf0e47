#!/bin/sh
# install.sh SOURCE_DIR BUILD_DIR
# What is installed serves a program outside the tree: found by pkg-config, linked shared and static, from C
# and from C++. The program is the recipe in the header's first comment.
set -eu

source=$1 build=$2
root=$(mktemp -d /tmp/pgherald-XXXXXX)
trap 'rm -rf "$root"' EXIT

# What a sanitizer's build installs can be linked only with the same. Since 1.8 meson has a list of them.
sanitizers=$(/usr/bin/python3 -c '
import json, sys
value = next(option["value"] for option in json.load(open(sys.argv[1])) if option["name"] == "b_sanitize")
print(value if isinstance(value, str) else ",".join(value))
' "$build/meson-info/intro-buildoptions.json")
case $sanitizers in
none | '') flags= ;;
*) flags=-fsanitize=$sanitizers ;;
esac

DESTDIR=$root meson install -C "$build" --no-rebuild --quiet
pc=$(dirname "$(find "$root" -name pgherald.pc)")
export PKG_CONFIG_SYSROOT_DIR="$root" PKG_CONFIG_LIBDIR="$pc"
cflags=$(pkg-config --cflags pgherald) libs=$(pkg-config --libs pgherald)
libdir=$(dirname "$pc")
export LD_LIBRARY_PATH="$libdir" PGHERALD_SOCKET=

cd "$root"
sed -n '1,/\*\//s/^ \*\t//p' "$source/client/pgherald.h" >recipe
{
	printf '#include <%s>\n' errno.h pgherald.h poll.h stdio.h
	sed '/^}/q' recipe
	echo 'int main(void) {'
	# A change of its own, so that it hears something, and then ends
	sed '1,/^}/d
s/^while.*/pgherald_notify(h, "data_sync_changes", "alice", NULL, NULL, NULL);\n&/
s/pgherald_dispatch(h);/&\nif (r > 0) break;/' recipe
	echo 'pgherald_close(h); return r < 0; }'
} >recipe.c

expect_alice() {
	[ "$(timeout 10 "$1")" = "alice changed" ] && return
	echo "$1 does not work"
	exit 1
}

# shellcheck disable=SC2046,SC2086 # lists of flags
{
	cc -Wall -Wextra -Werror -Wno-unused-parameter $flags $cflags -o shared recipe.c $libs
	expect_alice ./shared
	cc $flags $cflags -o archive recipe.c "$libdir/libpgherald.a"
	expect_alice ./archive
	if [ -z "$flags" ]; then
		cc -static $cflags -o static recipe.c $(pkg-config --static --libs pgherald)
		expect_alice ./static
	fi
	cat >plus.cc <<-'EOF'
	#include <pgherald.h>
	int main()
	{
		struct pgherald_options options = {};
		options.size = sizeof options;
		struct pgherald *h;
		if (pgherald_open(&options, &h) < 0)
			return 1;
		pgherald_close(h);
	}
	EOF
	c++ -Wall -Wextra -Werror -pedantic $flags $cflags -o plus plus.cc $libs
	./plus
}
# It has the library in it.
unset LD_LIBRARY_PATH
"$(find "$root" -path "*/bin/pgherald-cat")" --notify alice
