"""nginx that proxies to a second nginx, over kept-alive connections on a Unix socket: two hops, and no handler."""

import grp
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

COMMON = """
user {user};
worker_processes {workers};
daemon off;
pid {folder}/{name}.pid;
error_log stderr warn;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_max_body_size 64m;
    client_body_temp_path {folder}/{name}-body;
    proxy_temp_path {folder}/{name}-proxy;
    fastcgi_temp_path {folder}/{name}-fastcgi;
    uwsgi_temp_path {folder}/{name}-uwsgi;
    scgi_temp_path {folder}/{name}-scgi;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_max_temp_file_size 0;
    upstream back {{ server unix:{folder}/back.sock; keepalive 256; keepalive_requests 1000000000; }}
    {servers}
}}
"""

FRONT = """
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        proxy_request_buffering off;
        location / {{ proxy_pass http://back; }}
    }}
"""

# nginx answers by itself only without having read the body. So /upload reads it whole, then asks /hello for the answer.
BACK = """
    server {{
        listen unix:{folder}/back.sock backlog=1024;
        default_type text/plain;
        location = /hello {{ return 200 "hello"; }}
        location = /download {{ root {folder}; rewrite ^ /$arg_bytes break; }}
        location = /upload {{
            client_body_buffer_size 16m;
            proxy_method GET;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass http://back/hello;
        }}
    }}
"""


def write(folder, name, servers, port, workers):
    """Write one configuration; returns the command that runs it."""
    user = f"{pwd.getpwuid(os.getuid()).pw_name} {grp.getgrgid(os.getgid()).gr_name}"
    path = Path(folder, f"{name}.conf")
    servers = servers.format(folder=folder, port=port)
    path.write_text(COMMON.format(folder=folder, name=name, servers=servers, user=user, workers=workers))
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if nginx is None:
        sys.exit("nginx is not installed: apt-get install nginx-light")
    return [nginx, "-q", "-e", "stderr", "-c", str(path)]


if __name__ == "__main__":
    port, workers = sys.argv[1:]
    folder = tempfile.mkdtemp(prefix="bench-nginx-", dir=os.environ["HOME"])
    for size in (10**6, 10**7):
        Path(folder, str(size)).write_bytes(bytes(size))
    subprocess.Popen(write(folder, "back", BACK, port, workers))
    front = write(folder, "front", FRONT, port, workers)
    os.execv(front[0], front)  # in our place: Python is not to count as nginx's memory
