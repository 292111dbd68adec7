#!/bin/sh
# The story that made people distrust replication, replayed on three nodes of this machine.
#
# A new, empty version of an image is made on server 1 and copied to all. The maintenance machine
# boots from server 3, and the work of a month is written there. Then somebody promotes on server 1,
# which still has the empty version. Where the newest date wins, that is the end of the work.
#
# Needs no root, no network but loopback, and some seconds:   docs/promotion-story.sh
# The program is taken from PATH, or from the variable BLOCKFERRY.
set -eu

blockferry=${BLOCKFERRY:-blockferry}
dir=$(mktemp -d)
pids=''
finish() {
    status=$?
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*"; exit 1; }
# on SERVER COMMAND...: a command on one of the three.
on() {
    server=$1
    shift
    "$blockferry" --config "$dir/server-$server/blockferry.toml" "$@"
}
# expect STATUS COMMAND...: the command must end with this status; what it says is shown, and kept.
expect() {
    wanted=$1
    shift
    got=0
    "$@" >"$dir/said" 2>&1 || got=$?
    sed 's/^/   /' "$dir/said"
    [ "$got" = "$wanted" ] || fail "exit status $got, not $wanted: $*"
}
said() { grep -q -e "$1" "$dir/said" || fail "it does not say: $1"; }
# soon COMMAND...: the command must go well within a minute.
soon() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || fail "it never happened: $*"
        sleep 0.2
    done
}
# knows SERVER TEXT: what 'ready' says there contains the text.
knows() { on "$1" ready vdisks/win11.avhd >"$dir/known" 2>&1 || true; grep -q -e "$2" "$dir/known"; }
image() { printf '%s/server-%s/images/win11.avhd' "$dir" "$1"; }
work='the updates of this month'

say 'Three servers, each paired with each'
for server in 1 2 3; do
    on_dir=$dir/server-$server
    "$blockferry" -q init --dir "$on_dir" --name "server-$server" --listen 127.0.0.1:0
    mkdir "$on_dir/images"
    # Nothing is recorded by itself here, so that each step can be seen.
    BLOCKFERRY_NODE_SETTLE=1h "$blockferry" --config "$on_dir/blockferry.toml" serve \
        >"$on_dir/log" 2>&1 &
    pids="$pids $!"
    soon on $server status
done
on 1 -q store add vdisks "$dir/server-1/images"
for pair in '1 2' '1 3' '2 3'; do
    inviter=${pair% *} joiner=${pair#* }
    ticket=$(on "$inviter" -q invite --store vdisks)
    on "$joiner" -q join "$ticket" --path "$dir/server-$joiner/images"
done

say 'A new, empty version is made on server 1 and is everywhere at once'
dd if=/dev/zero of="$(image 1)" bs=4096 count=256 2>/dev/null
expect 0 on 1 publish vdisks/win11.avhd
expect 0 on 1 wait vdisks/win11.avhd --timeout 1m

say 'The maintenance machine boots from server 3; the work is written there'
printf '%s' "$work" | dd of="$(image 3)" bs=1 seek=70000 conv=notrunc 2>/dev/null
soon knows 1 'server-3: not yet (changed)'

say 'Promotion on server 1 is refused: the work is not recorded yet'
expect 3 on 1 promote vdisks/win11.avhd
said 'changed on server-3'

say 'It is recorded on server 3, and what would carry it to the others is paused'
expect 0 on 3 -q pause
expect 0 on 3 publish vdisks/win11.avhd
soon knows 1 'win11.avhd@2'

say 'Promotion on server 1 is refused, and the server with the newer generation is named'
expect 3 on 1 promote vdisks/win11.avhd@1
said 'server-3 holds vdisks/win11.avhd@2'
soon knows 2 'win11.avhd@2'
expect 3 on 2 promote vdisks/win11.avhd@1
said 'server-3 holds vdisks/win11.avhd@2'

say 'It arrives; now it may be promoted, on server 1, too'
expect 0 on 3 -q resume
soon on 1 promote vdisks/win11.avhd@2
expect 0 on 1 image show vdisks/win11.avhd
said 'promoted   @2 on server-1'

say 'What the promotion itself writes is a new generation on top of the work'
printf 'activated' | dd of="$(image 1)" bs=1 seek=5 conv=notrunc 2>/dev/null
expect 0 on 1 publish vdisks/win11.avhd
expect 0 on 1 wait vdisks/win11.avhd@3 --timeout 1m
expect 0 on 3 image history vdisks/win11.avhd
for server in 1 2 3; do
    grep -q -a "$work" "$(image $server)" || fail "the work is gone on server $server"
    grep -q -a activated "$(image $server)" || fail "server $server lacks the activation"
done

say 'The work survived on all three servers, and nothing was promoted without it'
