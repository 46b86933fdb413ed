"""deploy.sh and the files that Nuclio reads, as far as they can be checked without Docker and nuctl.

The script runs for real against stand-ins of docker, nuctl and kubectl that write down how they were called.
"""

import base64
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from cvat_sdk.models import ShapeType
from packaging.requirements import Requirement
from PIL import Image
from test_shared_store import RedisServer

from maskbank import __version__
from maskbank.networks.weights import save_weights

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {"cpu": "function.yaml", "gpu": "function-gpu.yaml"}

# ---- a small copy of the repository, and stand-ins for the tools ----

SHELL_TOOLS = ["bash", "cat", "cp", "dirname", "env", "find", "grep", "ls", "mkdir", "mktemp", "mv", "nproc", "rm"]
SHELL_TOOLS += ["chmod", "readlink", "sha256sum", "sleep", "sort", "tr"]

# The files that deploy.sh reads; the others only have to be there.
READ_FILES = ["deploy.sh", "base.Dockerfile", "function.yaml", "function-gpu.yaml", "interactor.yaml"]
READ_FILES += ["maskbank/__init__.py"]

NEEDED_FILES = {
    "main.py",
    "model_handler.py",
    "function.yaml",
    "function-gpu.yaml",
    "requirements.txt",
    "requirements.lock",
    "LICENSE",
    "maskbank/__init__.py",
    "maskbank/function/handler.py",
    "maskbank/service/service.py",
    "maskbank/tuning/decoder_tuner.py",
    "maskbank/networks/lite.py",
    "weights/interactor.safetensors",
    "weights/lite.safetensors",
    "weights/MODEL_CARD.md",
    "weights/LICENSE",
}
OTHER_FILES = {
    "README.md",
    "interactor.yaml",
    "maskbank/__pycache__/settings.pyc",
    "maskbank/networks/__pycache__/lite.pyc",
    "maskbank/cli/entry.py",
    "maskbank/training/trainer.py",
    "maskbank/evaluation/evaluate.py",
    "maskbank/jobs/annotate.py",
    "maskbank/serving/server.py",
    ".git/HEAD",
    ".venv/bin/python",
    "tests/test_it.py",
    "demo_out/masks/0.png",
    "samples/clip/0.jpg",
}

STAND_INS = {
    "nuctl": """
case "$1" in
    get) [ -z "$PROJECT_EXISTS" ] || echo "nuclio | cvat" ;;
    version) echo "Client version: Label: ${NUCTL_VERSION:-1.13.0}" ;;
    build)
        while [ "$1" != --path ]; do shift; done
        (cd "$2" && find . -type f) > "$LOG.staged"
        find "$2" -mindepth 1 -printf '%y:%m\n' > "$LOG.modes"
        rm -rf "$LOG.copy" && cp -R "$2" "$LOG.copy"
        exit "${NUCTL_BUILD_CODE:-0}" ;;
    deploy)
        name=$2
        while [ "$1" != --file ]; do shift; done
        if [ "$name" = maskbank-outline ]; then
            cat "$2" > "$LOG.outline.yaml"
            exit "${NUCTL_OUTLINE_CODE:-0}"
        fi
        cat "$2" > "$LOG.yaml"
        [ -z "$NUCTL_DEPLOY_SIGNAL" ] || kill -s "$NUCTL_DEPLOY_SIGNAL" "$PPID"
        exit "${NUCTL_DEPLOY_CODE:-0}" ;;
    delete) exit "${NUCTL_DELETE_CODE:-0}" ;;
esac
""",
    "docker": """
case "$1 $2" in
    "info --format") echo "${RUNTIMES:-runc}" ;;
    "info "*) exit "${DOCKER_INFO_CODE:-0}" ;;
    "network inspect") exit "${NETWORK_CODE:-0}" ;;
    "build "*) exit "${DOCKER_BUILD_CODE:-0}" ;;
    "image inspect")
        case "$*" in
            *RepoDigests*) [ -z "$DIGEST" ] || echo "docker.io/library/python@$DIGEST" ;;
            *) exit "${IMAGE_CODE:-0}" ;;
        esac ;;
    "port "*) [ -z "$PUBLISHED" ] || echo "8080/tcp -> 0.0.0.0:49155" ;;
    "run --rm")
        case "$*" in
            *torch.sha256) echo "${TORCH_SHA:-0123abcd}  torch-2.13.0+cpu.whl" ;;
            *" python -")
                given=()
                while [ $# -gt 0 ]; do
                    case "$1 $2" in
                        "--env "*=*) given+=("$2") ;;
                        "--env "*) given+=("$2=${!2}") ;;
                    esac
                    shift
                done
                printf '%s\n' "${given[@]}" > "$LOG.tried"
                [ -z "$CODE_IN_IMAGE" ] && exit
                cd "$CODE_IN_IMAGE" && exec env -i "${given[@]//"/opt/nuclio"/$LOG.copy}" "$PYTHON" - ;;
        esac ;;
    "exec "*) shift 4; exec "$PYTHON" - "$FUNCTION_URL" "$3" ;;
    "logs "*) echo "log of the container" ;;
    "inspect "*)
        case "$*" in
            *Config.Image*nuclio) echo "${DASHBOARD:-quay.io/nuclio/dashboard:1.13.0-amd64}" ;;
            *Config.Env*nuclio-nuclio-maskbank) printf "$RUNNING" ;;
            *Health*) echo "${HEALTH:-healthy}" ;;
            *cvat_redis_ondisk) exit "${REDIS_CODE:-0}" ;;
        esac ;;
esac
""",
    "kubectl": """
case "$*" in
    "get nodes"*) echo "$CLUSTER_GPUS" ;;
    *" exec "*) while [ "$1" != - ]; do shift; done; exec "$PYTHON" - "$FUNCTION_URL" "$3" ;;
esac
""",
    "nvidia-smi": "exit 0",
}


class Repository:
    """A folder with deploy.sh and what lies around it, and a PATH on which only chosen tools are."""

    def __init__(self, folder: Path):
        self.folder = folder / "repo"
        self.tools = folder / "bin"
        self.log = folder / "calls.log"
        self.env = {
            "PATH": str(self.tools),
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "LOG": str(self.log),
            "PYTHON": sys.executable,
        }
        self.tools.mkdir()
        (folder / "tmp").mkdir()
        for tool in SHELL_TOOLS:
            (self.tools / tool).symlink_to(shutil.which(tool))
        for name in NEEDED_FILES | OTHER_FILES:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        for name in READ_FILES:
            shutil.copy(ROOT / name, self.folder / name)

    def add_tools(self, *names: str) -> None:
        for name in names:
            tool = self.tools / name
            tool.write_text(f'#!{shutil.which("bash")}\necho "{name} $*" >> "$LOG"\n{STAND_INS[name]}')
            tool.chmod(0o755)

    def deploy(self, *arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(self.folder / "deploy.sh"), *arguments],
            cwd=cwd or self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def deployed(self) -> dict:
        """The configuration with which nuctl was called last."""
        return yaml.safe_load(Path(f"{self.log}.yaml").read_text())

    def outline(self) -> dict:
        """The configuration with which nuctl was called last for the interactor."""
        return yaml.safe_load(Path(f"{self.log}.outline.yaml").read_text())

    def settings(self) -> dict[str, object]:
        """The environment that it gives to the function, but for what function.yaml always has."""
        env = self.deployed()["spec"]["env"]
        entries = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in env}
        assert len(entries) == len(env), "of two with the same name, the winner would be left to chance"
        always = {entry["name"] for entry in read("function.yaml")["spec"]["env"]}
        return {name: value for name, value in entries.items() if name not in always}

    @property
    def choices(self) -> dict[str, str]:
        """What deploy.env holds."""
        lines = (self.folder / "deploy.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    def staged(self) -> set[str]:
        """The files that nuctl was given, relative to the folder."""
        return {line.removeprefix("./") for line in Path(f"{self.log}.staged").read_text().splitlines()}


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


@pytest.fixture
def deployable(repository):
    """A repository with docker, nuctl and kubectl."""
    repository.add_tools("docker", "nuctl", "kubectl")
    return repository


class Function(BaseHTTPRequestHandler):
    """Stands in for the deployed function."""

    requests: list[dict] = []
    boxes: list[dict] = []
    tokens: list[str | None] = []
    reply: tuple[int, bytes] = (200, b"")
    box_reply: tuple[int, bytes] = (200, b"")
    device = "cpu"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.tokens.append(self.headers["X-MaskBank-Token"])
        if "obj_bbox" in request:
            self.boxes.append(request)
            self.answer(*self.box_reply)
        else:
            self.requests.append(request)
            self.answer(*self.reply)

    def do_GET(self):
        self.answer(200, json.dumps({"status": "ok", "device": self.device}).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def function(deployable):
    """The stand-in function, which answers properly, reachable by the stand-ins' `exec`."""
    Function.requests, Function.boxes, Function.tokens, Function.device = [], [], [], "cpu"
    Function.box_reply = (200, json.dumps({"mask": [[1]], "bounds": [16, 12, 16, 12]}).encode())
    Function.reply = (200, json.dumps({"shapes": [{"type": "mask", "points": []}], "states": ["s"]}).encode())
    server = HTTPServer(("127.0.0.1", 0), Function)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    deployable.env["FUNCTION_URL"] = f"http://127.0.0.1:{server.server_port}"
    yield Function
    server.shutdown()
    thread.join()
    server.server_close()


def commands(done: subprocess.CompletedProcess) -> list[str]:
    """The commands that the script printed."""
    return [line.removeprefix("+ ") for line in done.stdout.splitlines() if line.startswith("+ ")]


def the(command: str, printed: list[str]) -> str:
    """The one printed command that starts so."""
    (line,) = [line for line in printed if line.startswith(command)]
    return line


# ---- the script's text ----


def test_shellcheck_is_content():
    shellcheck = shutil.which("shellcheck")
    assert shellcheck, "shellcheck is missing: install Debian's package 'shellcheck' (make test does)."
    done = subprocess.run([shellcheck, str(ROOT / "deploy.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_deploy_sh_can_be_executed():
    assert os.access(ROOT / "deploy.sh", os.X_OK)


# ---- arguments ----


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(repository, flag):
    done = repository.deploy(flag)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ./deploy.sh [auto|cpu|gpu]")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tpu"], "I do not know the argument 'tpu'."),
        (["--fast"], "I do not know the argument '--fast'."),
        (["--platform"], "--platform needs a value."),
        (["--platform", "--dry-run"], "--platform needs a value."),
        (["--platform", "mars"], "--platform is local or kube, not 'mars'."),
        (["--platform", "kube"], "--platform kube needs --registry: the cluster pulls the image from there."),
        (["--redis", "localhost"], "--redis is HOST:PORT, not 'localhost'."),
        (["--workers", "none"], "--workers is a whole number from 1 to 9999, not 'none'."),
        (["--workers", "0"], "--workers is a whole number from 1 to 9999, not '0'."),
        (["--cpus", "1.5"], "--cpus is a whole number from 1 to 9999, not '1.5'."),
        (["--replicas", "2"], "--replicas and --redis-secret are for --platform kube."),
        (["--platform", "kube", "--replicas", "3-2"], "--replicas is N or MIN-MAX, not '3-2'."),
        (["--port", "shut"], "--port is open or closed, not 'shut'."),
        (["--outline", "maybe"], "--outline is yes or no, not 'maybe'."),
        (["--outline"], "--outline needs a value."),
        (["--platform", "kube", "--port", "closed"], "--port is for --platform local."),
        (["--redis-secret", "a"], "--redis-secret is NAME:KEY, not 'a'."),
        (
            ["--platform", "kube", "--registry", "r", "--replicas", "2"],
            "--replicas needs --redis or MASKBANK_STORE: a store that all of them reach.",
        ),
        (["--spec", "nothing.yaml"], "There is no file 'nothing.yaml'."),
        (["--rollback", "--workers", "2"], "--rollback takes all from the deployment before."),
        (["--redis", "host:1\n--volume=/:/host"], "REDIS has a line break or another control character in it."),
        (["--weights", "nothing.pth"], "There is no weights file 'nothing.pth'."),
    ],
)
def test_wrong_arguments_get_one_sentence_and_the_usage(repository, arguments, sentence):
    done = repository.deploy(*arguments)
    assert done.returncode == 2
    first, rest = done.stderr.split("\n", 1)
    assert first == f"deploy.sh: {sentence}"
    assert rest.startswith("Usage:")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        (["cpu"], {"MASKBANK_DEVICE": "gpu"}, "MASKBANK_DEVICE is auto, cpu, cuda or cuda:N, not 'gpu'."),
        (["cpu"], {"MASKBANK_DEVICE": "cuda:1"}, "MASKBANK_DEVICE=cuda:1 is for the gpu variant; "),
        (["auto"], {"MASKBANK_DEVICE": "cuda"}, "MASKBANK_DEVICE=cuda is for the gpu variant; "),
        (["cpu"], {"MASKBANK_TOKEN": "it's"}, "MASKBANK_TOKEN has a ' in it, which nuctl cannot pass on; "),
        (["cpu"], {"CVAT_FUNCTIONS_REDIS_PASSWORD": "a'b'c"}, "CVAT_FUNCTIONS_REDIS_PASSWORD has a ' in it, "),
    ],
)
def test_what_would_take_the_function_down_is_refused_before(deployable, arguments, settings, sentence):
    done = deployable.deploy(*arguments, **settings)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"deploy.sh: {sentence}")
    assert not any(call.startswith(("docker build", "nuctl deploy")) for call in deployable.calls())


