#!/bin/sh
# installed.sh LIBDIR: after an install without DESTDIR. Tells the loader of the new library, or says how an app finds it.
set -eu

libdir=$1
PATH=$PATH:/usr/sbin:/sbin
if [ "$(id -u)" = 0 ] && command -v ldconfig >/dev/null; then
	ldconfig
	! ldconfig -p | grep -qF " => $libdir/libpgherald.so.0" || exit 0
fi
case $libdir in
/usr/lib | /usr/lib/*) exit 0 ;;
esac
echo "The loader does not look for libpgherald.so.0 in $libdir. Run ldconfig as root if ld.so.conf names the directory;" \
	"otherwise start apps with LD_LIBRARY_PATH=$libdir, and find the library with PKG_CONFIG_PATH=$libdir/pkgconfig."
