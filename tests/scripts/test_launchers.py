"""What the launchers would run: commands that a shell reads as they are meant, and a JobSet that Kubernetes would take."""

import importlib.util
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import pytest
import yaml

from flan_jax import distributed, errors
from flan_jax.planning import cloud_names

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent.parent / "scripts"
# Quotes inside quotes, a dollar and a blank must reach the program as they were typed.
COMMAND = [
    "flan",
    "train",
    "--gin_file=recipes/flan_t5_xl.gin",
    "--gin.MODEL_DIR='gs://bucket/a run'",
    '--gin.X="$Y\'s"',
]


def script(name):
    spec = importlib.util.spec_from_file_location(f"launcher_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed(name, argv, capsys):
    script(name).main([*argv, "--dry_run", "--", *COMMAND])
    return capsys.readouterr().out


def is_bash(text):
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=True).stderr == ""


# --- TPU VMs ---


@pytest.mark.parametrize(
    ("topology", "kind", "hosts", "chips"),
    [
        ("v3:8x8", "v3-128", 16, 4),
        ("v4:4x4x4", "v4-128", 16, 4),
        ("v5e:2x4", "v5litepod-8", 1, 8),
        ("v5e:16x16", "v5litepod-256", 64, 4),
        ("v5p:2x2x1", "v5p-8", 1, 4),
        ("v6e:4x4", "v6e-16", 4, 4),
    ],
)
def test_what_the_cloud_calls_a_slice(topology, kind, hosts, chips):
    found = cloud_names.of(topology)
    assert (found.accelerator_type, found.hosts, found.chips) == (kind, hosts, chips)


def test_tpu_vm_prints_commands_that_a_shell_reads(capsys):
    place = ["--zone=us-west4-a", "--project=p", "--package=gs://b/flan_jax-0.1-py3-none-any.whl"]
    text = printed("tpu_vm", ["run7", "--topology=2*v5e:4x4", "--spot", *place], capsys)
    is_bash(text)
    lines = [shlex.split(line) for line in text.splitlines() if not line.startswith("#")]
    assert all(line[:3] == ["gcloud", "compute", "tpus"] for line in lines)
    assert all({"--zone=us-west4-a", "--project=p"} <= set(line) for line in lines)
    create, *_ = lines
    wanted = {"--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--spot", "--node-count=2"}
    assert wanted | {"--node-prefix=run7"} <= set(create)
    starts = [line for line in lines if "nohup" in line[-1]]
    assert [line[5] for line in starts] == ["run7-0", "run7-1"]
    for line in starts:
        assert "--worker=all" in line
        remote = line[-1].removeprefix("--command=")
        is_bash(remote)
        inside = remote.partition("nohup ")[2].partition(" > run7.log")[0]
        assert shlex.split(inside) == COMMAND
    install = next(line[-1] for line in lines if "pip install" in line[-1])
    is_bash(install.removeprefix("--command="))
    assert "gcloud storage cp gs://b/flan_jax-0.1-py3-none-any.whl /tmp/" in install
    assert shlex.split(install)[-1] == "/tmp/flan_jax-0.1-py3-none-any.whl[tpu]"


def test_tpu_vm_installs_and_starts_with_a_python_that_the_package_takes(capsys):
    """The images' python3 is 3.10: it fetches uv and nothing else."""
    text = printed("tpu_vm", ["a", "--topology=v4:2x2x2", "--zone=z", "--package=flan_jax"], capsys)
    install, start = (next(line for line in text.splitlines() if word in line) for word in ("pip install", "nohup"))
    made = re.search(r"uv venv .*--python (3\.\d+) (\S+)", install)
    lowest, below = re.search(
        r'python_requires=">=3\.(\d+),<3\.(\d+)"', (SCRIPTS.parent / "setup.py").read_text()
    ).groups()
    assert int(lowest) <= int(made[1].partition(".")[2]) < int(below)
    assert [part.strip() for part in re.findall(r"python3 -m pip install ([^&]*)&&", install)] == ["--quiet --user uv"]
    assert f"--python {made[2]}/bin/python" in install
    assert f"export PATH={made[2]}/bin:$PATH" in start


@pytest.mark.parametrize(
    "package",
    ["gs://b/flan_jax.whl", "https://h/x/flan_jax-0.1.0.whl?sig=1", "flan_jax-py3-none-any.whl", "gs://b/flan_jax"],
)
def test_a_package_that_no_installer_takes_is_refused(package, capsys):
    place = ["a", "--topology=v4:2x2x2", "--zone=z", f"--package={package}"]
    with pytest.raises(errors.FlanError, match=r"--package .*flan_jax-0.1.0-py3-none-any.whl"):
        printed("tpu_vm", place, capsys)


def test_one_slice_is_one_node(capsys):
    text = printed("tpu_vm", ["a", "--topology=v4:2x2x2", "--zone=z", "--package=flan_jax"], capsys)
    assert "--node-id=a" in text
    assert "--node-count" not in text