def test_kubernetes_gets_its_settings_without_a_shell(deployable, function):
    arguments = ["cpu", "--platform", "kube", "--registry", "registry.example"]
    assert deployable.deploy(*arguments, MASKBANK_TOKEN="it's").returncode == 0
    assert deployable.settings()["MASKBANK_TOKEN"] == "it's"


@pytest.mark.parametrize("line", ["TRACKER_PORT=0", "OUTLINE_PORT=65536", "TRACKER_PORT=http"])
def test_a_port_that_cannot_be(repository, line):
    (repository.folder / "deploy.env").write_text(line)
    done = repository.deploy("--dry-run")
    name, value = line.split("=")
    assert done.returncode == 2 and f"{name} is a port, 1 to 65535, not '{value}'." in done.stderr


# ---- dry runs: no tool is there at all ----


@pytest.mark.parametrize("variant", ["auto", "cpu", "gpu"])
def test_dry_run_local(repository, variant):
    done = repository.deploy(variant, "--dry-run", "--workers", "3")
    assert done.returncode == 0, done.stderr
    printed = commands(done)
    build = "gpu" if variant == "gpu" else "cpu"
    index = {"cpu": "cpu", "gpu": "cu129"}[build]

    assert printed[:3] == [
        "nuctl create project cvat --platform local --namespace nuclio",
        "docker pull python:3.11.14-slim-bookworm",
        f"docker build --file base.Dockerfile --tag cvat.maskbank.base:{build}"
        " --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm"
        f" --build-arg TORCH_INDEX=https://download.pytorch.org/whl/{index} --build-arg TORCH_WHEEL= .",
    ]
    image = re.search(r"--image (\S+) ", the("nuctl build", printed))[1]
    assert re.fullmatch(rf"cvat\.maskbank:{re.escape(__version__)}-{build}-[0-9a-f]{{10}}", image)
    assert the("nuctl build", printed) == (
        f"nuctl build maskbank --path /tmp/maskbank-function --file /tmp/maskbank-function/{VARIANTS[build]}"
        f" --image {image} --base-image cvat.maskbank.base:{build} --platform local --namespace nuclio"
    )
    tried, deployed = printed[-4:-2]
    assert tried.startswith("docker run --rm -i --network none ") and tried.endswith(f" {image} python -")
    assert deployed == (
        f"nuctl deploy maskbank --project-name cvat --run-image {image} --file .deployed/next/function.yaml"
        " --platform local --namespace nuclio"
    )
    assert printed[-2].startswith("docker inspect --format ")
    device = "cuda" if build == "gpu" else "''"
    assert printed[-1] == f"docker exec -i nuclio-nuclio-maskbank python - http://127.0.0.1:8080 {device}"
    for choice in (f"VARIANT={build}", "WORKERS=3", "REDIS=cvat_redis_ondisk:6666", "NAMESPACE=nuclio"):
        assert f"\n  {choice}\n" in done.stdout
    assert list((repository.folder.parent / "tmp").iterdir()) == []
    assert not (repository.folder / "deploy.env").exists()


@pytest.mark.parametrize("variant", ["auto", "cpu", "gpu"])
def test_dry_run_kube(repository, variant):
    where = ["--platform", "kube", "--registry", "https://registry.example/team", "--namespace", "labels"]
    done = repository.deploy(variant, "--dry-run", *where)
    assert done.returncode == 0, done.stderr
    printed = commands(done)
    assert printed[0] == "nuctl create project cvat --platform kube --namespace labels"
    build = the("nuctl build", printed)
    assert build.endswith(" --platform kube --namespace labels --registry https://registry.example/team")
    deploy = the("nuctl deploy", printed)
    image = re.search(r"--image (\S+) ", build)[1]
    assert f" --run-image registry.example/team/{image} " in deploy
    assert "--platform kube --namespace labels" in deploy
    assert "REDIS" not in done.stdout
    assert not any(line.startswith("docker run") for line in printed), "the cluster keeps the old pods meanwhile"
    workload = "deployment/nuclio-maskbank"
    assert printed[-2] == f"kubectl --namespace labels rollout status {workload} --timeout 900s"
    assert printed[-1].startswith(f"kubectl --namespace labels exec -i {workload} -- python -")


def test_another_address_for_the_cluster(repository):
    done = repository.deploy(
        "--dry-run", "--platform", "kube", NUCTL_REGISTRY="push.example", NUCTL_RUN_REGISTRY="pull.example"
    )
    assert "--registry push.example" in the("nuctl build", commands(done))
    assert "--run-image pull.example/cvat.maskbank:" in the("nuctl deploy", commands(done))


SECRETS = {
    "CVAT_FUNCTIONS_REDIS_PASSWORD": "secret one",
    "MASKBANK_STORE": "redis://user:secret-two@host:6379",
    "MASKBANK_TOKEN": "secret three",
}


def test_passwords_are_in_no_output_and_in_no_arguments(deployable, function):
    """The arguments of a process are for everybody on the machine to see."""
    for config in VARIANTS.values():  # the setting comes with the function's own part of the work
        path = deployable.folder / config
        if "MASKBANK_TOKEN" not in path.read_text():
            path.write_text(path.read_text() + "    # - {name: MASKBANK_TOKEN, value: ''}\n")
    done = deployable.deploy("--redis", "redis.lan:6379", **SECRETS)
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr + "".join(deployable.calls())
    for name in SECRETS:
        assert f"  {name}=<hidden>\n" in done.stdout
    assert SECRETS.items() <= deployable.settings().items()
    assert SECRETS.items() <= deployable.choices.items()
    assert function.tokens == [SECRETS["MASKBANK_TOKEN"]] * 2
    tried = Path(f"{deployable.log}.tried").read_text().splitlines()
    assert {f"{name}={value}" for name, value in SECRETS.items()} <= set(tried)
    for path in [deployable.folder / "deploy.env", *(deployable.folder / ".deployed").glob("*/*")]:
        assert "secret" not in path.read_text() or path.stat().st_mode & 0o077 == 0, path


def test_dry_run_starts_no_tool_and_prints_what_a_shell_can_read(deployable):
    done = deployable.deploy("--dry-run", "gpu", "--image", "a'b $c")
    assert done.returncode == 0
    assert deployable.calls() == []
    script = "\n".join(f"printf '%s\\n' {line}" for line in commands(done))
    read = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert "a'b $c" in read.stdout.splitlines()


# ---- what is missing is said ----


def test_missing_tools_are_all_named_with_the_way_to_get_them(repository):
    done = repository.deploy("--platform", "kube", "--registry", "registry.example")
    assert done.returncode == 1
    for words in (
        "* nuctl, Nuclio's command line",
        "https://github.com/nuclio/nuclio/releases",
        "* docker, which builds the image",
        "https://docs.docker.com/engine/install/",
        "* kubectl",
    ):
        assert words in done.stderr
    assert commands(done) == []


def test_kubectl_is_not_wanted_for_local(repository):
    assert "kubectl" not in repository.deploy().stderr


def test_docker_that_does_not_answer(deployable):
    done = deployable.deploy(DOCKER_INFO_CODE="1")
    assert done.returncode == 1
    assert "a Docker engine that answers" in done.stderr
    assert "systemctl start docker" in done.stderr
    assert "nuctl" not in done.stderr


def test_cvat_that_does_not_run(deployable):
    done = deployable.deploy(NETWORK_CODE="1")
    assert done.returncode == 1
    assert "Docker has no network 'cvat_cvat'" in done.stderr
    assert "docker-compose.serverless.yml up -d" in done.stderr
    assert commands(done) == []


@pytest.mark.parametrize(
    ("nuctl", "image", "warned"),
    [
        ("1.15.9", "quay.io/nuclio/dashboard:1.13.0-amd64", True),
        ("1.13.17", "quay.io/nuclio/dashboard:1.13.1-amd64", True),
        ("1.13.1", "quay.io/nuclio/dashboard:1.13.1-amd64@sha256:abab", False),
        ("1.13.1, Git commit: abc", "registry.example:5000/nuclio/dashboard:1.13.1", False),
        ("1.13.1", "quay.io/nuclio/dashboard@sha256:abab", False),
    ],
)
def test_nuctl_of_another_version_is_a_warning(deployable, function, nuctl, image, warned):
    done = deployable.deploy(NUCTL_VERSION=nuctl, DASHBOARD=image)
    assert done.returncode == 0, done.stderr
    assert ("and your nuctl is of another version" in done.stderr) == warned


# ---- real runs against the stand-ins ----


def test_a_deployment_from_start_to_end(deployable, function):
    done = deployable.deploy("cpu")
    assert done.returncode == 0, done.stderr
    assert "A mask was outlined and tracked, on 'cpu'." in done.stdout
    assert "AI tools > Trackers > AI tracker" in done.stdout

    calls = deployable.calls()
    order = ["docker info", "nuctl create project cvat", "docker build", "nuctl build", "docker run --rm -i"]
    order += ["nuctl deploy", "docker exec"]
    positions = [next(i for i, call in enumerate(calls) if call.startswith(start)) for start in order]
    assert positions == sorted(positions)
    spec = deployable.deployed()["spec"]
    assert "build" not in spec, "nuctl would build again, after it has removed the old function"
    assert spec["platform"]["attributes"]["network"] == "cvat_cvat"
    assert deployable.settings() == {
        "CVAT_FUNCTIONS_REDIS_HOST": "cvat_redis_ondisk",
        "CVAT_FUNCTIONS_REDIS_PORT": "6666",
    }
    assert list((deployable.folder.parent / "tmp").iterdir()) == [], "the staging folder must be gone"
    assert "--rollback" not in done.stdout, "there is nothing yet to go back to"
    assert "undo this:  ./deploy.sh --rollback" in deployable.deploy("cpu").stdout


