"""docker-compose.yaml without a container engine: valid, its settings real, its secrets kept, its commands existing."""

from __future__ import annotations

import base64
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
import yaml

from places import until
from revector.airflow.provider_info import get_provider_info
from revector.local.airflow import COMPONENTS
from revector.local.cluster import LIGHT_TASKS, AirflowCluster, _worker
from revector.monitoring import FILES
from revector.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
SECRETS = set(re.findall(r"(?m)^(\w+)=$", EXAMPLE))
REFERENCE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?P<rule>:[-?][^}]*)?\}")

OUR_OWN = {"REVECTOR_CONFIG", "REVECTOR_SERVE_TOKEN"}
"""Read by revector beside its settings."""

CELERY = {
    "AIRFLOW__CELERY__BROKER_URL",
    "AIRFLOW__CELERY__RESULT_BACKEND",
    "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER",
}
"""Settings of Airflow's Celery provider, which only the image has."""

OTHERS = {
    "GF_ANALYTICS_CHECK_FOR_UPDATES",
    "GF_ANALYTICS_REPORTING_ENABLED",
    "GF_AUTH_ANONYMOUS_ENABLED",
    "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
    "GF_SECURITY_ADMIN_PASSWORD__FILE",
    "GF_USERS_ALLOW_SIGN_UP",
    "HF_HOME",
    "PYTHONUNBUFFERED",
    "AIRFLOW_HOME",
    "GPU_SLOTS",
    "POSTGRES_PASSWORD_FILE",
}

FOREIGN = {"postgres", "redis", "prometheus", "grafana"}
"""Services of other people's images."""

ASKED_OF_COMPOSE = {"COMPOSE_PROFILES"}
"""Variables that compose itself reads."""

PLACES = {
    "AIRFLOW__API__BASE_URL",
    "AIRFLOW__API__HOST",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AIRFLOW__CELERY__BROKER_URL",
    "AIRFLOW__CELERY__RESULT_BACKEND",
    "AIRFLOW__CORE__DAGS_FOLDER",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__CORE__PARALLELISM",
    "AIRFLOW__CORE__PLUGINS_FOLDER",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER",
}
"""Where things are, how much fits, and secrets: the only Airflow settings that may differ from the embedded cluster."""


