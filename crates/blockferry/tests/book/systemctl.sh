#!/bin/sh
# Stands for systemctl in the samples of the book: the one service of one server, below $ROOT.
# The service stops when the test that holds $ALIVE open is gone, however it ends.
pid_file=$ROOT/service.pid
running() {
    [ -s "$pid_file" ] && pid=$(cat "$pid_file") && [ -e "/proc/$pid" ] &&
        ! grep -q '^State:.*Z' "/proc/$pid/status"
}
start() {
    running && return
    blockferry serve --until-stdin-closes >>"$ROOT/service.log" 2>&1 <"$ALIVE" &
    echo $! >"$pid_file"
    tries=0
    until blockferry status >/dev/null 2>&1; do
        if ! running || [ $tries -gt 600 ]; then
            echo 'Job for blockferry.service failed.' >&2
            exit 1
        fi
        tries=$((tries + 1))
        sleep 0.1
    done
}
stop() {
    running || return 0
    kill "$(cat "$pid_file")"
    while running; do sleep 0.05; done
    rm -f "$pid_file"
}
# The unit's reload returns before the service has read its configuration; samples look right after.
reloads() { blockferry events 2>/dev/null | grep -c ' CONFIG_'; }
reload() {
    before=$(reloads)
    kill -HUP "$(cat "$pid_file")"
    tries=0
    while [ "$(reloads)" = "$before" ] && [ $tries -lt 300 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
}
case $1 in
start) start ;;
stop) stop ;;
restart) stop && start ;;
reload) reload ;;
*) echo "systemctl $1: not in the samples" >&2 && exit 2 ;;
esac
