"""deploy.sh and the files that Nuclio reads, as far as they can be checked without Docker and nuctl.

The script runs for real against stand-ins of docker, nuctl and kubectl that write down how they were called.
"""

import base64
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from cvat_sdk.models import ShapeType
from packaging.requirements import Requirement
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {"cpu": "function.yaml", "gpu": "function-gpu.yaml"}

# ---- a small copy of the repository, and stand-ins for the tools ----

SHELL_TOOLS = ["bash", "cat", "cp", "dirname", "env", "find", "ls", "mkdir", "mktemp", "rm", "sleep"]

NEEDED_FILES = {
    "main.py",
    "model_handler.py",
    "function.yaml",
    "function-gpu.yaml",
    "requirements.txt",
    "LICENSE",
    "maskbank/__init__.py",
    "maskbank/function/handler.py",
    "maskbank/service/service.py",
    "maskbank/tuning/decoder_tuner.py",
    "maskbank/networks/lite.py",
    "weights/lite.safetensors",
    "weights/MODEL_CARD.md",
}
OTHER_FILES = {
    "README.md",
    "Dockerfile",
    "maskbank/__pycache__/settings.pyc",
    "maskbank/networks/__pycache__/lite.pyc",
    "maskbank/cli.py",
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
    deploy)
        while [ "$1" != --path ]; do shift; done
        (cd "$2" && find . -type f) > "$LOG.staged"
        cp -R "$2" "$LOG.copy"
        exit "${NUCTL_DEPLOY_CODE:-0}" ;;
esac
""",
    "docker": """
case "$1 $2" in
    "info --format") echo "${RUNTIMES:-runc}" ;;
    "info "*) exit "${DOCKER_INFO_CODE:-0}" ;;
    "network inspect") exit "${NETWORK_CODE:-0}" ;;
    "build "*) exit "${DOCKER_BUILD_CODE:-0}" ;;
    "exec "*) exec "$PYTHON" - "$FUNCTION_URL" ;;
    "logs "*) echo "log of the container" ;;
    "inspect "*)
        case "$*" in
            *Config.Image*nuclio) echo "quay.io/nuclio/dashboard:1.13.0-amd64" ;;
            *Health*) echo "${HEALTH:-healthy}" ;;
            *cvat_redis_ondisk) exit "${REDIS_CODE:-0}" ;;
        esac ;;
esac
""",
    "kubectl": """
case "$*" in
    "get nodes"*) echo "$CLUSTER_GPUS" ;;
    *" exec "*) exec "$PYTHON" - "$FUNCTION_URL" ;;
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
        shutil.copy(ROOT / "deploy.sh", self.folder)

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
    reply: tuple[int, bytes] = (200, b"")

    def do_POST(self):
        self.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, body = self.reply
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def function(deployable):
    """The stand-in function, which answers properly, reachable by the stand-ins' `exec`."""
    Function.requests = []
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


# ---- dry runs: no tool is there at all ----


@pytest.mark.parametrize("variant", ["auto", "cpu", "gpu"])
def test_dry_run_local(repository, variant):
    done = repository.deploy(variant, "--dry-run")
    assert done.returncode == 0, done.stderr
    printed = commands(done)
    build = "gpu" if variant == "gpu" else "cpu"
    index = {"cpu": "cpu", "gpu": "cu129"}[build]

    assert printed[0] == "nuctl create project cvat --platform local --namespace nuclio"
    assert printed[1] == (
        f"docker build --tag cvat.maskbank.base:{build}"
        f" --build-arg TORCH_INDEX=https://download.pytorch.org/whl/{index} ."
    )
    deploy = the("nuctl deploy", printed)
    assert f"/{VARIANTS[build]} " in deploy
    assert f"--base-image cvat.maskbank.base:{build}" in deploy
    assert """--platform-config '{"attributes": {"network": "cvat_cvat"}}'""" in deploy
    assert "--env CVAT_FUNCTIONS_REDIS_HOST=cvat_redis_ondisk --env CVAT_FUNCTIONS_REDIS_PORT=6666" in deploy
    assert "--registry" not in deploy
    assert printed[-2].startswith("docker inspect --format ")
    assert printed[-1] == "docker exec -i nuclio-nuclio-maskbank python - http://127.0.0.1:8080"
    assert list((repository.folder.parent / "tmp").iterdir()) == []