def interpolated(node: Any, values: Mapping[str, str]) -> Any:
    """What compose makes of ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}``."""

    def value(found: re.Match[str]) -> str:
        rule = found["rule"] or ""
        if given := values.get(found["name"]):
            return given
        assert not rule.startswith(":?"), f"{found['name']} is wanted: {rule[2:]}"
        return rule[2:]

    if isinstance(node, str):
        return REFERENCE.sub(value, node).replace("$$", "$")
    if isinstance(node, dict):
        return {key: interpolated(inner, values) for key, inner in node.items()}
    return [interpolated(inner, values) for inner in node] if isinstance(node, list) else node


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The .env that the documented command makes, run as it stands."""
    folder = tmp_path_factory.mktemp("compose")
    (folder / ".env.example").write_text(EXAMPLE, encoding="utf-8")
    found = re.search(r"(?m)^#\s+(python3 -c '.*')$", EXAMPLE)
    assert found
    command = found[1].replace("python3", sys.executable, 1)
    subprocess.run(["bash", "-c", command], cwd=folder, check=True)
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    again = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    assert "FileExistsError" in again.stderr
    lines = (folder / ".env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def compose(env: Mapping[str, str]) -> dict[str, Any]:
    """The file as compose sees it: anchors merged, variables in place."""
    return cast("dict[str, Any]", interpolated(yaml.safe_load(TEXT), env))


@pytest.fixture(scope="module")
def services(compose: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return cast("dict[str, dict[str, Any]]", compose["services"])


def variables(services: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for service, body in services.items():
        for name, value in body.get("environment", {}).items():
            yield service, name, value


# The file -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
def test_the_file_is_valid_by_the_compose_specification(env: Mapping[str, str], gpu: bool) -> None:
    spec = pytest.importorskip("compose_spec", reason="the package compose-spec (extra `dev`) is not installed")
    text = TEXT.replace("# GPU: ", "") if gpu else TEXT
    assert text.count("deploy: *gpu") - text.count("# GPU: deploy: *gpu") == (3 if gpu else 1)
    assert text.count("build: *cuda-build") - text.count("# GPU: build: *cuda-build") == (3 if gpu else 1)
    # Written out again, as its parser knows no YAML merge keys, nor a tag beside a digest; compose itself does.
    plain = re.sub(
        r":[\w.-]+@sha256:", "@sha256:", yaml.safe_dump(interpolated(yaml.safe_load(text), env), width=1_000)
    )
    spec.PyCompose.from_yaml(plain).validate()
    with pytest.raises(ValueError, match="restrat"):
        spec.PyCompose.from_yaml(plain.replace("restart:", "restrat:"))


def test_what_a_service_names_exists_and_nothing_waits_for_itself(compose: dict[str, Any]) -> None:
    services = compose["services"]
    used: dict[str, set[str]] = {"volumes": set(), "configs": set(), "secrets": set()}
    for body in services.values():
        for volume in body.get("volumes", []):
            source, target, *mode = volume.split(":")
            assert target.startswith("/")
            assert mode in ([], ["ro"])
            if not source.startswith("."):
                used["volumes"].add(source)
        for kind in ("configs", "secrets"):
            used[kind] |= {one["source"] for one in body.get(kind, [])}
            # Compose 2.34 and later leave an inline one without a mode to root, whom none of these programs runs as.
            assert all(one["mode"] == 0o444 for one in body.get(kind, []))
        for other, how in body.get("depends_on", {}).items():
            assert "profiles" not in services[other]
            if how["condition"] == "service_healthy":
                assert services[other]["healthcheck"]["test"]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert services[other]["restart"] == "no"
    assert used == {kind: set(compose[kind]) for kind in used}
    waiting = {name: set(body.get("depends_on", {})) for name, body in services.items()}
    while free := {name for name, others in waiting.items() if not others & waiting.keys()}:
        waiting = {name: others for name, others in waiting.items() if name not in free}
    assert not waiting


def test_all_the_promised_services_are_there(services: dict[str, Any]) -> None:
    airflow = {f"airflow-{name}" for name in COMPONENTS}
    celery = {f"airflow-worker-{kind}" for kind in ("default", "cpu", "gpu")}
    assert set(services) == {"init", "worker", "serve"} | FOREIGN | airflow | celery
    assert {name for name, body in services.items() if "healthcheck" not in body} == {"init"}  # which ends


def test_light_tasks_and_shards_have_workers_of_their_own_and_one_with_a_device(services: dict[str, Any]) -> None:
    for kind, name, queue, slots in (
        ("default", "default", "default", LIGHT_TASKS),
        ("cpu", "shards", "gpu", 1),
        ("gpu", "shards", "gpu", 1),
    ):
        body = services[f"airflow-worker-{kind}"]
        # As in the embedded cluster, where "airflow" is `python -m airflow`.
        assert body["command"] == ["airflow", *_worker(name, queue, slots)[3:]]
        assert f'"{name}@" + os.uname().nodename' in body["healthcheck"]["test"][-1]
    devices = services["airflow-worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}]
    profiles = {name: body["profiles"] for name, body in services.items() if "profiles" in body}
    assert profiles == {"airflow-worker-cpu": ["cpu"], "airflow-worker-gpu": ["gpu"]}
    assert re.search(r"(?m)^COMPOSE_PROFILES=cpu$", EXAMPLE)


def test_images_are_pinned_and_run_without_privileges(services: dict[str, Any]) -> None:
    for name, body in services.items():
        digest = r"@sha256:[0-9a-f]{64}" if name in FOREIGN else ""
        assert re.fullmatch(rf"[\w/-]+:v?\d+\.\d+\.\d+[\w-]*{digest}", body["image"]), name
        assert not {"privileged", "network_mode", "pid", "cap_add"} & body.keys()
        if name != "postgres":  # whose entry point hands its folder over to the user postgres
            assert body["cap_drop"] == ["ALL"]
            assert body["security_opt"] == ["no-new-privileges:true"]
    build = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"(?m)^ARG PYTHON=3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", build)
    assert build.rindex("\nUSER revector\n") > build.rindex("\nFROM ")
    for line in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", build):
        allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        for source in line.split():
            assert (ROOT / source).exists()
            assert "!" + source.removeprefix("./") in allowed
    args = set(re.findall(r"(?m)^ARG (\w+)", build))
    assert set(services["serve"]["build"]["args"]) <= args


def test_torch_is_the_cpu_build_everywhere_but_on_the_gpu_worker(services: dict[str, Any]) -> None:
    cpu = "https://download.pytorch.org/whl/cpu"
    ours = {name: body for name, body in services.items() if name not in FOREIGN}
    assert {name: body["build"]["args"]["PIP_EXTRA_INDEX_URL"] for name, body in ours.items()} == {
        name: "" if name == "airflow-worker-gpu" else cpu for name in ours
    }
    assert len({body["image"] for body in ours.values()}) == 2, "one tag is never two builds"
    assert f"\nARG PIP_EXTRA_INDEX_URL={cpu}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


# Settings -------------------------------------------------------------------------------------------------------------


def test_every_variable_is_a_setting_that_is_read(services: dict[str, Any]) -> None:
    core = find_spec("airflow")
    assert core
    assert core.submodule_search_locations
    template = Path(core.submodule_search_locations[0], "config_templates", "config.yml")
    sections = yaml.safe_load(template.read_text(encoding="utf-8")) | get_provider_info()["config"]
    airflow = {
        f"AIRFLOW__{section}__{option}".upper() for section, body in sections.items() for option in body["options"]
    }
    ours = {f"REVECTOR_{name}".upper() for name in Settings.model_fields} | OUR_OWN
    for service, name, _ in variables(services):
        outer, _, inner = name.partition("__")
        if inner and outer in ours:  # a nested setting: REVECTOR_ENCODER__DEVICE
            field = Settings.model_fields[outer.removeprefix("REVECTOR_").lower()].annotation
            assert inner.lower() in cast("Any", field).model_fields, (service, name)
        else:
            assert name in airflow | ours | CELERY | OTHERS, (service, name)


def test_airflow_runs_with_the_settings_of_the_embedded_cluster(tmp_path: Path, services: dict[str, Any]) -> None:
    server = "postgresql+psycopg://revector@127.0.0.1/revector"
    home = AirflowCluster(tmp_path, tmp_path / "revector.toml", tmp_path / "dags", server=server)
    home._url = "http://127.0.0.1:8080"
    embedded = {name: value for name, value in home.environment().items() if name.startswith("AIRFLOW__")}
    for name, body in services.items():
        here = {key: value for key, value in body.get("environment", {}).items() if key.startswith("AIRFLOW__")}
        if name in {"worker", "serve"} | FOREIGN:
            assert not here
            continue
        assert set(here) == set(embedded), name
        shared = set(embedded) - PLACES
        assert {key: here[key] for key in shared} == {key: embedded[key] for key in shared}, name


def test_all_of_revector_use_one_database_and_one_state_folder(
    services: dict[str, Any], env: Mapping[str, str]
) -> None:
    for name, body in services.items():
        if name in FOREIGN:
            continue
        url = sa.make_url(body["environment"]["REVECTOR_DATABASE_URL"])
        assert (url.drivername, url.host, url.database) == ("postgresql+psycopg", "postgres", "revector")
        assert (url.username, url.password) == ("revector", env["REVECTOR_DB_PASSWORD"])
        assert f"state:{body['environment']['REVECTOR_STATE_FOLDER']}" in body["volumes"]
        if "AIRFLOW_HOME" in body["environment"]:
            metadata = sa.make_url(body["environment"]["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
            assert metadata == url.set(database="airflow", username="airflow", password=env["AIRFLOW_DB_PASSWORD"])
            later = sa.make_url(body["environment"]["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"])
            assert later == metadata.set(drivername="postgresql+psycopg_async")
            assert f"airflow:{body['environment']['AIRFLOW_HOME']}" in body["volumes"]
            for number, setting in enumerate(("BROKER_URL", "RESULT_BACKEND")):
                store = sa.make_url(body["environment"][f"AIRFLOW__CELERY__{setting}"])
                assert (store.drivername, store.host, store.port, store.database) == (
                    "redis",
                    "redis",
                    6379,
                    f"{number}",
                )
                assert store.password == env["REDIS_PASSWORD"]


# Secrets and doors ----------------------------------------------------------------------------------------------------


def test_ports_are_published_on_this_machine_only(services: dict[str, Any]) -> None:
    published = {name: body["ports"] for name, body in services.items() if "ports" in body}
    assert published == {
        "airflow-api-server": ["127.0.0.1:8080:8080"],
        "grafana": ["127.0.0.1:3000:3000"],
        "serve": ["127.0.0.1:8700:8700"],
    }


def test_no_secret_is_written_down_and_none_has_a_default(services: dict[str, Any], env: Mapping[str, str]) -> None:
    used = {found["name"]: found["rule"] for found in REFERENCE.finditer(TEXT)}
    as_files = {one["environment"] for one in yaml.safe_load(TEXT)["secrets"].values()}  # compose refuses an unset one
    assert used.keys() | as_files >= SECRETS
    first: dict[str, str] = {}
    for found in REFERENCE.finditer(TEXT):
        first.setdefault(found["name"], found["rule"] or "")
    assert {name for name in SECRETS & used.keys() if not first[name].startswith(":?")} == set()
    # Where an image reads a file, an inspected container shows no secret; ours and Celery's read the environment.
    values = {env[name] for name in SECRETS}
    assert not {
        (service, name) for service, name, value in variables(services) if service in FOREIGN and value in values
    }
    for _, name, value in variables(services):
        if re.search(r"PASSWORD$|SECRET|TOKEN|FERNET|_KEY$|_AUTH$", name):
            assert value in values, name
    optional = set(re.findall(r"(?m)^#? ?(\w+)=", EXAMPLE)) - SECRETS - ASKED_OF_COMPOSE
    assert optional == used.keys() - SECRETS
    known = {name: value for name, value in re.findall(r"(?m)^(\w+)=(.+)$", EXAMPLE) if name not in ASKED_OF_COMPOSE}
    assert {name: f":-{value}" for name, value in known.items()} == {name: first[name] for name in known}


def test_generated_secrets_are_strong_and_different_each_time(env: Mapping[str, str]) -> None:
    values = [env[name] for name in SECRETS]
    assert len(set(values)) == len(values) == 9
    assert len(base64.urlsafe_b64decode(env["AIRFLOW_FERNET_KEY"])) == 32
    assert all(len(env[name]) == 96 for name in SECRETS - {"AIRFLOW_FERNET_KEY"})


# Monitoring ----------------------------------------------------------------------------------------------------------


def test_prometheus_scrapes_what_serves_metrics_and_grafana_shows_the_packaged_dashboard(
    compose: dict[str, Any],
) -> None:
    services, configs = compose["services"], compose["configs"]
    targets = {one["target"]: configs[one["source"]] for one in services["prometheus"]["configs"]}
    prometheus = yaml.safe_load(targets["/etc/prometheus/prometheus.yml"]["content"])
    jobs = {job["job_name"]: job for job in prometheus["scrape_configs"]}
    worker = services["worker"]["command"]
    port = worker[worker.index("--metrics-port") + 1]
    assert jobs["revector-worker"]["dns_sd_configs"] == [{"names": ["worker"], "type": "A", "port": int(port)}]
    assert port in services["worker"]["healthcheck"]["test"][-1]
    serve = services["serve"]["command"]
    assert jobs["revector-serve"]["static_configs"] == [{"targets": [f"serve:{serve[serve.index('--port') + 1]}"]}]
    secret = Path(jobs["revector-serve"]["authorization"]["credentials_file"]).name
    assert compose["secrets"][secret] == {"environment": "SERVE_TOKEN"}
    assert secret in {one["source"] for one in services["prometheus"]["secrets"]}
    assert set(prometheus["rule_files"]) == {"/etc/prometheus/alerts.yml"} < set(targets)
    assert (ROOT / targets["/etc/prometheus/alerts.yml"]["file"]).samefile(FILES["alerts"])
    rules = FILES["alerts"].read_text(encoding="utf-8")
    assert set(re.findall(r'job="([\w-]+)"', rules)) <= set(jobs)

    shown = {one["target"]: configs[one["source"]] for one in services["grafana"]["configs"]}
    (source,) = yaml.safe_load(shown["/etc/grafana/provisioning/datasources/prometheus.yml"]["content"])["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    (provider,) = yaml.safe_load(shown["/etc/grafana/provisioning/dashboards/revector.yml"]["content"])["providers"]
    (dashboard,) = (path for path in shown if path.startswith(provider["options"]["path"] + "/"))
    assert (ROOT / shown[dashboard]["file"]).samefile(FILES["dashboard"])
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard


# Commands -------------------------------------------------------------------------------------------------------------


def test_airflow_components_start_as_in_the_embedded_run(services: dict[str, Any]) -> None:
    for name, words in COMPONENTS.items():
        assert services[f"airflow-{name}"]["command"] == ["airflow", *words]


def helped(*words: str) -> str:
    """The help of a command; fails if there is no such command."""
    program = Path(sys.executable).parent / words[0]
    env = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run([program, *words[1:], "--help"], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_of_revector_exist_and_know_their_options(services: dict[str, Any]) -> None:
    pytest.importorskip("revector.cli")
    for name in ("worker", "serve"):
        program, command, *options = services[name]["command"]
        said = helped(program, command)
        assert all(option in said for option in options if option.startswith("--"))


def test_init_runs_commands_that_exist(services: dict[str, Any]) -> None:
    from airflow.cli.cli_parser import get_parser

    shell, option, script = services["init"]["command"]
    assert (shell, option) == ("sh", "-ec")
    revector, *airflow = script.split(" && ")
    assert revector == "revector init"
    given = [shlex.split(one.replace("$GPU_SLOTS", "2"))[1:] for one in airflow]
    migrate, pool = map(get_parser().parse_args, given)
    assert (migrate.subcommand, pool.subcommand) == ("migrate", "set")
    assert (pool.pool, pool.slots) == ("gpu", 2)


def test_health_checks_are_python_that_compiles(services: dict[str, Any]) -> None:
    checks = {name: body["healthcheck"]["test"] for name, body in services.items() if "healthcheck" in body}
    for name, (how, *words) in checks.items():
        assert how == "CMD" or name == "redis"
        if name not in FOREIGN:
            assert words[:2] == ["python", "-c"]
            compile(words[2], name, "exec")
    assert "/ready" in checks["serve"][-1]


# The programs themselves, with what the containers mount --------------------------------------------------------------


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if found is None:
        pytest.skip(f"there is no {name} on this machine")
    return found


@pytest.fixture
def mounted(compose: dict[str, Any], env: Mapping[str, str], tmp_path: Path) -> Callable[[str], dict[str, Path]]:
    """The configs and secrets of a service as files of a folder in place of the container's root, by their target."""

    def mount(service: str) -> dict[str, Path]:
        body, files = compose["services"][service], {}
        for one in body.get("secrets", []):
            files[f"/run/secrets/{one['source']}"] = env[compose["secrets"][one["source"]]["environment"]]
        for one in body["configs"]:
            given = compose["configs"][one["source"]]
            files[one["target"]] = given.get("content") or (ROOT / given["file"]).read_text(encoding="utf-8")
        for target, content in files.items():
            path = Path(f"{tmp_path}{target}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                content.replace("/run/secrets/", f"{tmp_path}/run/secrets/").replace("/etc/", f"{tmp_path}/etc/")
            )
        return {target: Path(f"{tmp_path}{target}") for target in files}

    return mount


