#!/bin/sh
# SPDX-License-Identifier: MIT
# litecoin.sh mine HOST PORT FOLDER: a node of a chain of its own with 200 blocks.
# litecoin.sh sync HOST:PORT PROXY FOLDER: another one, which has them once this ends well.
set -eu
what=$1 at=$2 more=$3
folder=$4/litecoin
mkdir -p "$folder"
rpc=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
quiet="-regtest -datadir=$folder -rpcport=$rpc -dnsseed=0 -upnp=0 -discover=0 -dbcache=4 -par=1 -printtoconsole=0"
cli() { litecoin-cli -regtest -datadir="$folder" -rpcport="$rpc" "$@"; }
stop() {
    kill "$daemon" 2>/dev/null || :
    wait "$daemon" || :
}

if [ "$what" = mine ]; then
    # shellcheck disable=SC2086
    litecoind $quiet -listen=0 &
    daemon=$!
    trap stop EXIT
    cli -rpcwait createwallet miner >"$folder/log"
    cli -generate 200 >>"$folder/log"
    trap - EXIT
    stop
    # shellcheck disable=SC2086
    exec litecoind $quiet -listen=1 -listenonion=0 -bind="$at:$more" -whitelist="download@0.0.0.0/0"
fi

# shellcheck disable=SC2086
litecoind $quiet -listen=0 -proxy="$more" -connect="$at" &
daemon=$!
trap stop EXIT
cli -rpcwait getblockcount >"$folder/log"
n=0
while [ "$(cli getblockcount)" != 200 ]; do
    n=$((n + 1))
    [ "$n" -lt 80 ] || exit 1
    sleep 0.25
done
echo "200 blocks are here"
