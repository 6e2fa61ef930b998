#!/usr/bin/env bash
# gensys on the nodes of a Slurm allocation:  sbatch cluster/slurm.sh gensys train RECIPE --run /shared/runs/NAME --workers 2
#
# Ray's head on the first node, a worker on each other one, then the command, which joins them. Everything ends with the
# job. Never submitted to a Slurm: see cluster/README.md for what was run.
#SBATCH --job-name=gensys
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "slurm.sh: give the command to run, such as: gensys train kl_autoencoder --run /shared/runs/codec --workers 2" >&2
  exit 2
fi

port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs may share a node
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address | awk '{print $1}')
cpus=${SLURM_CPUS_ON_NODE:-1}

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

start() { # start NODE OPTION ...: Ray on one node, in the foreground of a step of its own
  local node=$1
  shift
  srun --nodes=1 --ntasks=1 --nodelist="$node" --overlap \
    ray start --block --disable-usage-stats --num-cpus="$cpus" "$@" &
}

start "${nodes[0]}" --head --node-ip-address="$address" --port="$port" --include-dashboard=false
for node in "${nodes[@]:1}"; do
  start "$node" --address="$address:$port"
done

export RAY_ADDRESS=$address:$port
alive() { ray status 2>/dev/null | grep -c '^ 1 node_' || true; }
for ((waited = 0; waited < 120; waited += 2)); do
  [[ $(alive) -ge ${#nodes[@]} ]] && break
  sleep 2
done
if ((waited >= 120)); then
  echo "slurm.sh: $(alive) of ${#nodes[@]} nodes joined within two minutes: see the output of the steps above" >&2
  exit 1
fi

# Two minutes before the time is over Slurm sends TERM to this shell (--signal above), which hands it on: gensys saves at
# the end of the step and leaves with 143. Then the job goes back into the queue, and the same command goes on.
"$@" &
command=$!
warned=0
trap 'warned=1; kill -TERM "$command"' TERM
status=0
wait "$command" || status=$?
while kill -0 "$command" 2>/dev/null; do wait "$command" || status=$?; done
if ((warned && status == 143)) && ! scontrol requeue "$SLURM_JOB_ID"; then
  echo "slurm.sh: Slurm did not take the job back: submit it again, it goes on where it was stopped" >&2
fi
exit "$status"