def test_the_first_start_of_postgresql_makes_owners_who_are_not_superusers_and_keeps_them_apart(
    mounted: Callable[[str], dict[str, Path]], env: Mapping[str, str], databases: Any
) -> None:
    script = mounted("postgres")["/docker-entrypoint-initdb.d/databases.sql"]
    server = sa.make_url(databases.url("postgres"))
    at = ["-h", str(server.query.get("host") or server.host), "-U", str(server.username)]
    at += ["-p", str(server.query.get("port") or server.port or 5432)]
    # As the image's entry point calls it; other tests share the server, so the names get an ending of their own.
    text = re.sub(
        r"(?<!\\set )\b(revector|airflow)\b(?=[ ;,]|$)", r"\1_composed", script.read_text(), flags=re.MULTILINE
    )
    script.write_text(text)
    psql = [program("psql"), "-v", "ON_ERROR_STOP=1", "--no-psqlrc", *at, "-d", "postgres"]
    try:
        subprocess.run([*psql, "-f", str(script)], check=True, capture_output=True, text=True)
        engine = sa.create_engine(databases.url("revector_composed"))
        with engine.connect() as connection:
            roles = connection.execute(
                sa.text(
                    "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, "
                    "has_database_privilege(rolname, 'revector_composed', 'CONNECT'), "
                    "has_database_privilege(rolname, 'airflow_composed', 'CONNECT') "
                    "FROM pg_roles WHERE rolname LIKE '%\\_composed' ORDER BY rolname"
                )
            ).all()
            assert [tuple(role) for role in roles] == [
                ("airflow_composed", False, False, False, False, True),
                ("revector_composed", False, False, False, True, False),
            ]
            # What `revector init` needs, as the role that runs it.
            connection.execute(sa.text("SET ROLE revector_composed"))
            connection.execute(sa.text("CREATE SCHEMA revector"))
            connection.execute(sa.text("CREATE TABLE revector.vectors (v public.vector(3))"))
            connection.execute(sa.text("CREATE INDEX ON revector.vectors USING hnsw (v public.vector_cosine_ops)"))
            connection.rollback()
        engine.dispose()
    finally:
        for what in ("DATABASE", "ROLE"):
            for name in ("revector_composed", "airflow_composed"):
                subprocess.run([*psql, "-c", f"DROP {what} IF EXISTS {name}"], check=True, capture_output=True)
    assert env["REVECTOR_DB_PASSWORD"] not in text, "it is read from a file, and not in the script"


