#!/bin/sh
# Starts a Slurm cluster of this one machine, all of it in one folder, and prints how to use and how to stop it.
#
#   apt-get install --no-install-recommends slurm-wlm munge
#   sh tests/slurm/start.sh /tmp/slurm && export SLURM_CONF=/tmp/slurm/slurm.conf
#   sh tests/slurm/start.sh /tmp/slurm stop
#
# NODES=2 makes two nodes that share the cores, for Slurm's own eyes.
#
# As root. Nothing is written outside the folder; no service of the system is touched. Jobs that pass their memory are killed by
# a control group where version 1 of those is mounted and writable, else by the accounting.
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)

if [ "${2:-start}" = stop ]; then
    for file in "$folder"/slurmctld.pid "$folder"/slurmd*.pid "$folder"/munged.pid; do
        if [ -f "$file" ]; then kill "$(cat "$file")" || true; fi
    done
    exit 0
fi

nodes=${NODES:-1}
mkdir -p "$folder/state" "$folder/spool"
chmod 755 "$folder"
[ -f "$folder/munge.key" ] || dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 2>/dev/null
chmod 400 "$folder/munge.key"

host=$(hostname -s)
megabytes=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
task=task/none track=proctrack/linuxproc gather=jobacct_gather/linux limit=OverMemoryKill
if [ -w /sys/fs/cgroup/memory ] && [ -w /sys/fs/cgroup/freezer ]; then
    task=task/cgroup track=proctrack/cgroup gather=jobacct_gather/cgroup limit=UsePss
    cat > "$folder/cgroup.conf" <<END
CgroupPlugin=cgroup/v1
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
ConstrainCores=no
END
fi
cat > "$folder/slurm.conf" <<END
ClusterName=mi_duck
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
ProctrackType=$track
TaskPlugin=$task
JobAcctGatherType=$gather
JobAcctGatherFrequency=2
JobAcctGatherParams=$limit
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=5,batch_sched_delay=0,defer_batch
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/finished.txt
MpiDefault=none
ReturnToService=2
KillWait=35
MinJobAge=300
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
END
for number in $(seq "$nodes"); do
    echo "NodeName=node$number NodeHostname=$host NodeAddr=127.0.0.1 Port=$((16817 + number)) CPUs=$(($(nproc) / nodes))" \
        "RealMemory=$((megabytes / nodes)) State=UNKNOWN" >> "$folder/slurm.conf"
done

export SLURM_CONF="$folder/slurm.conf"
munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munge.log" --seed-file="$folder/munge.seed"
slurmctld
for number in $(seq "$nodes"); do
    mkdir -p "$folder/spool/node$number"
    slurmd -N "node$number"
done
for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format='%T %D' 2>/dev/null)" = "idle $nodes" ]; then
        echo "Slurm runs: export SLURM_CONF=$SLURM_CONF; stop it with: sh $0 $folder stop"
        exit 0
    fi
    sleep 0.5
done
echo "Slurm does not start; see $folder/*.log" >&2
tail -n 3 "$folder"/*.log >&2
exit 1