@pytest.mark.parametrize("variant", ["auto", "cpu", "gpu"])
def test_dry_run_kube(repository, variant):
    where = ["--platform", "kube", "--registry", "registry.example/team", "--namespace", "labels"]
    done = repository.deploy(variant, "--dry-run", *where)
    assert done.returncode == 0, done.stderr
    printed = commands(done)
    assert printed[0] == "nuctl create project cvat --platform kube --namespace labels"
    deploy = the("nuctl deploy", printed)
    assert "--platform kube --namespace labels" in deploy
    assert "--registry registry.example/team" in deploy
    assert "--platform-config" not in deploy
    assert "REDIS" not in deploy
    workload = "deployment/nuclio-maskbank"
    assert printed[-2] == f"kubectl --namespace labels rollout status {workload} --timeout 180s"
    assert printed[-1].startswith(f"kubectl --namespace labels exec -i {workload} -- python -")


def test_dry_run_passes_on_weights_redis_and_settings(repository, tmp_path):
    (tmp_path / "my own.pth").write_text("weights")
    done = repository.deploy(
        *["--dry-run", "--weights", "my own.pth", "--redis", "redis.lan:6379"],
        cwd=tmp_path,
        MASKBANK_MODEL="afb-urr-paper",
        MASKBANK_SIZE="480",
        CVAT_NETWORK="team_cvat",
    )
    printed = commands(done)
    assert f"cp '{tmp_path}/my own.pth' /tmp/maskbank-function/weights/" in printed
    deploy = the("nuctl deploy", printed)
    assert "--env CVAT_FUNCTIONS_REDIS_HOST=redis.lan --env CVAT_FUNCTIONS_REDIS_PORT=6379" in deploy
    assert "--env MASKBANK_MODEL=afb-urr-paper" in deploy
    assert "--env MASKBANK_SIZE=480" in deploy
    assert "--env 'MASKBANK_WEIGHTS=/opt/nuclio/weights/my own.pth'" in deploy
    assert "team_cvat" in deploy


def test_passwords_are_not_printed(repository):
    done = repository.deploy(
        "--dry-run", CVAT_FUNCTIONS_REDIS_PASSWORD="secret", MASKBANK_STORE="redis://user:secret@host:6379"
    )
    assert done.returncode == 0
    assert "secret" not in done.stdout + done.stderr
    assert "CVAT_FUNCTIONS_REDIS_PASSWORD=<hidden>" in done.stdout
    assert "MASKBANK_STORE=<hidden>" in done.stdout


def test_dry_run_starts_no_tool_and_prints_what_a_shell_can_read(deployable):
    done = deployable.deploy("--dry-run", "gpu", MASKBANK_MODEL="a'b $c")
    assert done.returncode == 0
    assert deployable.calls() == []
    script = "\n".join(f"printf '%s\\n' {line}" for line in commands(done))
    read = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    words = read.stdout.splitlines()
    assert "MASKBANK_MODEL=a'b $c" in words
    assert '{"attributes": {"network": "cvat_cvat"}}' in words


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


def test_nuctl_of_another_version_is_a_warning(deployable, function):
    done = deployable.deploy(NUCTL_VERSION="1.15.9")
    assert done.returncode == 0, done.stderr
    assert "CVAT runs Nuclio 1.13.0 and your nuctl is of another version" in done.stderr


# ---- real runs against the stand-ins ----