def test_redis_starts_with_its_file_and_lets_nobody_in_without_the_password(
    mounted: Callable[[str], dict[str, Path]], env: Mapping[str, str], tmp_path: Path
) -> None:
    server = program("redis-server")
    redis = pytest.importorskip("redis", reason="the extra `celery` is not installed")
    file = mounted("redis")["/etc/redis.conf"]
    socket = tmp_path / "redis.sock"
    file.write_text(file.read_text().replace("dir /data", f"dir {tmp_path}"))
    process = subprocess.Popen([server, str(file), "--port", "0", "--unixsocket", str(socket)])
    try:
        client = redis.Redis(unix_socket_path=str(socket), password=env["REDIS_PASSWORD"])
        until(lambda: socket.exists() and answers(client), "redis answers", 60)
        client.set("kept", 1)
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(unix_socket_path=str(socket)).get("kept")
    finally:
        process.terminate()
        process.wait(30)


def answers(client: Any) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_prometheus_takes_its_configuration_and_the_alert_rules(mounted: Callable[[str], dict[str, Path]]) -> None:
    promtool = program("promtool")
    file = mounted("prometheus")["/etc/prometheus/prometheus.yml"]
    done = subprocess.run([promtool, "check", "config", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"SUCCESS: [1-9]\d* rules found", done.stdout), done.stdout
