#!/bin/sh
# `demo` is the first thing to try; every other word is a command of breakhis.
if [ "$1" = demo ]; then
    shift
    set -- train --config demo "$@"
fi
exec breakhis "$@"
