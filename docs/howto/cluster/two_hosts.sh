#!/bin/sh
# A cluster by hand: a scheduler and two workers, which share no folder, and a sweep on them.
#
#     sh docs/howto/cluster/two_hosts.sh FOLDER [FLAGS OF implicit-accel sweep]
#
# Here the hosts are folders of this machine. On real ones, the scheduler listens on its host's
# address, each worker is started on a host of its own, and FOLDER is of the client alone.
set -eu
folder=$1
shift
mkdir -p "$folder/scheduler" "$folder/host1" "$folder/host2"
folder=$(cd "$folder" && pwd)
started=
trap 'kill $started; wait' EXIT
trap 'exit 130' INT TERM

# On the first host. A scheduler file stands for its address: here the port is any free one. A
# saturation of 1 keeps a task from waiting for one worker while another is idle.
(cd "$folder/scheduler" && HOME=$PWD DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION=1.0 \
    exec dask scheduler --host 127.0.0.1 --port 0 \
    --dashboard-address :0 --scheduler-file "$folder/scheduler.json" 2>log) &
started="$started $!"
while ! test -s "$folder/scheduler.json"; do sleep 0.1; done
address=$(python -c 'import json, sys; print(json.load(sys.stdin)["address"])' <"$folder/scheduler.json")

# On each host, for each core or accelerator of it: one thread, no limit on memory.
for host in host1 host2; do
    (cd "$folder/$host" && HOME=$PWD exec dask worker "$address" --nthreads 1 --memory-limit 0 \
        --name "$host" --local-directory . 2>log) &
    started="$started $!"
done

# Wherever the results are to be stored.
implicit-accel sweep --scheduler "$folder/scheduler.json" --output_dir "$folder/run" "$@"
