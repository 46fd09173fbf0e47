#!/bin/sh
# embed.sh FILE: its bytes, as C writes them in an array.
exec od -An -v -td1 "$1" | sed 's/\([0-9]\) /\1,/g; s/\([0-9]\)$/\1,/; $s/,$//'
