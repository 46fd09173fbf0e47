#!/bin/sh
# client_examples.sh BUILD_DIR POLL LIBEV PREFORK
# The examples at work, against a relay in local mode.
set -eu

build=$1 poll=$2 libev=$3 prefork=$4
cat=$build/client/tools/pgherald-cat
directory=$(mktemp -d /tmp/pgherald-XXXXXX)
pids=
# shellcheck disable=SC2086 # a list
trap 'kill $pids 2>/dev/null || :; wait; rm -rf "$directory"' EXIT
unset DATABASE_URL DATABASE_DIRECT_URL
export PGHERALD_SOCKET="$directory/relay.sock" PGHERALD_OPS_SOCKET=none

# expect FILE LINE [TIMES]: the file contains the line this often, within 10 s
expect() {
	for _ in $(seq 200); do
		[ "$(grep -cxF "$2" "$directory/$1")" = "${3:-1}" ] && return
		sleep 0.05
	done
	echo "$1: not ${3:-1} times \"$2\":"
	cat "$directory/$1"
	exit 1
}

# holds PID N: it has N sockets, timers and polls open, and no other file of a kind that it may leak
holds() {
	n=$(find "/proc/$1/fd" -lname 'socket:*' -o -lname 'anon_inode:*' | wc -l)
	[ "$n" = "$2" ] && return
	echo "$n open files of the library's and the example's, not $2:"
	ls -l "/proc/$1/fd"
	exit 1
}

"$build/relay/pgherald" 2>"$directory/relay" &
pids="$pids $!"

"$libev" alice >"$directory/libev" &
libev_pid=$!
pids="$pids $libev_pid"
expect libev "$libev: subscribed"
"$cat" --notify bob
"$cat" --notify alice
expect libev "alice changed"
[ "$(wc -l <"$directory/libev")" = 2 ]

mkfifo "$directory/names"
"$poll" <"$directory/names" >"$directory/poll" &
poll_pid=$!
pids="$pids $poll_pid"
exec 3>"$directory/names"
expect poll "poll: subscribed"
echo frank >&3
expect poll "frank changed"
exec 3>&-
"$cat" --notify grace
expect poll "grace changed"
holds "$libev_pid" 6
holds "$poll_pid" 4

# A worker is killed; the one that takes its place hears what was missed meanwhile, and nothing twice.
"$prefork" "$directory" 2 >"$directory/prefork" &
master=$!
pids="$pids $master"
expect prefork "worker 0: subscribed"
expect prefork "worker 1: subscribed"
"$cat" --notify carol
expect prefork "worker 0: carol changed"
expect prefork "worker 1: carol changed"
sleep 0.2 # their cursors are stored behind that
worker=$(cut -d" " -f1 "/proc/$master/task/$master/children")
kill -STOP "$worker"
"$cat" --notify dave
expect prefork "worker 1: dave changed"
kill -KILL "$worker"
expect prefork "worker 0: dave changed"
expect prefork "worker 0: subscribed" 2
"$cat" --notify eve
expect prefork "worker 0: eve changed"
expect prefork "worker 0: carol changed"
expect prefork "worker 1: dave changed"
! grep gap "$directory/prefork"
for worker in $(cat "/proc/$master/task/$master/children"); do
	holds "$worker" 4
done
