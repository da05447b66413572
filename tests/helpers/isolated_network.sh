#!/bin/sh
# Runs a command in a network of its own, with a card that leads nowhere; writes how many packets left by it.
#   isolated_network.sh FILE COMMAND...
# To be run by `unshare --net`.
set -e
file=$1
shift
ip link add card type veth peer name wire
for name in card wire; do
  echo 1 >"/proc/sys/net/ipv6/conf/$name/disable_ipv6"  # it would look for neighbours by itself
done
ip address add 192.0.2.2/24 dev card
ip link set lo up
ip link set wire up
ip link set card up
ip neighbour add 192.0.2.1 lladdr 02:00:00:00:00:01 dev card
ip route add default via 192.0.2.1
code=0
"$@" || code=$?
tr : ' ' </proc/net/dev | awk '$1 == "card" {print $11}' >"$file"
exit $code
