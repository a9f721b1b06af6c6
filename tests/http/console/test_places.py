"""The console below a prefix behind nginx, and mounted in a FastAPI application with its own login."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.http.console.tab import tab_of
from tests.kit.process import environment
from tests.kit.server import ServerProcess, until
from tests.kit.tools import lacking

NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/errors; events {{}}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location /deep/prefix/ {{
      proxy_pass http://127.0.0.1:{server}/;
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""
MOUNTED = """
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response

from runstore import MountedApp


async def parrot(input):
    yield f"{input}!"


runs = MountedApp("sqlite:///mounted.db", config="runstore.toml", agents={"parrot": parrot})


@asynccontextmanager
async def lifespan(app):
    async with runs.open():
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/login")
def login(response: Response):
    response.set_cookie("user", "ann", httponly=True, samesite="strict")
    return "welcome"


app.mount("/inner/runs", runs)
"""
LOGIN = """
from runstore import User


def who(request):
    name = request.cookies.get("user")
    return User(name) if name else None
"""


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], folder: Path, url: str) -> Iterator[None]:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, env=environment())

    def answers() -> bool:
        assert process.poll() is None, (folder / "output").read_text()
        try:
            return httpx.get(url, trust_env=False).status_code < 500
        except httpx.TransportError:
            return False

    try:
        until(answers, "it answers")
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_behind_nginx_below_a_prefix(browser: Browser, console: ServerProcess, tmp_path: Path) -> None:
    program = (
        shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin") or lacking("nginx is not installed")
    )
    port = free_port()
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(folder=tmp_path, port=port, server=console.port))
    url = f"http://127.0.0.1:{port}/deep/prefix"
    console.ended(console.begin("quick", "far below"))
    with running([program, "-c", str(config)], tmp_path, f"{url}/healthz"), tab_of(browser, url) as tab:
        tab.page.goto(f"{url}/")
        tab.page.wait_for_url(f"{url}/console/**")
        tab.shows("far below", ".run-row")
        tab.shows("live", ".live")
        tab.find(".run-row a", has_text="far below").first.click()
        tab.shows("Attempt 1", ".step")
        tab.page.reload()
        tab.shows("Attempt 1", ".step")
        tab.find(".menu a", has_text="Sessions").click()
        tab.shows("Sessions", "h1")
        assert all(each.url.startswith(url) for each in tab.requests)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "mounted.py").write_text(MOUNTED)
    (tmp_path / "login.py").write_text(LOGIN)
    (tmp_path / "runstore.toml").write_text('[server]\nauthenticate = "login:who"\n')
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "mounted:app",
        "--port",
        str(port),
        "--app-dir",
        str(tmp_path),
    ]
    with running(command, tmp_path, f"http://127.0.0.1:{port}/openapi.json"):
        yield f"http://127.0.0.1:{port}"


def test_mounted_in_fastapi_with_its_cookie_as_the_login(browser: Browser, mounted: str) -> None:
    with tab_of(browser, f"{mounted}/inner/runs") as tab:
        tab.page.goto(f"{mounted}/login")
        tab.open()
        tab.shows("No runs yet")
        tab.find("a", has_text="Start a run").click()
        tab.find("#agent").select_option("parrot")
        tab.find("#input").fill("polly")
        tab.find("button[type=submit]").click()
        expect(tab.find(".run-head .status")).to_have_text("done")
        expect(tab.find(".facts", has_text="ann")).to_have_count(1)
        tab.find(".tabs button", has_text="Transcript").click()
        tab.shows("polly!", ".entry")
        assert tab.page.evaluate("sessionStorage.length") == 0