def test_only_what_the_function_needs_is_packed(deployable, function):
    assert deployable.deploy().returncode == 0
    assert deployable.staged() == NEEDED_FILES


def test_what_is_packed_can_be_read_by_the_functions_user(deployable, function):
    """Whatever the umask and the mode of a file of one's own: in the image they are root's."""
    weights = deployable.folder / "mine.safetensors"
    weights.write_text("mine")
    weights.chmod(0o600)
    script = deployable.folder / "private.sh"
    script.write_text('umask 077\nexec ./deploy.sh "$@"\n')
    done = subprocess.run(
        ["bash", str(script), "cpu", "--weights", "mine.safetensors"],
        cwd=deployable.folder,
        env=deployable.env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    staged = Path(f"{deployable.log}.modes").read_text().split()
    assert staged and all(
        int(mode, 8) & (0o5 if kind == "d" else 0o4) for kind, mode in (each.split(":") for each in staged)
    )


def test_called_by_a_link_and_with_a_search_path_for_cd(deployable, function, tmp_path):
    link = tmp_path / "deploy"
    link.symlink_to("repo/deploy.sh")
    (tmp_path / "elsewhere/repo").mkdir(parents=True)
    env = deployable.env | {"CDPATH": str(tmp_path / "elsewhere")}
    done = subprocess.run([str(link), "cpu"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(["bash", "repo/deploy.sh"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "elsewhere/repo").iterdir()) and deployable.choices["VARIANT"] == "cpu"


def test_deploy_env_may_be_a_link(deployable, function, tmp_path):
    kept = tmp_path / "kept.env"
    kept.write_text("WORKERS=3\n")
    (deployable.folder / "deploy.env").symlink_to(kept)
    assert deployable.deploy("cpu").returncode == 0
    assert (deployable.folder / "deploy.env").is_symlink() and "VARIANT=cpu\n" in kept.read_text()


def test_a_temporary_folder_of_any_name_is_cleared(deployable, function, tmp_path):
    folder = tmp_path / "it's mine"
    folder.mkdir()
    done = deployable.deploy("cpu", TMPDIR=str(folder))
    assert done.returncode == 0 and not list(folder.iterdir())


def test_another_namespace_is_another_deployment(deployable, function):
    assert deployable.deploy("cpu").returncode == 0
    done = deployable.deploy("--namespace", "other")
    assert done.returncode == 1
    assert done.stderr == (
        "deploy.sh: deploy.env is of a deployment with NAMESPACE=nuclio. To begin another one, move deploy.env and"
        " .deployed away.\n"
    )


def test_stopped_while_the_function_is_replaced(deployable, function):
    """nuctl has removed the old one by then. (Who starts the tests may have them ignore SIGINT.)"""
    done = deployable.deploy("cpu", NUCTL_DEPLOY_SIGNAL="TERM")
    assert done.returncode == 130
    assert "stopped while the function was being replaced, so it may be gone: ./deploy.sh goes on" in done.stderr


def test_the_callers_checkpoint_is_packed(deployable, function, tmp_path):
    (tmp_path / "my own.pth").write_text("my weights")
    done = deployable.deploy("--weights", "my own.pth", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(f"{deployable.log}.copy/weights/my own.pth").read_text() == "my weights"
    assert deployable.settings()["MASKBANK_WEIGHTS"] == "/opt/nuclio/weights/my own.pth"
    assert deployable.choices["MASKBANK_WEIGHTS"] == str(tmp_path / "my own.pth")


def test_an_existing_project_is_kept(deployable, function):
    assert deployable.deploy(PROJECT_EXISTS="1").returncode == 0
    assert not any(call.startswith("nuctl create") for call in deployable.calls())


def test_cvats_redis_is_used_only_where_it_runs(deployable, function):
    assert deployable.deploy(REDIS_CODE="1").returncode == 0
    assert deployable.settings() == {}
    assert "REDIS" not in deployable.choices


@pytest.mark.parametrize(
    ("driver", "runtimes", "variant"),
    [(True, "nvidia runc", "gpu"), (True, "runc", "cpu"), (False, "nvidia runc", "cpu")],
)
def test_auto_takes_the_gpu_that_docker_can_use(deployable, function, driver, runtimes, variant):
    function.device = "cuda" if variant == "gpu" else "cpu"
    if driver:
        deployable.add_tools("nvidia-smi")
    done = deployable.deploy(RUNTIMES=runtimes)
    assert done.returncode == 0, done.stderr
    assert f"deploying the {variant} variant on local." in done.stderr
    assert ("NVIDIA Container Toolkit" in done.stderr) == (driver and variant == "cpu")


@pytest.mark.parametrize(("gpus", "variant"), [("1 4", "gpu"), ("", "cpu"), ("0", "cpu")])
def test_auto_on_kubernetes_asks_the_cluster(deployable, function, gpus, variant):
    function.device = "cuda:0" if variant == "gpu" else "cpu"
    done = deployable.deploy("--platform", "kube", "--registry", "registry.example", CLUSTER_GPUS=gpus)
    assert done.returncode == 0, done.stderr
    assert f"deploying the {variant} variant on kube." in done.stderr
    assert f"A mask was outlined and tracked, on '{function.device}'." in done.stdout


def test_a_gpu_deployment_that_computes_on_the_cpu_is_a_failure(deployable, function):
    done = deployable.deploy("gpu")
    assert done.returncode == 1
    assert "The function computed on 'cpu', but should have done so on 'cuda'." in done.stderr
    assert not (deployable.folder / "deploy.env").exists()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("MASKBANK_WEIGHTS", "README.md", r"The weights file \S+/README\.md must end in .*"),
        ("MASKBANK_WEIGHTS", "weights/interactor.safetensors", r"The weights \S+ are not for Lite: .*"),
        ("MASKBANK_INTERACTOR_WEIGHTS", "weights/lite-open.safetensors", r"The weights \S+ are not for Interactor: .*"),
        ("MASKBANK_SIZE", "abc", "MASKBANK_SIZE is 'abc', but must be a whole number from 64 to 2160."),
        ("MASKBANK_MODEL", "afb-urr", "The model afb-urr brings no weights: .*"),
        ("MASKBANK_STORE", "nowhere", "MASKBANK_STORE is 'nowhere', but must be .*"),
    ],
)
def test_what_cannot_be_loaded_does_not_take_down_the_function_that_runs(deployable, function, name, value, sentence):
    """The stand-in runs what the image is to run, with this repository's package."""
    for weights in ("interactor", "lite-open"):
        shutil.copy(ROOT / f"weights/{weights}.safetensors", deployable.folder / "weights")
    done = deployable.deploy("cpu", CODE_IN_IMAGE=str(ROOT), **{name: value})
    assert done.returncode == 1
    said, conclusion = done.stderr.splitlines()[-2:]
    assert re.fullmatch(sentence, said), done.stderr
    assert conclusion.endswith("with these settings and weights, as it says above, so nothing was deployed.")
    assert not any(call.startswith("nuctl deploy") for call in deployable.calls()), "the old function must go on"
    assert not (deployable.folder / ".deployed").exists(), "--rollback must still mean the deployment before"


def test_what_can_be_loaded_is_deployed(deployable, function):
    """On the CPU and without a network, whatever device and store the function will have."""
    for weights in ("interactor-open", "lite-open"):
        shutil.copy(ROOT / f"weights/{weights}.safetensors", deployable.folder / "weights")
    function.device = "cuda"
    settings = {"MASKBANK_DEVICE": "cuda", "MASKBANK_SIZE": "320", "CODE_IN_IMAGE": str(ROOT)}
    done = deployable.deploy("gpu", "--cpus", "3", "--weights", "weights/lite-open.safetensors", **settings)
    assert done.returncode == 0, done.stderr
    assert "docker run --rm -i --network none " in done.stdout and " --cpus 3 --gpus all " in done.stdout
    tried = Path(f"{deployable.log}.tried").read_text().splitlines()
    assert dict(line.split("=", 1) for line in tried) == deployable.settings() | {"MASKBANK_DEVICE": "cpu"}


@pytest.mark.parametrize(("step", "code"), [("DOCKER_BUILD", 3), ("NUCTL_BUILD", 3), ("NUCTL_DEPLOY", 1)])
def test_a_failed_step_ends_the_script(deployable, function, step, code):
    done = deployable.deploy(**{f"{step}_CODE": "3"})
    assert done.returncode == code
    assert function.requests == []
    assert "deployed. In CVAT" not in done.stdout
    assert list((deployable.folder.parent / "tmp").iterdir()) == []
    if step != "NUCTL_DEPLOY":
        assert not any(call.startswith("nuctl deploy") for call in deployable.calls()), "the old function must go on"


def test_a_function_that_does_not_become_ready(deployable, function):
    done = deployable.deploy(HEALTH="unhealthy", READY_SECONDS="1")
    assert done.returncode == 1
    assert "The function is not ready after 1 s." in done.stderr
    assert "docker logs --tail 30 nuclio-nuclio-maskbank" in done.stderr
    assert function.requests == []


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((500, b"no weights"), "The function answered 500: no weights"),
        ((200, b"not JSON"), "did not answer properly"),
        ((200, b'{"shapes": [], "states": []}'), "should have answered one shape and one state"),
        ((200, b'{"shapes": null}'), "should have answered one shape and one state"),
        ((200, b"[]"), "should have answered an object"),
    ],
)
def test_a_trial_that_fails_is_shown(deployable, function, reply, words):
    function.reply = reply
    done = deployable.deploy()
    assert done.returncode == 1
    assert words in done.stderr
    assert "The function runs, but its trial failed." in done.stderr


def test_the_trial_is_a_proper_pair_of_requests(deployable, function, tmp_path):
    assert deployable.deploy().returncode == 0
    init, track = function.requests
    (shape,) = init["shapes"]
    *runs, left, top, right, bottom = shape["points"]
    assert shape["type"] == "mask" and init["states"] == []
    assert sum(runs) == (right - left + 1) * (bottom - top + 1)
    assert track == {"image": init["image"], "shapes": [None], "states": ["s"]}

    (tmp_path / "trial.png").write_bytes(base64.b64decode(init["image"]))
    with Image.open(tmp_path / "trial.png") as image:
        assert right < image.width and bottom < image.height


# ---- what was chosen is kept ----


def test_an_upgrade_keeps_what_was_chosen(deployable, function, tmp_path):
    (tmp_path / "mine.safetensors").write_text("my weights")
    arguments = ["cpu", "--weights", "mine.safetensors", "--redis", "redis.lan:6379", "--workers", "5", "--cpus", "4"]
    first = deployable.deploy(*arguments, cwd=tmp_path, MASKBANK_SIZE="320", MASKBANK_STORE='it is: a "value" # \\n')
    assert first.returncode == 0, first.stderr
    chosen, choices = deployable.deployed(), deployable.choices
    assert choices.items() >= {"WORKERS": "5", "MASKBANK_SIZE": "320", "REDIS": "redis.lan:6379"}.items()
    assert deployable.settings()["MASKBANK_STORE"] == 'it is: a "value" # \\n'
    assert (deployable.folder / "deploy.env").stat().st_mode & 0o777 == 0o600

    (deployable.folder / "main.py").write_text("the next version")
    again = deployable.deploy()
    assert again.returncode == 0, again.stderr
    assert deployable.deployed() == chosen
    assert deployable.choices == choices
    assert Path(f"{deployable.log}.copy/weights/mine.safetensors").read_text() == "my weights"
    images = {re.search(r"--run-image (\S+)", call)[1] for call in deployable.calls() if "--run-image" in call}
    assert len(images) == 2, "another version is another image"


