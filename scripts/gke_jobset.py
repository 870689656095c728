"""Runs a command as a JobSet on GKE, on TPU slices or GPU nodes.

    python scripts/gke_jobset.py NAME --image IMAGE --topology v5e:16x16 [--dry_run] -- flan train --gin_file=...
    python scripts/gke_jobset.py NAME --image IMAGE --gpus 8 --nodes 4 [--gpu_type nvidia-h100-80gb] -- flan train ...

Writes the JobSet and hands it to `kubectl apply`; `--dry_run` prints it. The cluster needs the JobSet controller. A pod that
is taken away has saved its step by then and fails, so that the set is started again and the run goes on.
"""

import argparse
import shlex
import subprocess
import sys
from typing import Any

import yaml

from flan_jax import errors
from flan_jax.planning import cloud_names

_GRACE = 120  # seconds between SIGTERM and SIGKILL: a step, and a checkpoint
# SIGTERM ends `flan train` with 0, which to Kubernetes is the end of the work: a pod that is told to go fails instead.
_WRAP = """
trap 'told=1; kill -TERM $child' TERM
{run} &
child=$!
wait $child
wait $child
code=$?
[ -z "$told" ] || code=143
exit $code
"""


def parse(argv: list[str]) -> argparse.Namespace:
    """Flags before `--`, the command behind it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--image", required=True, help="container image with flan_jax installed")
    parser.add_argument("--topology", help="TPU slices as for flan plan: v5e:16x16, 2*v4:4x4x4 for two")
    parser.add_argument("--gpus", type=int, help="GPUs of a node, instead of --topology")
    parser.add_argument("--gpu_type", default="nvidia-h100-80gb", help="GKE's label of the GPU")
    parser.add_argument("--nodes", type=int, default=1, help="of GPUs")
    parser.add_argument("--max_restarts", type=int, default=20)
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--dry_run", action="store_true", help="print the JobSet")
    at = argv.index("--") if "--" in argv else len(argv)
    given = parser.parse_args(argv[:at])
    given.command = argv[at + 1 :]
    if not given.command:
        parser.error("no command: expected -- flan train ...")
    if (given.topology is None) == (given.gpus is None):
        parser.error("expected one of --topology and --gpus")
    return given


def jobset(given: argparse.Namespace) -> dict[str, Any]:
    """The JobSet: a job a slice, a pod a host; `flan_jax/distributed.py` reads the environment that it sets."""
    if given.topology:
        wanted = cloud_names.of(given.topology)
        labels = {"gke-tpu-accelerator": wanted.gke_accelerator, "gke-tpu-topology": wanted.gke_topology}
        jobs, hosts, device = wanted.slices, wanted.hosts, {"google.com/tpu": wanted.chips}
    else:
        labels = {"gke-accelerator": given.gpu_type}
        jobs, hosts, device = 1, given.nodes, {"nvidia.com/gpu": given.gpus}
    metadata = "metadata.annotations['jobset.sigs.k8s.io/{}']".format
    variables = [
        {"name": "JAX_COORDINATOR_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": metadata("coordinator")}}},
        {"name": "JOB_INDEX", "valueFrom": {"fieldRef": {"fieldPath": metadata("job-index")}}},
        {"name": "JOBS", "value": str(jobs)},
        {"name": "PROCESSES_IN_JOB", "value": str(hosts)},
    ]
    container = {
        "name": "flan",
        "image": given.image,
        "command": ["bash", "-c", wrapped(given.command)],
        "env": variables,
        "resources": {"limits": device},
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE,
        "nodeSelector": {f"cloud.google.com/{name}": value for name, value in labels.items()},
        "containers": [container],
    }
    job = {"parallelism": hosts, "completions": hosts, "completionMode": "Indexed", "backoffLimit": 0}
    workers = {"name": "workers", "replicas": jobs, "template": {"spec": {**job, "template": {"spec": pod}}}}
    a_pool_a_slice = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": given.name,
            "namespace": given.namespace,
            "annotations": a_pool_a_slice if given.topology else {},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": given.max_restarts},
            "coordinator": {"replicatedJob": "workers", "jobIndex": 0, "podIndex": 0},
            "replicatedJobs": [workers],
        },
    }


def wrapped(command: list[str]) -> str:
    """The shell script that runs a command in a pod."""
    return _WRAP.format(run=shlex.join(command)).lstrip()


def main(argv: list[str]) -> None:
    given = parse(argv)
    text = yaml.safe_dump(jobset(given), sort_keys=False)
    if given.dry_run:
        print(text, end="")
        return
    subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True, check=True)


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