# --- GKE ---


def workers_of(text):
    found = yaml.safe_load(text)
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (workers,) = found["spec"]["replicatedJobs"]
    assert found["spec"]["coordinator"] == {"replicatedJob": workers["name"], "jobIndex": 0, "podIndex": 0}
    job = workers["template"]["spec"]
    assert job["parallelism"] == job["completions"]
    (container,) = job["template"]["spec"]["containers"]
    return workers, job, container


def test_the_jobset_of_two_slices_gives_every_pod_its_number(capsys):
    text = printed("gke_jobset", ["run7", "--image=i", "--topology=2*v5e:4x4"], capsys)
    workers, job, container = workers_of(text)
    assert (workers["replicas"], job["completions"]) == (2, 4)
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert job["template"]["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    # What Kubernetes makes of it in each pod, read as the run reads it.
    fixed = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    looked_up = {entry["name"] for entry in container["env"] if "valueFrom" in entry}
    assert looked_up == {"JAX_COORDINATOR_ADDRESS", "JOB_INDEX"}
    worlds = [
        distributed.find(
            {**fixed, "JAX_COORDINATOR_ADDRESS": "c", "JOB_INDEX": str(slice_), "JOB_COMPLETION_INDEX": str(host)}
        )
        for slice_ in range(2)
        for host in range(4)
    ]
    assert [world.process for world in worlds] == list(range(8))
    assert {(world.processes, world.address) for world in worlds} == {(8, f"c:{distributed.PORT}")}


def test_gpu_nodes(capsys):
    _, job, container = workers_of(printed("gke_jobset", ["r", "--image=i", "--gpus=8", "--nodes=3"], capsys))
    assert (job["completions"], container["resources"]["limits"]) == (3, {"nvidia.com/gpu": 8})
    shell, flag, text = container["command"]
    assert (shell, flag) == ("bash", "-c")
    is_bash(text)
    (line,) = [line for line in text.splitlines() if line.startswith("flan")]
    assert shlex.split(line)[:-1] == COMMAND


# Stands for `flan train`: SIGTERM ends it with 0, after it has saved.
CHILD = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(0))); print('up', flush=True); time.sleep(float(sys.argv[1])); sys.exit(int(sys.argv[2]))"  # fmt: skip # noqa: E501


@pytest.mark.parametrize(("seconds", "own", "told", "code"), [(0, 0, False, 0), (0, 7, False, 7), (60, 0, True, 143)])
def test_a_pod_that_is_told_to_go_fails_after_it_has_saved(seconds, own, told, code):
    text = script("gke_jobset").wrapped([sys.executable, "-u", "-c", CHILD, str(seconds), str(own)])
    with subprocess.Popen(["bash", "-c", text], stdout=subprocess.PIPE, text=True) as pod:
        assert pod.stdout.readline() == "up\n"
        if told:
            os.kill(pod.pid, signal.SIGTERM)
        assert pod.stdout.read() == ("saved\n" if told else "")
        assert pod.wait(60) == code


# --- SLURM ---


def test_the_batch_script_runs_one_process_a_node(capsys):
    flags = ["run7", "--nodes=4", "--time=2:00:00", "--partition=gpu", "--sbatch=--mem=0", "--setup=module load cuda"]
    text = printed("slurm", [*flags, "--chain=3"], capsys)
    is_bash(text)
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert {"--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--time=2:00:00", "--partition=gpu"} <= set(
        options
    )
    assert {"--signal=TERM@120", "--requeue", "--dependency=singleton", "--mem=0"} <= set(options)
    assert not any("account" in option for option in options)
    (line,) = [line for line in text.splitlines() if line.startswith("srun")]
    assert shlex.split(line)[-len(COMMAND) :] == COMMAND
    assert text.startswith("#!/bin/bash\n#SBATCH")  # options behind the first command are not read
    assert text.index("module load cuda") < text.index("srun")
    assert text.count("# sbatch") == 3


# --- Mistakes ---


@pytest.mark.parametrize("name", ["tpu_vm", "gke_jobset", "slurm"])
def test_a_launcher_without_a_command_says_so(name, capsys):
    needed = {"tpu_vm": ["--topology=v5e:2x2", "--zone=z", "--package=p"], "gke_jobset": ["--image=i", "--gpus=1"]}
    with pytest.raises(SystemExit):
        script(name).parse(["run7", *needed.get(name, [])])
    assert "no command: expected -- flan train" in capsys.readouterr().err


def test_a_slice_that_does_not_exist_is_named(capsys):
    with pytest.raises(errors.FlanError, match="expected 2 axes"):
        printed("gke_jobset", ["r", "--image=i", "--topology=v5e:4x4x4"], capsys)
    with pytest.raises(SystemExit):
        printed("gke_jobset", ["r", "--image=i", "--topology=v5e:4x4", "--gpus=8"], capsys)
    assert "expected one of --topology and --gpus" in capsys.readouterr().err