def test_the_settings_of_a_function_from_before_deploy_env_are_taken_over(deployable, function):
    for name in ("lite-open", "interactor-open"):
        (deployable.folder / f"weights/{name}.safetensors").write_text("open")
    running = (
        "PATH=/bin\\nMASKBANK_SIZE=320\\nMASKBANK_STORE=redis://:secret@host\\nMASKBANK_DEVICE=cuda\\n"
        "MASKBANK_MODEL=lite\\nMASKBANK_WEIGHTS=/opt/nuclio/weights/lite-open.safetensors\\n"
    )
    done = deployable.deploy("cpu", MASKBANK_MODEL="", RUNNING=running)
    assert done.returncode == 0, done.stderr
    assert "taken over from the function that runs: MASKBANK_SIZE=320" in done.stderr
    assert "secret" not in done.stdout + done.stderr
    kept = {"MASKBANK_SIZE": "320", "MASKBANK_STORE": "redis://:secret@host"}
    assert {name: value for name, value in deployable.choices.items() if name.startswith("MASKBANK_")} == {
        **kept,
        "MASKBANK_WEIGHTS": "weights/lite-open.safetensors",
    }
    assert kept.items() <= deployable.settings().items() and "non-commercial" not in done.stderr
    # From now on deploy.env counts.
    assert deployable.deploy(RUNNING="MASKBANK_MAX_OBJECTS=7\\n").returncode == 0
    assert "MASKBANK_MAX_OBJECTS" not in deployable.settings()


def test_the_settings_of_a_first_deployment_that_failed_do_not_come_back(deployable, function):
    wrong = {"MASKBANK_STORE": "redis://wrong:1"}
    assert deployable.deploy("cpu", HEALTH="unhealthy", READY_SECONDS="1", **wrong).returncode == 1
    done = deployable.deploy("cpu", RUNNING="MASKBANK_STORE=redis://wrong:1\\n")
    assert done.returncode == 0 and "taken over" not in done.stderr
    assert "MASKBANK_STORE" not in deployable.settings()


def test_weights_of_a_function_from_before_deploy_env_have_to_be_named(deployable):
    done = deployable.deploy(RUNNING="MASKBANK_WEIGHTS=/opt/nuclio/weights/mine.pth\\n")
    assert done.returncode == 1
    assert (
        done.stderr
        == "deploy.sh: the function that runs has the weights mine.pth: name that file with MASKBANK_WEIGHTS=FILE.\n"
    )


def test_arguments_come_before_the_environment_and_both_before_the_file(deployable, function):
    assert deployable.deploy("cpu", "--workers", "3", MASKBANK_SIZE="320", MASKBANK_MODEL="lite").returncode == 0
    done = deployable.deploy("--workers", "4", "--weights", "mine.pth", MASKBANK_SIZE="480", MASKBANK_WEIGHTS="no.pth")
    assert done.returncode == 2 and "'mine.pth'" in done.stderr
    assert deployable.deploy("--workers", "4", MASKBANK_SIZE="480").returncode == 0
    (trigger,) = deployable.deployed()["spec"]["triggers"].values()
    assert trigger["numWorkers"] == trigger["maxWorkers"] == 4
    assert {**deployable.settings(), **deployable.choices}["MASKBANK_SIZE"] == "480"
    assert deployable.settings()["MASKBANK_MODEL"] == "lite"
    # An empty variable takes a choice back.
    assert deployable.deploy(MASKBANK_SIZE="").returncode == 0
    assert "MASKBANK_SIZE" not in deployable.settings().keys() | deployable.choices.keys()


def test_git_knows_nothing_of_what_is_kept():
    for name in ("deploy.env", ".deployed/current/function.yaml"):
        assert subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT).returncode == 0, name


def test_the_environments_other_variables_are_no_choices(deployable, function):
    done = deployable.deploy("--workers", "2", PORT="8080", WORKERS="9", VARIANT="beta", SPEC="x", IMAGE="y")
    assert done.returncode == 0, done.stderr
    assert deployable.choices["PORT"] == "open" and deployable.choices["WORKERS"] == "2"


def test_deploy_env_is_plain_text_that_a_person_may_write(repository):
    path = repository.folder / "deploy.env"
    path.write_text('# mine\n\nWORKERS=7\r\nMASKBANK_SIZE=$(touch /tmp/x) "a=b"')
    done = repository.deploy("--dry-run")
    assert done.returncode == 0, done.stderr
    assert "  WORKERS=7\n" in done.stdout and '  MASKBANK_SIZE=$(touch /tmp/x) "a=b"\n' in done.stdout
    assert path.read_text().startswith("# mine")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("WORKER=7", "deploy.env, line 2, is not NAME=VALUE with a name that I know: 'WORKER'."),
        ("hello", "deploy.env, line 2, is not NAME=VALUE with a name that I know: 'hello'."),
        ("PATH=/tmp", "deploy.env, line 2, is not NAME=VALUE with a name that I know: 'PATH'."),
        ("MASKBANK_SIZ=3", "There is no setting MASKBANK_SIZ."),
        ("WORKERS=two", "--workers is a whole number from 1 to 9999, not 'two'."),
        ("PLATFORM=kube", "deploy.env is of a deployment with PLATFORM=kube."),
    ],
)
def test_what_deploy_env_must_not_hold(repository, line, sentence):
    (repository.folder / "deploy.env").write_text(f"# comment\n{line}\n")
    done = repository.deploy("--dry-run", "--platform", "local")
    assert done.returncode in (1, 2)
    assert done.stderr.startswith(f"deploy.sh: {sentence}")


@pytest.mark.parametrize("name", ["MASKBANK_STORE", "CVAT_FUNCTIONS_REDIS_PASSWORD", "CVAT_NETWORK", "NUCTL_NAMESPACE"])
def test_a_line_break_in_a_value_is_refused(deployable, name):
    done = deployable.deploy("--redis", "host:1", **{name: "a\n    - {name: LD_PRELOAD, value: /tmp/x.so}"})
    assert done.returncode == 2
    assert "has a line break or another control character in it." in done.stderr
    assert deployable.calls() == []


def test_the_licence_of_the_weights_is_said(deployable, function):
    assert "research and non-commercial use (weights/LICENSE)" in deployable.deploy("--dry-run").stderr
    for name in ("lite-open", "interactor-open"):
        (deployable.folder / f"weights/{name}.safetensors").write_text("open")
    open_weights = deployable.deploy("--dry-run", "--weights", "weights/lite-open.safetensors")
    assert open_weights.returncode == 0 and "non-commercial" not in open_weights.stderr


@pytest.mark.parametrize(
    ("name", "interactor", "for_research"),
    [
        ("lite", "interactor-open", False),
        ("lite", "interactor", True),
        ("lite", None, True),
        ("ours", "interactor", True),
        ("ours", None, False),
    ],
)
def test_the_licence_of_trained_weights_is_that_of_those_they_started_from(repository, name, interactor, for_research):
    """Training writes lite.safetensors, whatever it started from, and people give the file other names."""
    save_weights({"key": torch.zeros(1)}, repository.folder / f"{name}.safetensors", interactor)
    done = repository.deploy("--dry-run", "--weights", f"{name}.safetensors")
    assert done.returncode == 0, done.stderr
    assert ("research and non-commercial use" in done.stderr) == for_research


def test_weights_that_were_trained_from_open_ones_go_with_the_open_interactor(deployable, function):
    (deployable.folder / "weights/interactor-open.safetensors").write_text("open")
    for name, interactor in (("ours", "interactor-open"), ("theirs", "interactor")):
        save_weights({"key": torch.zeros(1)}, deployable.folder / f"{name}.safetensors", interactor)
        assert deployable.deploy("cpu", "--weights", f"{name}.safetensors").returncode == 0
        assert {file for file in deployable.staged() if file.endswith(".safetensors")} == {
            f"weights/{name}.safetensors",
            f"weights/{interactor}.safetensors",
        }


# ---- going back ----


def run_images(repository: Repository) -> list[str]:
    """The images that were deployed, one after another."""
    return [re.search(r"--run-image (\S+)", call)[1] for call in repository.calls() if "--run-image" in call]


def test_going_back_restores_image_and_settings(deployable, function):
    assert deployable.deploy("cpu", "--workers", "3", MASKBANK_SIZE="320").returncode == 0
    first, choices = deployable.deployed(), deployable.choices
    (deployable.folder / "main.py").write_text("the next version")
    assert deployable.deploy("--workers", "4", MASKBANK_SIZE="480").returncode == 0
    second = deployable.deployed()
    function.requests.clear()

    back = deployable.deploy("--rollback", MASKBANK_SIZE="999")
    assert back.returncode == 0, back.stderr
    assert deployable.deployed() == first != second
    assert deployable.choices == choices
    assert len(function.requests) == 2, "what was put back is tried, too"
    builds = sum(call.startswith("nuctl build") for call in deployable.calls())
    assert builds == 2, "nothing is built to go back"

    again = deployable.deploy("--rollback")
    assert again.returncode == 0, again.stderr
    assert deployable.deployed() == second
    one, two, three, four = run_images(deployable)
    assert one == three != two == four


@pytest.mark.parametrize("failure", [{"NUCTL_DEPLOY_CODE": "1"}, {"HEALTH": "unhealthy", "READY_SECONDS": "1"}])
def test_going_back_from_a_deployment_that_failed(deployable, function, failure):
    assert deployable.deploy("cpu", MASKBANK_SIZE="320").returncode == 0
    first, choices = deployable.deployed(), deployable.choices
    (deployable.folder / "main.py").write_text("broken")
    failed = deployable.deploy(MASKBANK_SIZE="480", **failure)
    assert failed.returncode == 1
    assert "./deploy.sh --rollback puts back what worked before." in failed.stderr
    assert deployable.choices == choices, "what did not work is not kept"

    back = deployable.deploy("--rollback")
    assert back.returncode == 0, back.stderr
    assert deployable.deployed() == first and deployable.choices == choices
    one, _, three = run_images(deployable)
    assert one == three
    nothing = deployable.deploy("--rollback")
    assert nothing.returncode == 1 and "there is no earlier deployment to go back to." in nothing.stderr


@pytest.mark.parametrize("failure", [{"NUCTL_DEPLOY_CODE": "1"}, {"HEALTH": "unhealthy"}])
def test_going_back_from_a_rollback_that_failed(deployable, function, failure):
    advice = "./deploy.sh --rollback puts back what worked before."
    assert deployable.deploy("cpu", MASKBANK_SIZE="320", READY_SECONDS="1").returncode == 0
    (deployable.folder / "main.py").write_text("the next version")
    assert deployable.deploy(MASKBANK_SIZE="480").returncode == 0
    second, choices = deployable.deployed(), deployable.choices

    failed = deployable.deploy("--rollback", **failure)
    assert failed.returncode == 1 and advice in failed.stderr
    again = deployable.deploy("--rollback", **failure)
    assert again.returncode == 1 and advice not in again.stderr, "that would be the same once more"
    back = deployable.deploy("--rollback")
    assert back.returncode == 0, back.stderr
    assert deployable.deployed() == second and deployable.choices == choices

    # What did not start then may start now.
    assert deployable.deploy("--rollback").returncode == 0
    old, new, *later = run_images(deployable)
    assert later == [old, new, new, old]


