#!/bin/sh
# Starts a Dask scheduler and workers that reach each other over a network alone, each in a network namespace of this machine
# with a core of its own, and prints how to use and how to stop them.
#
#   sh tests/dask/start.sh /tmp/dask
#   sh tests/dask/start.sh /tmp/dask stop
#
# NODES=2 says how many workers. As root, where 'dask' of the project's environment is in .venv/bin. Run folder and dataset lie on
# the disk that all share, as on a cluster.
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
nodes=${NODES:-2}
dask=$(cd "$(dirname "$0")/../.." && pwd)/.venv/bin/dask
bridge=miduck0

if [ "${2:-start}" = stop ]; then
    for file in "$folder"/*.pid; do
        if [ -f "$file" ]; then kill "$(cat "$file")" || true; rm "$file"; fi
    done
    ip -o netns list | awk '/^miduck/ {print $1}' | while read -r name; do ip netns del "$name"; done
    ip link del $bridge
    exit 0
fi

ip link add $bridge type bridge
ip addr add 10.77.0.254/24 dev $bridge
ip link set $bridge up
"$dask" scheduler --host 10.77.0.254 --port 8786 --no-dashboard > "$folder/scheduler.log" 2>&1 &
echo $! > "$folder/scheduler.pid"
for number in $(seq "$nodes"); do
    name=miduck$number
    ip netns add "$name"
    ip link add "$name.out" type veth peer name "$name.in"
    ip link set "$name.in" netns "$name"
    ip link set "$name.out" master $bridge up
    ip netns exec "$name" ip addr add "10.77.0.$number/24" dev "$name.in"
    ip netns exec "$name" ip link set "$name.in" up
    ip netns exec "$name" ip link set lo up
    core=$(((number - 1) % $(nproc)))
    ip netns exec "$name" taskset -c $core "$dask" worker tcp://10.77.0.254:8786 --host "10.77.0.$number" --nthreads 1 \
        --no-nanny --no-dashboard --local-directory "$folder/$number" --name "$name" > "$folder/$name.log" 2>&1 &
    echo $! > "$folder/$name.pid"
done
echo "--executor dask --dask-scheduler tcp://10.77.0.254:8786; 'sh $0 $folder stop' ends them"