def test_a_deployment_from_start_to_end(deployable, function):
    done = deployable.deploy("cpu")
    assert done.returncode == 0, done.stderr
    assert "A mask was outlined and tracked." in done.stdout
    assert "AI tools > Trackers > AI tracker" in done.stdout

    calls = deployable.calls()
    order = ["docker info", "nuctl create project cvat", "docker build", "nuctl deploy", "docker exec"]
    positions = [next(i for i, call in enumerate(calls) if call.startswith(start)) for start in order]
    assert positions == sorted(positions)
    assert "--file" in calls[positions[3]] and "function.yaml" in calls[positions[3]]
    assert list((deployable.folder.parent / "tmp").iterdir()) == [], "the staging folder must be gone"


def test_only_what_the_function_needs_is_packed(deployable, function):
    assert deployable.deploy().returncode == 0
    assert deployable.staged() == NEEDED_FILES


def test_the_callers_checkpoint_is_packed(deployable, function, tmp_path):
    (tmp_path / "mine.pth").write_text("my weights")
    done = deployable.deploy("--weights", "mine.pth", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(f"{deployable.log}.copy/weights/mine.pth").read_text() == "my weights"
    (deploy,) = [call for call in deployable.calls() if call.startswith("nuctl deploy")]
    assert "MASKBANK_WEIGHTS=/opt/nuclio/weights/mine.pth" in deploy


def test_an_existing_project_is_kept(deployable, function):
    assert deployable.deploy(PROJECT_EXISTS="1").returncode == 0
    assert not any(call.startswith("nuctl create") for call in deployable.calls())


def test_cvats_redis_is_used_only_where_it_runs(deployable, function):
    assert deployable.deploy(REDIS_CODE="1").returncode == 0
    assert not any("REDIS" in call for call in deployable.calls())


@pytest.mark.parametrize(
    ("driver", "runtimes", "variant"),
    [(True, "nvidia runc", "gpu"), (True, "runc", "cpu"), (False, "nvidia runc", "cpu")],
)
def test_auto_takes_the_gpu_that_docker_can_use(deployable, function, driver, runtimes, variant):
    if driver:
        deployable.add_tools("nvidia-smi")
    done = deployable.deploy(RUNTIMES=runtimes)
    assert done.returncode == 0, done.stderr
    assert f"deploying the {variant} variant on local." in done.stderr
    assert ("NVIDIA Container Toolkit" in done.stderr) == (driver and variant == "cpu")


@pytest.mark.parametrize(("gpus", "variant"), [("1 4", "gpu"), ("", "cpu"), ("0", "cpu")])
def test_auto_on_kubernetes_asks_the_cluster(deployable, function, gpus, variant):
    done = deployable.deploy("--platform", "kube", "--registry", "registry.example", CLUSTER_GPUS=gpus)
    assert done.returncode == 0, done.stderr
    assert f"deploying the {variant} variant on kube." in done.stderr
    assert "A mask was outlined and tracked." in done.stdout


@pytest.mark.parametrize("step", ["DOCKER_BUILD_CODE", "NUCTL_DEPLOY_CODE"])
def test_a_failed_step_ends_the_script(deployable, function, step):
    done = deployable.deploy(**{step: "3"})
    assert done.returncode == 3
    assert function.requests == []
    assert "deployed. In CVAT" not in done.stdout
    assert list((deployable.folder.parent / "tmp").iterdir()) == []


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
        ((200, b"[]"), "should have answered one shape and one state"),
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
    assert {path.name for path in (folder / "weights").iterdir()} == {"lite-open.safetensors", "MODEL_CARD.md"}


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
    unwanted |= {"cli.py", "evaluation", "jobs", "serving", "training"}
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
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        response = main.handler(context, nuclio_sdk.Event(body=body, content_type="application/json"))
        self.send_response(response.status_code)
        self.end_headers()
        self.wfile.write(response.body.encode())

server = HTTPServer(("127.0.0.1", 0), Handler)
print(maskbank.__file__, server.server_port, flush=True)
server.serve_forever()
"""


def test_the_staged_folder_passes_the_trial(staged_function, deployable, tmp_path):
    """The real function, with the bundled weights and nothing but the folder, answers the script's trial."""
    folder = tmp_path / "opt nuclio"
    shutil.copytree(staged_function, folder)
    # With -c, the current folder is the first place where Python looks for modules.
    serve = [sys.executable, "-c", SERVE_FOLDER]
    with subprocess.Popen(serve, cwd=folder, stdout=subprocess.PIPE, text=True) as function:
        try:
            package, port = function.stdout.readline().rsplit(" ", 1)
            assert Path(package) == folder / "maskbank/__init__.py"
            done = deployable.deploy(FUNCTION_URL=f"http://127.0.0.1:{int(port)}")
        finally:
            function.kill()
    assert done.returncode == 0, done.stderr
    assert "A mask was outlined and tracked." in done.stdout


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
    assert trigger["workerAvailabilityTimeoutMilliseconds"] == 30_000
    frame = 3840 * 2160 * 6 * 4 / 3  # a 16-bit PNG in base64
    masks = 100 * 2160 * 6 * 5
    assert frame + masks < trigger["attributes"]["maxRequestBodySize"] <= 2 * (frame + masks)


def test_cvat_accepts_the_shape_types():
    (allowed,) = ShapeType.allowed_values.values()
    shape_types = read("function.yaml")["metadata"]["annotations"]["supported_shape_types"].split(",")
    assert set(shape_types) <= set(allowed.values())


@pytest.mark.parametrize(("variant", "config"), VARIANTS.items())
def test_cvats_deploy_scripts_find_what_they_need(staged_function, tmp_path, variant, config):
    """What serverless/deploy_cpu.sh and deploy_gpu.sh do with a folder of any name and depth."""
    for place in ("pytorch/maskbank/nuclio", "maskbank", "pytorch/team/tools/tracker/nuclio"):
        serverless = tmp_path / place.replace("/", "-")
        shutil.copytree(staged_function, serverless / place)
        (found,) = serverless.glob(f"**/{config}")
        function_root = found.parent
        built = set()  # images that exist before nuctl deploys
        if variant == "cpu" and (function_root / "Dockerfile").is_file():
            built.add("cvat." + ".".join(function_root.parent.relative_to(serverless).parts) + ".base")
        spec = yaml.safe_load(found.read_text())["spec"]
        base = spec["build"]["baseImage"]
        public = re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base)
        assert public or base in built, f"nobody has built {base}"

        # What the directives refer to is in the folder that Nuclio copies to /opt/nuclio.
        directives = [d["value"] for step in spec["build"]["directives"].values() for d in step]
        for name in re.findall(r"/opt/nuclio/(\S+)", " ".join(directives)):
            assert (function_root / name).is_file(), name
        assert "\n" not in "".join(directives), "Nuclio writes a directive into one line of its Dockerfile"
        assert (function_root / f"{spec['handler'].split(':')[0]}.py").is_file()


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


def test_dockerfile_and_functions_agree():
    dockerfile = (ROOT / "Dockerfile").read_text()
    (base,) = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert "requirements.txt" in dockerfile
    deploy = (ROOT / "deploy.sh").read_text()
    for variant, config in VARIANTS.items():
        build = read(config)["spec"]["build"]
        assert build["baseImage"] == base
        install = build["directives"]["postCopy"][0]["value"]
        (index,) = re.findall(r"--extra-index-url (\S+)", install)
        assert f"TORCH_INDEX:-{index}}}" in deploy
        if variant == "cpu":
            assert f"ARG TORCH_INDEX={index}\n" in dockerfile
            assert index.endswith("/cpu")
        assert "==" not in install, "versions belong into requirements.txt"


def test_the_build_context_is_requirements_only():
    rules = [r for r in (ROOT / ".dockerignore").read_text().splitlines() if r and not r.startswith("#")]
    assert rules == ["*", "!requirements.txt"]
    copied = re.findall(r"^COPY (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert copied == ["requirements.txt"]


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