def test_a_dry_run_of_going_back_changes_nothing(deployable, function):
    for size in ("320", "480"):
        assert deployable.deploy("cpu", MASKBANK_SIZE=size).returncode == 0
    assert deployable.deploy("--rollback", "--dry-run").returncode == 0
    assert deployable.deploy("--rollback").returncode == 0
    assert deployable.choices["MASKBANK_SIZE"] == "320"


def test_going_back_does_not_ask_whether_the_settings_are_of_this_version(deployable, function):
    assert deployable.deploy("cpu", MASKBANK_SIZE="320").returncode == 0
    assert deployable.deploy(MASKBANK_SIZE="").returncode == 0
    path = deployable.folder / "function.yaml"
    path.write_text(path.read_text().replace("MASKBANK_SIZE", "MASKBANK_SHORT_SIDE"))
    assert deployable.deploy(MASKBANK_SIZE="320").returncode == 2
    back = deployable.deploy("--rollback")
    assert back.returncode == 0, back.stderr
    assert deployable.settings()["MASKBANK_SIZE"] == deployable.choices["MASKBANK_SIZE"] == "320"


def test_going_back_to_an_image_that_is_gone(deployable, function):
    assert deployable.deploy().returncode == 0
    assert deployable.deploy().returncode == 0
    calls = len(deployable.calls())
    done = deployable.deploy("--rollback", IMAGE_CODE="1")
    assert done.returncode == 1
    assert "is no longer on this machine" in done.stderr
    assert not any(call.startswith("nuctl deploy") for call in deployable.calls()[calls:])


# ---- images: pinned, taken elsewhere, built without a registry ----

DIGEST = "sha256:" + "ab" * 32


def test_what_is_downloaded_first_must_come_again(deployable, function):
    assert deployable.deploy(DIGEST=DIGEST).returncode == 0
    pinned = f"python:3.11.14-slim-bookworm@{DIGEST}"
    wheel = "0123abcd  torch-2.13.0+cpu.whl"
    assert deployable.choices.items() >= {"PYTHON_IMAGE": pinned, "TORCH_WHEEL": wheel}.items()
    first = len(deployable.calls())
    assert deployable.deploy(DIGEST="sha256:" + "cd" * 32).returncode == 0
    (build,) = [call for call in deployable.calls()[first:] if call.startswith("docker build")]
    assert f"PYTHON_IMAGE={pinned} " in build and f"--build-arg TORCH_WHEEL={wheel} ." in build
    assert not any(call.startswith("docker pull") for call in deployable.calls()[first:])


def test_another_base_is_another_image_so_that_one_can_go_back(deployable, function):
    assert deployable.deploy("cpu", DIGEST=DIGEST).returncode == 0
    assert deployable.deploy().returncode == 0
    choices, dockerfile = deployable.folder / "deploy.env", deployable.folder / "base.Dockerfile"
    downloads = {"PYTHON_IMAGE": {"DIGEST": "sha256:" + "cd" * 32}, "TORCH_WHEEL": {"TORCH_SHA": "4567"}}
    for name, download in downloads.items():
        choices.write_text(re.sub(f"{name}=.*\n", "", choices.read_text()))
        assert deployable.deploy(**download).returncode == 0
    dockerfile.write_text(dockerfile.read_text() + "RUN true\n")
    assert deployable.deploy(TORCH_SHA="4567").returncode == 0
    assert deployable.deploy("--rollback").returncode == 0
    first, same, *others, back = run_images(deployable)
    assert first == same, "what has not changed is no other image"
    assert len({first, *others}) == 4 and back == others[-2]


def test_another_python_image_is_another_digest(deployable, function):
    (deployable.folder / "deploy.env").write_text(f"PYTHON_IMAGE=python:3.11.13-slim@{DIGEST}\n")
    assert deployable.deploy(DIGEST=DIGEST).returncode == 0
    assert deployable.choices["PYTHON_IMAGE"] == f"python:3.11.14-slim-bookworm@{DIGEST}"


def test_build_here_and_deploy_there(deployable, function):
    built = deployable.deploy("cpu", "--build-only", NETWORK_CODE="1")
    assert built.returncode == 0, "no CVAT is needed to build"
    image = re.search(r"docker save (\S+) \|", built.stderr)[1]
    assert not any(call.startswith(("nuctl deploy", "nuctl create")) for call in deployable.calls())
    first = len(deployable.calls())
    there = deployable.deploy("cpu", "--image", image)
    assert there.returncode == 0, there.stderr
    later = deployable.calls()[first:]
    assert not any(call.startswith(("docker build", "docker pull", "nuctl build")) for call in later)
    assert run_images(deployable) == [image]


def test_an_image_with_weights_of_ones_own_is_deployed_with_them(deployable, function):
    (deployable.folder / "mine.safetensors").write_text("mine")
    built = deployable.deploy("cpu", "--build-only", "--weights", "mine.safetensors", NETWORK_CODE="1")
    arguments = re.search(r"\./deploy\.sh (cpu --image .*)", built.stderr)[1].split()
    assert deployable.deploy(*arguments).returncode == 0
    assert deployable.settings()["MASKBANK_WEIGHTS"] == "/opt/nuclio/weights/mine.safetensors"


def test_an_image_in_a_registry_needs_no_other_on_kubernetes(deployable, function):
    done = deployable.deploy("cpu", "--platform", "kube", "--image", "registry.example/cvat.maskbank:1-cpu-0123abcdef")
    assert done.returncode == 0, done.stderr
    assert run_images(deployable) == ["registry.example/cvat.maskbank:1-cpu-0123abcdef"]


def test_another_nuclio_is_another_image(deployable, function):
    """Its own part is in the image; a rebuilt one with the same tag would leave nothing to go back to."""
    assert deployable.deploy("cpu").returncode == deployable.deploy(NUCTL_VERSION="1.15.9").returncode == 0
    assert len(set(run_images(deployable))) == 2


def test_an_image_that_is_not_here_is_not_deployed(deployable):
    done = deployable.deploy("cpu", "--image", "nosuch:1", IMAGE_CODE="1")
    assert done.returncode == 1
    assert done.stderr.startswith("deploy.sh: there is no image nosuch:1 on this machine: ")
    assert not any(call.startswith("nuctl") and "version" not in call for call in deployable.calls())


@pytest.mark.parametrize(("variant", "other"), [("cpu", "gpu"), ("gpu", "cpu")])
@pytest.mark.parametrize("where", [[], ["--dry-run"], ["--platform", "kube", "--registry", "registry.example"]])
def test_an_image_of_the_other_variant_is_not_deployed(deployable, variant, other, where):
    image = f"registry.example:5000/team/cvat.maskbank:0.9.1-{other}-0123abcdef"
    done = deployable.deploy(variant, *where, "--image", image)
    assert done.returncode == 1
    assert done.stderr == (
        f"deploy.sh: the image {image} is of the other variant: ./deploy.sh {other} --image {image} deploys it.\n"
    )
    assert not any(call.startswith("nuctl deploy") for call in deployable.calls())


def test_no_pull_asks_no_registry(deployable, function):
    assert deployable.deploy("--no-pull", DIGEST=DIGEST).returncode == 0
    assert not any(call.startswith("docker pull") for call in deployable.calls())
    (build,) = [call for call in deployable.calls() if call.startswith("docker build")]
    assert "PYTHON_IMAGE=python:3.11.14-slim-bookworm " in build
    (build,) = [call for call in deployable.calls() if call.startswith("nuctl build")]
    assert build.endswith(" --no-pull")


# ---- workers, resources, Kubernetes ----


def test_resources_follow_from_the_number_of_workers(deployable, function):
    assert deployable.deploy("cpu", "--workers", "4", MASKBANK_CACHE_MB="1024").returncode == 0
    assert deployable.deployed()["spec"]["resources"] == {
        "requests": {"cpu": 4, "memory": "4096Mi"},
        "limits": {"memory": f"{4 * (2048 + 1024)}Mi"},
    }
    function.device = "cuda"
    assert deployable.deploy("gpu", "--workers", "2", "--cpus", "1", MASKBANK_CACHE_MB="").returncode == 0
    assert deployable.deployed()["spec"]["resources"] == {
        "requests": {"cpu": 1, "memory": "4096Mi"},
        "limits": {"cpu": 1, "memory": f"{2 * (4096 + 2048)}Mi", "nvidia.com/gpu": 1},
    }


@pytest.mark.parametrize(
    ("variant", "cores", "workers"), [("cpu", 1, 2), ("cpu", 7, 3), ("cpu", 64, 8), ("gpu", 64, 2)]
)
def test_the_number_of_workers_where_nobody_chose(repository, variant, cores, workers):
    (repository.tools / "nproc").unlink()
    (repository.tools / "nproc").write_text(f"#!{shutil.which('bash')}\necho {cores}\n")
    (repository.tools / "nproc").chmod(0o755)
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    workers = max(2, min(workers, gibibytes // 2))
    assert f"  WORKERS={workers}\n" in repository.deploy(variant, "--dry-run").stdout


@pytest.mark.parametrize("way", ["an argument", "auto", "an edited deploy.env"])
def test_the_number_of_workers_is_that_of_the_variant(deployable, function, way):
    """deploy.env does not tell a number that was chosen from one that suited the machine."""
    assert deployable.deploy("cpu", "--workers", "9").returncode == 0
    if way == "auto":
        deployable.add_tools("nvidia-smi")
    if way == "an edited deploy.env":
        path = deployable.folder / "deploy.env"
        path.write_text(path.read_text().replace("VARIANT=cpu\n", "VARIANT=gpu\n"))
    function.device = "cuda"
    arguments = {"an argument": ["gpu"], "auto": ["auto"]}.get(way, [])
    done = deployable.deploy(*arguments, RUNTIMES="nvidia")
    assert done.returncode == 0, done.stderr
    assert "the 9 workers were for the other variant and are not kept" in done.stderr
    (trigger,) = deployable.deployed()["spec"]["triggers"].values()
    assert trigger["numWorkers"] == 2 == int(deployable.choices["WORKERS"])


def test_a_number_of_workers_that_is_given_holds(deployable, function):
    assert deployable.deploy("cpu", "--workers", "9").returncode == 0
    function.device = "cuda"
    assert deployable.deploy("gpu", "--workers", "9").returncode == 0
    again = deployable.deploy("gpu")
    assert deployable.choices["WORKERS"] == "9" and "not kept" not in again.stderr
    function.device = "cpu"
    assert deployable.deploy("cpu").returncode == 0
    assert 2 <= int(deployable.choices["WORKERS"]) <= 8, "nobody chose nine for a CPU since"


def test_a_chosen_device_replaces_that_of_the_gpu_variant(deployable, function):
    function.device = "cuda:1"
    assert deployable.deploy("gpu").returncode == 0
    assert deployable.settings()["MASKBANK_DEVICE"] == "cuda"
    assert deployable.deploy("gpu", MASKBANK_DEVICE="cuda:1").returncode == 0
    assert deployable.settings()["MASKBANK_DEVICE"] == "cuda:1"


def test_a_closed_port(deployable, function):
    done = deployable.deploy("--port", "closed")
    assert done.returncode == 0 and "its port:" not in done.stdout and "warning" not in done.stderr
    (trigger,) = deployable.deployed()["spec"]["triggers"].values()
    assert trigger["attributes"]["disablePortPublishing"] is True
    done = deployable.deploy(PUBLISHED="1")
    assert "this version of Nuclio publishes the port all the same" in done.stderr
    done = deployable.deploy("--port", "open")
    assert "its port:   open to whoever reaches this machine" in done.stdout
    (trigger,) = deployable.deployed()["spec"]["triggers"].values()
    assert "disablePortPublishing" not in trigger["attributes"]


def test_the_port_stays_over_restarts_and_deployments(deployable, function):
    """What Docker chooses is another port after each start of the container, and CVAT calls the first."""
    with socket.create_server(("127.0.0.1", 30300)) if is_free(30300) else nullcontext():
        assert deployable.deploy("cpu", "--outline", "yes").returncode == 0
    tracker, outline = (port_of(each) for each in (deployable.deployed(), deployable.outline()))
    assert 30300 < tracker < outline < 32768
    assert deployable.choices["TRACKER_PORT"] == str(tracker) and deployable.choices["OUTLINE_PORT"] == str(outline)
    assert deployable.deploy("--workers", "2").returncode == 0
    assert (port_of(deployable.deployed()), port_of(deployable.outline())) == (tracker, outline)

    with socket.create_server(("127.0.0.1", tracker)):
        done = deployable.deploy()
    assert done.returncode == 1
    assert f"another program has taken port {tracker} of this machine; TRACKER_PORT=PORT in deploy.env" in done.stderr


def test_a_function_that_is_published_already_keeps_its_port(deployable, function):
    """Rules of a firewall may name it; and that it is in use is no hindrance."""
    with socket.create_server(("127.0.0.1", 49155)) if is_free(49155) else nullcontext():
        done = deployable.deploy("cpu", PUBLISHED="1")
        assert done.returncode == 0, done.stderr
        assert port_of(deployable.deployed()) == 49155 and "(49155)" in done.stdout
        assert deployable.deploy(PUBLISHED="1").returncode == 0


def is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


def test_a_spec_of_the_admins_own(deployable, function, tmp_path):
    (tmp_path / "mine.yaml").write_text("---\nsecurityContext:\n  runAsUser: 7\n\nvolumes:\n- volume: {name: a}")
    done = deployable.deploy("--spec", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    spec = deployable.deployed()["spec"]
    assert spec["securityContext"] == {"runAsUser": 7} and spec["volumes"] == [{"volume": {"name": "a"}}]
    (tmp_path / "mine.yaml").write_text("# volumes: []\n")
    done = deployable.deploy("--spec", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "volumes" not in deployable.deployed()["spec"]
    (tmp_path / "mine.yaml").write_text("env: []\n")
    done = deployable.deploy()
    assert done.returncode == 2
    assert "mine.yaml must not hold 'env', which deploy.sh writes itself." in done.stderr


# ---- the interactor ----


def outline_calls(repository: Repository) -> list[str]:
    """How nuctl was called for the interactor."""
    return [call for call in repository.calls() if re.match(r"nuctl \w+ (function )?maskbank-outline ", call)]


def port_of(configuration: dict) -> int | None:
    """Of this machine, at which a function with this configuration is published."""
    (trigger,) = configuration["spec"]["triggers"].values()
    return trigger["attributes"].get("port")


def as_interactor(function: dict, **published: int) -> dict:
    """What the interactor's configuration has to be, where the function's is this one."""
    own = read("interactor.yaml")
    spec = function["spec"] | own["spec"]
    (workers,) = (trigger["maxWorkers"] for trigger in spec["triggers"].values())
    spec["triggers"] = {
        name: trigger | {"numWorkers": 1, "maxWorkers": 1, "attributes": trigger["attributes"] | published}
        for name, trigger in spec["triggers"].items()
    }
    spec["resources"] = {
        kind: {name: one_workers(amount, workers) for name, amount in amounts.items()}
        for kind, amounts in spec["resources"].items()
    }
    return {"metadata": own["metadata"], "spec": spec}


def one_workers(amount: int | str, workers: int) -> int | str:
    """Of what so many workers have."""
    return f"{int(amount.removesuffix('Mi')) // workers}Mi" if isinstance(amount, str) else amount // workers


def test_the_interactor_is_deployed_after_the_trial_with_the_same_image(deployable, function):
    done = deployable.deploy("cpu", "--outline", "yes", "--workers", "3", "--redis", "redis.lan:6379", **SECRETS)
    assert done.returncode == 0, done.stderr
    calls = deployable.calls()
    (image,) = set(run_images(deployable))
    call = (
        f"nuctl deploy maskbank-outline --project-name cvat --run-image {image} --file .deployed/next/outline.yaml"
        " --platform local --namespace nuclio"
    )
    assert outline_calls(deployable) == [call]
    tracker, trial, interactor = (
        next(i for i, c in enumerate(calls) if c.startswith(start))
        for start in ("nuctl deploy maskbank ", "docker exec", "nuctl deploy maskbank-outline ")
    )
    assert tracker < trial < interactor and len(function.requests) == 2
    assert calls[interactor + 1].endswith(" nuclio-nuclio-maskbank-outline")  # until it is healthy
    assert calls[interactor + 2].startswith("docker exec -i nuclio-nuclio-maskbank-outline python - ")
    (trial,) = function.boxes
    assert trial["obj_bbox"] == [[16, 12], [47, 35]] and "The object in a box was found, on 'cpu'." in done.stdout
    remove = "./deploy.sh --outline no"
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  outline: ")]
    assert "in CVAT, AI tools > Interactors > AI outline" in line and line.endswith(remove)

    port = port_of(deployable.outline())
    assert port > port_of(deployable.deployed())
    assert deployable.outline() == as_interactor(deployable.deployed(), port=port)
    assert deployable.outline()["metadata"]["name"] == "maskbank-outline"
    (trigger,) = deployable.deployed()["spec"]["triggers"].values()
    assert trigger["numWorkers"] == trigger["maxWorkers"] == 3
    path = deployable.folder / ".deployed/current/outline.yaml"
    assert yaml.safe_load(path.read_text()) == deployable.outline()
    assert path.stat().st_mode & 0o777 == 0o600 and "secret three" in path.read_text()
    assert "secret" not in done.stdout + done.stderr + "".join(calls)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_interactor_has_all_that_was_chosen_for_the_function(deployable, function, variant):
    function.device = "cuda" if variant == "gpu" else "cpu"
    (deployable.folder / "mine.yaml").write_text(
        "description: >-\n  in two\n\n  lines\ntolerations:\n- operator: Exists\n"
    )
    where = ["--platform", "kube", "--registry", "registry.example", "--namespace", "labels"]
    store = ["--redis", "kvrocks:6666", "--redis-secret", "kvrocks:password", "--replicas", "2-3"]
    done = deployable.deploy(variant, "--outline", "yes", *where, *store, "--spec", "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert deployable.deployed()["spec"]["description"] == "in two\nlines"
    interactor, expected = deployable.outline(), as_interactor(deployable.deployed())
    # A pod has a GPU for itself, so the interactor goes without.
    others = [entry for entry in expected["spec"]["env"] if entry["name"] != "MASKBANK_DEVICE"]
    expected["spec"]["env"] = [*others, {"name": "MASKBANK_DEVICE", "value": "cpu"}]
    if variant == "gpu":
        expected["spec"]["resources"] = as_interactor(read("function.yaml"))["spec"]["resources"]
        expected["spec"]["resources"]["limits"]["cpu"] = 2
    for each in interactor, expected:
        each["spec"]["env"].sort(key=lambda entry: entry["name"])
    assert interactor == expected
    assert interactor["spec"]["tolerations"] == [{"operator": "Exists"}]
    (call,) = outline_calls(deployable)
    assert " --run-image registry.example/cvat.maskbank:" in call and call.endswith(
        " --platform kube --namespace labels"
    )
    assert len(function.boxes) == 1


def test_on_one_machine_the_interactor_shares_the_gpu(deployable, function):
    function.device = "cuda"
    done = deployable.deploy("gpu", "--outline", "yes")
    assert done.returncode == 0, done.stderr
    assert "The object in a box was found, on 'cuda'." in done.stdout
    spec = deployable.outline()["spec"]
    assert spec["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "MASKBANK_DEVICE", "value": "cuda"} in spec["env"]
    function.device = "cpu"
    assert deployable.deploy("gpu", "--outline", "yes").returncode == 1


def test_the_interactor_has_the_functions_port(deployable, function):
    assert deployable.deploy("cpu", "--outline", "yes", "--port", "closed").returncode == 0
    (trigger,) = deployable.outline()["spec"]["triggers"].values()
    assert trigger["attributes"]["disablePortPublishing"] is True
    assert deployable.outline() == as_interactor(deployable.deployed())


def test_no_interactor_unless_it_is_wanted(deployable, function):
    done = deployable.deploy("cpu", OUTLINE="yes")
    assert done.returncode == 0, done.stderr
    assert outline_calls(deployable) == [] and "AI outline" not in done.stdout
    assert deployable.choices["OUTLINE"] == "no"
    assert not list((deployable.folder / ".deployed").rglob("outline.yaml"))


def test_the_interactor_is_wanted_until_it_is_not(deployable, function):
    assert deployable.deploy("cpu", "--outline", "yes").returncode == 0
    assert deployable.choices["OUTLINE"] == "yes"
    (deployable.folder / "main.py").write_text("the next version")
    done = deployable.deploy()
    assert done.returncode == 0 and "AI tools > Interactors > AI outline" in done.stdout
    first, first_outline, second, second_outline = run_images(deployable)
    assert first == first_outline != second == second_outline
    assert deployable.deploy("--outline", "no").returncode == 0
    assert deployable.choices["OUTLINE"] == "no"
    assert deployable.deploy().returncode == 0
    remove = "nuctl delete function maskbank-outline --platform local --namespace nuclio"
    *deployed, removed = outline_calls(deployable)
    assert len(deployed) == 2 and removed == remove


def test_an_interactor_that_cannot_be_removed_is_said(deployable, function):
    assert deployable.deploy("cpu", "--outline", "yes").returncode == 0
    done = deployable.deploy("--outline", "no", NUCTL_DELETE_CODE="1")
    assert done.returncode == 0, done.stderr
    assert "warning: nuctl could not remove the interactor maskbank-outline, as it says above." in done.stderr


def test_going_back_deploys_the_interactor_of_the_deployment_before(deployable, function):
    assert deployable.deploy("cpu", "--outline", "yes", MASKBANK_SIZE="320").returncode == 0
    first = deployable.outline()
    (deployable.folder / "main.py").write_text("the next version")
    assert deployable.deploy("--outline", "no", MASKBANK_SIZE="480").returncode == 0
    back = deployable.deploy("--rollback")
    assert back.returncode == 0, back.stderr
    assert deployable.choices["OUTLINE"] == "yes"
    one, outline, two, *last = run_images(deployable)
    assert one == outline != two and last == [one, one]
    assert deployable.outline() == first == as_interactor(deployable.deployed(), port=port_of(first))
    assert deployable.deploy("--rollback").returncode == 0
    assert deployable.choices["OUTLINE"] == "no"
    assert [call.split()[1] for call in outline_calls(deployable)] == ["deploy", "delete", "deploy", "delete"]


def test_an_interactor_that_cannot_be_deployed_is_said(deployable, function):
    done = deployable.deploy("cpu", "--outline", "yes", NUCTL_OUTLINE_CODE="3")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "deploy.sh: The tracker works. The interactor could not be deployed. The last lines of its log are above;"
        " see more with: docker logs --tail 30 nuclio-nuclio-maskbank-outline"
    )
    assert "deployed. In CVAT" not in done.stdout
    assert not (deployable.folder / "deploy.env").exists()
    assert deployable.deploy("cpu").returncode == 0
    assert [call.split()[1] for call in outline_calls(deployable)] == ["deploy", "delete"]


def test_an_interactor_that_fails_its_trial_is_said(deployable, function):
    function.box_reply = (200, b"{}")
    done = deployable.deploy("cpu", "--outline", "yes")
    assert done.returncode == 1
    assert "The function should have answered a mask and its bounds, but answered: {}" in done.stderr
    assert "The tracker works. The interactor runs, but its trial failed." in done.stderr


@pytest.mark.parametrize("failure", [{"NUCTL_DEPLOY_CODE": "1"}, {"HEALTH": "unhealthy", "READY_SECONDS": "1"}])
def test_no_interactor_where_the_tracker_does_not_work(deployable, function, failure):
    assert deployable.deploy("cpu", "--outline", "yes", **failure).returncode == 1
    assert outline_calls(deployable) == []


def test_a_dry_run_shows_the_interactor_last(repository):
    done = repository.deploy("cpu", "--dry-run", "--outline", "yes")
    assert done.returncode == 0, done.stderr
    printed = commands(done)
    image = re.search(r"--run-image (\S+)", the("nuctl deploy maskbank ", printed))[1]
    *_, deployed, _, trial = printed
    assert deployed == (
        f"nuctl deploy maskbank-outline --project-name cvat --run-image {image} --file .deployed/next/outline.yaml"
        " --platform local --namespace nuclio"
    )
    assert trial.startswith("docker exec -i nuclio-nuclio-maskbank-outline python - ")
    assert "  OUTLINE=yes\n" in done.stdout
    assert not (repository.folder / ".deployed").exists()


# ---- the documents ----


def test_the_administrators_table_has_every_choice():
    names = re.search(r"^CHOICES=\(([^)]+)\)", (ROOT / "deploy.sh").read_text(), re.MULTILINE)[1].split()
    section = (ROOT / "docs/admins.md").read_text().split("## What deploy.sh keeps")[1].split("\n#")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)} == set(names)


def test_help_names_every_argument(repository):
    text = repository.deploy("--help").stdout
    accepted = set(
        re.findall(r"--[a-z][a-z-]+(?= |\))", (ROOT / "deploy.sh").read_text().split("# ---- the choices")[0])
    )
    assert {argument for argument in accepted if f"  {argument}" not in text and f"{argument}," not in text} == {
        "--help"
    }


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", ["docs/admins.md", "SECURITY.md", "README.md", "docs/kubernetes/README.md"])
def test_links_lead_somewhere(document):
    path = ROOT / document
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith("http"):
            continue
        file, _, fragment = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if fragment:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), link


# ---- docs/kubernetes ----

KUBERNETES = ROOT / "docs/kubernetes"
# The fields of a function's spec that Nuclio 1.13 knows, as far as somebody may want them here
# (docs/reference/function-configuration/function-configuration-reference.md in its repository).
NUCLIO_FIELDS = {"description", "disable", "env", "resources", "replicas", "minReplicas", "maxReplicas", "targetCPU"}
NUCLIO_FIELDS |= {"runtime", "handler", "eventTimeout", "readinessTimeoutSeconds", "triggers", "volumes", "platform"}
NUCLIO_FIELDS |= {"imagePullSecrets", "serviceType", "securityContext", "serviceAccount", "affinity", "nodeSelector"}
NUCLIO_FIELDS |= {"nodeName", "tolerations", "priorityClassName", "waitReadinessTimeoutBeforeFailure", "build"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_kubernetes_example_deploys(deployable, function, variant):
    """The command of docs/kubernetes/README.md, word by word, with the file that it names."""
    function.device = "cuda" if variant == "gpu" else "cpu"
    shutil.copy(KUBERNETES / "spec.yaml", deployable.folder / "my-spec.yaml")
    text = (KUBERNETES / "README.md").read_text()
    command = re.search(r"^\./deploy\.sh cpu (--platform kube(?:.*\\\n)*.*)$", text, re.MULTILINE)[1]
    done = deployable.deploy(variant, *command.replace("\\\n", " ").split())
    assert done.returncode == 0, done.stderr

    spec = deployable.deployed()["spec"]
    assert set(spec) <= NUCLIO_FIELDS
    own = yaml.safe_load((KUBERNETES / "spec.yaml").read_text())
    assert own.items() <= spec.items() and own
    assert isinstance(spec["imagePullSecrets"], str), "Nuclio takes one name"
    assert all(set(toleration) <= {"key", "operator", "value", "effect"} for toleration in spec["tolerations"])
    assert (spec["minReplicas"], spec["maxReplicas"], spec["readinessTimeoutSeconds"]) == (2, 6, 900)
    assert {limit: spec["resources"]["limits"][limit] for limit in ("cpu", "memory")} == (
        {"cpu": 4, "memory": "12288Mi"} if variant == "gpu" else {"cpu": 4, "memory": "8192Mi"}
    )
    assert spec["resources"]["requests"]["cpu"] == 2, "what targetCPU is a percentage of"
    assert "network" not in spec["platform"]["attributes"]
    settings = deployable.settings()
    assert settings["CVAT_FUNCTIONS_REDIS_HOST"] == "cvat-kvrocks"
    values = yaml.safe_load((KUBERNETES / "cvat-values.yaml").read_text())
    secret = {"name": values["cvat"]["kvrocks"]["secret"]["name"], "key": "password"}
    assert settings["CVAT_FUNCTIONS_REDIS_PASSWORD"] == {"secretKeyRef": secret}
    assert any("--run-image registry.example/team/cvat.maskbank:" in call for call in deployable.calls())


def test_the_network_policy_is_about_the_functions_pods():
    policy = yaml.safe_load((KUBERNETES / "network-policy.yaml").read_text())
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    # Nuclio's label of a function's pods, and its dashboard's.
    assert policy["spec"]["podSelector"] == {
        "matchLabels": {"nuclio.io/function-name": read("function.yaml")["metadata"]["name"]}
    }
    (rule,) = policy["spec"]["ingress"]
    assert {"podSelector": {"matchLabels": {"nuclio.io/app": "dashboard"}}} in rule["from"]
    assert rule["ports"] == [{"port": 8080, "protocol": "TCP"}]
    assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_the_network_policy_can_be_had_for_the_interactor():
    """As docs/kubernetes/README.md makes it with sed: nothing but the name and the label change."""
    [expression] = re.findall(
        r"sed '([^']+)' docs/kubernetes/network-policy.yaml", (KUBERNETES / "README.md").read_text()
    )
    policy = (KUBERNETES / "network-policy.yaml").read_text()
    made = subprocess.run(["sed", expression], input=policy, capture_output=True, text=True, check=True).stdout
    changed, expected = yaml.safe_load(made), yaml.safe_load(policy)
    name = read("interactor.yaml")["metadata"]["name"]
    expected["metadata"]["name"] = name
    expected["spec"]["podSelector"]["matchLabels"]["nuclio.io/function-name"] = name
    assert changed == expected


def test_staging_for_cvats_own_scripts(repository, tmp_path):
    folder = tmp_path / "cvat/serverless/pytorch/maskbank/nuclio"
    done = repository.deploy("--stage", str(folder.relative_to(tmp_path)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"main.py", "function.yaml", "function-gpu.yaml", "maskbank", "weights"} <= set(os.listdir(folder))
    assert not (folder / "Dockerfile").exists()

    again = repository.deploy("--stage", str(folder))
    assert again.returncode == 1
    assert "is not an empty folder" in again.stderr


@pytest.mark.parametrize("config", ["function.yaml", "function-gpu.yaml"])
def test_staging_with_settings(tmp_path, config):
    """They go into the configurations, as nobody passes them on later; other weights stay out."""
    folder = tmp_path / "staged"
    command = [
        str(ROOT / "deploy.sh"),
        "--stage",
        str(folder),
        "--weights",
        str(ROOT / "weights/lite-open.safetensors"),
    ]
    awkward = "it's: a 'value' # \\n"
    environment = {"PATH": os.environ["PATH"], "MASKBANK_STORE": awkward}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    staged, own = (yaml.safe_load((place / config).read_text()) for place in (folder, ROOT))
    added = [variable for variable in staged["spec"]["env"] if variable not in own["spec"]["env"]]
    assert sorted(added, key=str) == [
        {"name": "MASKBANK_STORE", "value": awkward},
        {"name": "MASKBANK_WEIGHTS", "value": "/opt/nuclio/weights/lite-open.safetensors"},
    ]
    staged["spec"]["env"] = own["spec"]["env"]
    assert staged == own
    assert (folder / config).stat().st_mode & 0o777 == 0o600, "it may hold passwords"
    assert {path.name for path in (folder / "weights").iterdir()} == {
        "lite-open.safetensors",
        "interactor-open.safetensors",
        "MODEL_CARD.md",
        "LICENSE",
    }


# ---- the repository's own files ----


@pytest.fixture(scope="module")
def staged_function(tmp_path_factory):
    """The function's folder as Nuclio gets it, from the repository itself."""
    folder = tmp_path_factory.mktemp("function") / "nuclio"
    done = subprocess.run([str(ROOT / "deploy.sh"), "--stage", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_staged_folder_is_small_and_clean(staged_function):
    files = [path.relative_to(staged_function) for path in staged_function.rglob("*") if path.is_file()]
    assert sum((staged_function / path).stat().st_size for path in files) < 60e6
    unwanted = {"tests", ".venv", "demo_out", ".git", "__pycache__"}
    unwanted |= {"cli", "evaluation", "jobs", "proposals", "review", "serving", "training"}
    assert not [path for path in files if unwanted.intersection(path.parts)]


IMPORT_ALL = """
import importlib, pathlib
for path in pathlib.Path("maskbank").rglob("*.py"):
    importlib.import_module(".".join(path.with_suffix("").parts))
print(importlib.import_module("maskbank").__file__)
"""


def test_the_staged_modules_need_nothing_that_is_left_out(staged_function, tmp_path):
    folder = tmp_path / "nuclio"
    shutil.copytree(staged_function, folder)
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == folder / "maskbank/__init__.py"


# What Nuclio does with the folder, as far as the trial needs it: one worker behind HTTP.
SERVE_FOLDER = """
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
import main, maskbank, nuclio_sdk

context = nuclio_sdk.Context(nuclio_sdk.Logger("WARNING"))
main.init_context(context)

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(body) if body else body
        event = nuclio_sdk.Event(body=body, content_type="application/json", path=self.path, method=self.command)
        response = main.handler(context, event)
        self.send_response(response.status_code)
        self.end_headers()
        self.wfile.write(response.body.encode())

    do_GET = do_POST

server = HTTPServer(("127.0.0.1", 0), Handler)
print(maskbank.__file__, server.server_port, flush=True)
server.serve_forever()
"""


def test_the_staged_folder_passes_the_trial_and_its_store_is_managed_from_there(staged_function, deployable, tmp_path):
    """The real function, with the bundled weights and nothing but the folder, answers the script's trial.

    Its banks are in a Redis, and `docker exec nuclio-nuclio-maskbank python -m maskbank.store stat` counts them.
    """
    folder = tmp_path / "opt nuclio"
    shutil.copytree(staged_function, folder)
    redis = RedisServer(tmp_path)
    # What CVAT's scripts and deploy.sh give to the container, and its exec to each command.
    container = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "MASKBANK_ADAPT_SECONDS": "0"}
    container |= {"CVAT_FUNCTIONS_REDIS_HOST": "127.0.0.1", "CVAT_FUNCTIONS_REDIS_PORT": str(redis.port)}

    def store(*arguments: str, **more: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "maskbank.store", *arguments]
        done = subprocess.run(command, cwd=folder, env=container | more, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    # With -c, the current folder is the first place where Python looks for modules.
    serve = [sys.executable, "-c", SERVE_FOLDER]
    with subprocess.Popen(serve, cwd=folder, env=container, stdout=subprocess.PIPE, text=True) as function:
        try:
            package, port = function.stdout.readline().rsplit(" ", 1)
            assert Path(package) == folder / "maskbank/__init__.py"
            done = deployable.deploy("--outline", "yes", FUNCTION_URL=f"http://127.0.0.1:{int(port)}")
            assert done.returncode == 0, done.stderr
            assert "A mask was outlined and tracked, on 'cpu'." in done.stdout
            assert "The object in a box was found, on 'cpu'." in done.stdout
            assert re.match(r"1 banks, [1-9]\d+ bytes", store("stat")[1])
            assert re.match(r"[\w-]{22} +[1-9]\d+ bytes", store("ls")[1])
            assert store("purge", "--older-than", "0")[1].startswith("1 banks removed, ")
            assert store("stat") == (0, "0 banks, 0 bytes\n")
            code, sentence = store("stat", MASKBANK_STORE="nowhere")
            assert (code, sentence.count("\n")) == (1, 1)
            assert sentence.startswith("maskbank.store: MASKBANK_STORE is 'nowhere', but must be memory://")
        finally:
            function.kill()
            redis.stop()


def read(config: str) -> dict:
    return yaml.safe_load((ROOT / config).read_text())


@pytest.mark.parametrize("config", VARIANTS.values())
def test_what_cvat_and_nuclio_read(config):
    function = read(config)
    metadata, spec = function["metadata"], function["spec"]
    annotations = metadata["annotations"]
    assert metadata["name"] == "maskbank"
    assert all(isinstance(value, str) for value in annotations.values()), "Nuclio's annotations are strings"
    assert annotations["type"] == "tracker"
    assert json.loads(annotations["spec"] or "[]") == []
    assert int(annotations["version"]) == 1
    shape_types = [word.strip() for word in annotations["supported_shape_types"].split(",")]
    assert shape_types == ["rectangle", "polygon", "mask", "ellipse"]

    assert spec["runtime"] == "python:3.11"
    assert spec["handler"] == "main:handler"
    assert spec["eventTimeout"] == "30s"
    assert spec["readinessTimeoutSeconds"] >= 60
    assert all(isinstance(variable["value"], str) for variable in spec["env"])
    (trigger,) = spec["triggers"].values()
    assert trigger["kind"] == "http"
    assert trigger["numWorkers"] == trigger["maxWorkers"] >= 1
    assert trigger["workerAvailabilityTimeoutMilliseconds"] == 20_000
    frame = 3840 * 2160 * 6 * 4 / 3  # a 16-bit PNG in base64
    masks = 100 * 2160 * 6 * 5
    assert frame + masks < trigger["attributes"]["maxRequestBodySize"] <= 2 * (frame + masks)


def test_cvat_accepts_the_shape_types():
    (allowed,) = ShapeType.allowed_values.values()
    shape_types = read("function.yaml")["metadata"]["annotations"]["supported_shape_types"].split(",")
    assert set(shape_types) <= set(allowed.values())


# The steps of CVAT's serverless/deploy_cpu.sh and deploy_gpu.sh: $1 is the configuration's name, $2 the folder.
CVATS_STEPS = """
set -eu
shopt -s globstar
here=$PWD
for config in "$2"/**/"$1"; do
    folder=$(dirname "$config")
    path=$(realpath --relative-to="$here" "$(dirname "$folder")")
    if [ "$1" = function.yaml ] && [ -f "$folder/Dockerfile" ]; then
        docker build -t "cvat.${path//\\//.}.base" "$folder"
    fi
    nuctl deploy --project-name cvat --path "$folder" --file "$config" --platform local \\
        --env CVAT_FUNCTIONS_REDIS_HOST=cvat_redis_ondisk --env CVAT_FUNCTIONS_REDIS_PORT=6666 \\
        --platform-config '{"attributes": {"network": "cvat_cvat"}}'
done
"""
IMAGE_NAME = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(:[\w][\w.-]*)?"  # as Docker takes it


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


@pytest.mark.parametrize("source", ["the staged folder", "the repository"])
@pytest.mark.parametrize("place", ["maskbank", "pytorch/maskbank/nuclio", "pytorch/team/tools/tracker/nuclio"])
@pytest.mark.parametrize("config", VARIANTS.values())
def test_cvats_own_scripts_deploy_it_from_any_depth(staged_function, repository, source, place, config):
    serverless = repository.folder.parent / "serverless"
    folder = serverless / place
    if source == "the staged folder":
        shutil.copytree(staged_function, folder)
    else:
        for name in tracked_files():
            if (ROOT / name).is_file() and not name.startswith(("tests/", "samples/")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
    repository.add_tools("docker", "nuctl")
    (repository.tools / "realpath").symlink_to(shutil.which("realpath"))
    done = subprocess.run(
        ["bash", "-c", CVATS_STEPS, "steps", config, str(serverless)],
        cwd=serverless,
        env=repository.env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    calls = repository.calls()
    built = [re.search(r"-t (\S+)", call)[1] for call in calls if call.startswith("docker build")]
    assert all(re.fullmatch(IMAGE_NAME, name) for name in built), built
    (deploy,) = [call for call in calls if call.startswith("nuctl deploy")]
    assert f"--path {folder} --file {folder / config} " in deploy

    spec = repository.deployed()["spec"]
    base = spec["build"]["baseImage"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base) or base in built, f"nobody has built {base}"
    # What the directives refer to is in the folder that Nuclio copies to /opt/nuclio.
    directives = [d["value"] for step in spec["build"]["directives"].values() for d in step]
    named = re.findall(r"/opt/nuclio/([\w.]+)", " ".join(directives))
    assert set(named) == {"requirements.lock", "requirements.txt"}
    assert all((folder / name).is_file() for name in named)
    assert "\n" not in "".join(directives), "Nuclio writes a directive into one line of its Dockerfile"
    assert (folder / f"{spec['handler'].split(':')[0]}.py").is_file()


def test_the_repository_holds_one_function():
    """CVAT's scripts deploy every function.yaml below the folder they are given."""
    skipped = {".venv", ".git", "node_modules"}
    for config in VARIANTS.values():
        found = [p for p in ROOT.rglob(config) if not skipped.intersection(p.relative_to(ROOT).parts)]
        assert found == [ROOT / config]


# ---- the image ----


def pins() -> dict[str, str]:
    lines = (line.strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_requirements_pin_everything_they_bring():
    """No version is left to the day on which the image is built, and the tests run on the same versions."""
    pinned = pins()
    for name, version in pinned.items():
        distribution = importlib.metadata.distribution(name)
        assert distribution.version.split("+")[0] == version, name
        for requirement in distribution.requires or []:
            needed = Requirement(requirement)
            # Not for another system or Python, nor torch's CUDA libraries, whose versions torch itself pins.
            if "platform_" in requirement or (needed.marker and not needed.marker.evaluate({"extra": ""})):
                continue
            assert needed.name.lower().replace("_", "-") in pinned, f"{name} needs {needed}"


def test_the_package_has_no_versions_of_its_own():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "dependencies" not in project["project"]
    assert project["tool"]["hatch"]["metadata"]["hooks"]["requirements_txt"] == {"files": ["requirements.txt"]}
    # Nuclio installs the SDK that fits its own version into the function's image.
    assert "nuclio-sdk" not in pins()


def locked() -> dict[str, int]:
    """What requirements.lock pins, with the number of its hashes."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())
    entries = [block.split() for block in blocks if not block.startswith("#")]
    assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", w) for _, *rest in entries for w in rest if w != "\\")
    return {entry[0]: sum(word.startswith("--hash") for word in entry) for entry in entries}


def test_the_lock_is_that_of_requirements_txt():
    """After a change there: .venv/bin/python tools/lock.py"""
    wanted = {f"{name}=={version}" for name, version in pins().items() if name != "torch"}
    hashes = locked()
    assert set(hashes) == wanted
    # A wheel for each of two processors, or one for all.
    assert set(hashes.values()) == {1, 2}
    assert hashes[f"numpy=={pins()['numpy']}"] == 2


def test_the_image_gets_nothing_of_unknown_hash_but_torch():
    dockerfile = (ROOT / "base.Dockerfile").read_text()
    steps = [read(config)["spec"]["build"]["directives"]["postCopy"] for config in VARIANTS.values()]
    installed = [[step["value"] for step in directives] for directives in steps]
    installed.append(re.findall(r"pip (?:install|download).*", dockerfile.replace("\\\n", " ")))
    for first, *rest in installed:
        assert "--require-hashes --only-binary :all: -r " in first and "requirements.lock" in first
        assert all("torch" in step or "./*.whl" in step for step in rest)
        assert all(" --index-url " in step and "--extra-index-url" not in step for step in rest)
        assert all("==2" not in step for step in rest), "versions belong into requirements.txt"


def test_dockerfile_and_functions_agree():
    dockerfile = (ROOT / "base.Dockerfile").read_text()
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", dockerfile, re.MULTILINE)
    deploy = (ROOT / "deploy.sh").read_text()
    for variant, config in VARIANTS.items():
        spec = read(config)["spec"]
        assert spec["build"]["baseImage"] == base
        install = spec["build"]["directives"]["postCopy"][1]["value"]
        (index,) = re.findall(r"--index-url (\S+)", install)
        assert f"torch_index:={index}}}" in deploy
        if variant == "cpu":
            assert f"ARG TORCH_INDEX={index}\n" in dockerfile
            assert index.endswith("/cpu")
        # The function is not root, and both images have the user that it is.
        user = spec["securityContext"]["runAsUser"]
        assert user == spec["securityContext"]["runAsGroup"] == spec["securityContext"]["fsGroup"] == 1000
        add = f"useradd --uid {user} --create-home maskbank"
        assert f"RUN {add}\n" in dockerfile
        assert any(step["value"].endswith(f" || {add}") for step in spec["build"]["directives"]["preCopy"])


def test_the_build_context_is_requirements_only():
    rules = [r for r in (ROOT / ".dockerignore").read_text().splitlines() if r and not r.startswith("#")]
    assert rules == ["*", "!requirements.txt", "!requirements.lock"]
    copied = re.findall(r"^COPY (.+) /", (ROOT / "base.Dockerfile").read_text(), re.MULTILINE)
    assert copied == ["requirements.txt requirements.lock"]


# What python:*-slim has: Debian's libc6, libgcc-s1, libstdc++6 and zlib1g. No X11, no GL.
SLIM_IMAGE = ["linux-vdso", "ld-linux", "libc", "libm", "libdl", "librt", "libpthread", "libutil"]
SLIM_IMAGE += ["libgcc_s", "libstdc++", "libz"]
CUDA = ["libcu", "libnv", "libnccl"]  # in torch's CUDA wheels, or part of the driver


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the image is Linux")
def test_native_libraries_need_nothing_that_the_slim_image_lacks():
    files = [
        str(path)
        for name in pins()
        for file in importlib.metadata.distribution(name).files
        if re.search(r"\.so(\.|$)", file.name) and (path := Path(file.locate())).is_file()
    ]
    lines = subprocess.run(["ldd", *files], capture_output=True, text=True).stdout.splitlines()
    needed = {Path(line.split()[0]).name for line in lines if "(0x" in line or line.endswith("not found")}
    own = {Path(file).name for file in files}
    foreign = {name for name in needed - own if re.split(r"\.|-x86|-aarch", name)[0] not in SLIM_IMAGE}
    assert len(files) > 50
    assert not {name for name in foreign if not name.startswith(tuple(CUDA))}
