"""Serve two digit classifiers behind one endpoint, 90 to 10, and see who answers and who is right."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx

import servekit
from models import ForestDigits, LogisticDigits, load_split

TRAFFIC = {"logistic": 0.9, "forest": 0.1}
LOWEST_ACCURACY = 0.9
SHADES = " .:-=+*#%@"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", choices=["ray", "process"], default="ray", help="where replicas live")
    parser.add_argument("--serve", action="store_true", help="go on serving until Ctrl-C")
    options = parser.parse_args()

    where = "a local Ray" if options.runtime == "ray" else "child processes"
    print(f"Starting servekit on {where} ...", flush=True)
    began = time.monotonic()
    with servekit.init(runtime=options.runtime, http_port=port_or_any(8000)) as instance:
        print(f"Ready after {time.monotonic() - began:.1f} s. Training two models, each in a process of its own ...\n")
        deploy()
        url = f"{instance.url}/digits"
        show_deployment(url)
        _, images, _, labels = load_split()
        answers = send(url, images)
        show_first(images[0], int(labels[0]), answers[0])
        faults = show_tally(answers, labels)
        for fault in faults:
            print(f"Not as expected: {fault}", file=sys.stderr)
        if options.serve:
            print(f"\nServing {url} until Ctrl-C; routes: {instance.url}/-/routes", flush=True)
            wait_for_interrupt()
    return 1 if faults else 0


def port_or_any(port: int) -> int:
    """``port`` when nobody has it, else 0: servekit then takes a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def deploy() -> None:
    servekit.create_endpoint("digits", "/digits", methods=["POST"])
    servekit.create_backend("logistic", LogisticDigits)
    servekit.create_backend("forest", ForestDigits)
    servekit.set_traffic("digits", TRAFFIC)


def show_deployment(url: str) -> None:
    backends = servekit.status()["backends"]
    print(f"POST {url}")
    for name, weight in TRAFFIC.items():
        pids = ", ".join(str(replica["pid"]) for replica in backends[name]["replicas"])
        print(f"  {weight:4.0%}  {name:<9} pid {pids}")


def send(url: str, images: Any) -> list[dict[str, Any]]:
    """The answers to ``images``, posted one after another."""
    with httpx.Client(trust_env=False) as client:  # No proxy leads here.
        return [client.post(url, json={"image": image.tolist()}).raise_for_status().json() for image in images]


def show_first(image: Any, label: int, answer: dict[str, Any]) -> None:
    print("\nThe first of the test images, and the answer to it:\n")
    notes = {
        2: f"true label  {label}",
        3: f"prediction  {answer['label']}",
        4: f"probability {answer['probability']}",
        5: f"model       {answer['model']}",
    }
    for number, row in enumerate(image.reshape(8, 8)):
        drawn = "".join(2 * SHADES[int(pixel / 16 * (len(SHADES) - 1))] for pixel in row)
        print(f"    {drawn}   {notes.get(number, '')}".rstrip())


def show_tally(answers: Sequence[dict[str, Any]], labels: Sequence[int]) -> list[str]:
    """Print who answered how many and how well; what is not plausible in that comes back, in words."""
    requests = Counter(answer["model"] for answer in answers)
    right = Counter(answer["model"] for answer, label in zip(answers, labels, strict=True) if answer["label"] == label)
    print(f"\nAll {len(answers)} of them, sent over HTTP:\n\n    model      requests   share   accuracy")
    faults = []
    for name, weight in TRAFFIC.items():
        count = requests[name]
        accuracy = right[name] / count if count else 0.0
        print(f"    {name:<9} {count:9}  {count / len(answers):6.1%}   {accuracy:8.1%}")
        if abs(count - weight * len(answers)) > 1:
            faults.append(f"{name} got {count} of {len(answers)} requests, not {weight:.0%}")
        if accuracy < LOWEST_ACCURACY:
            faults.append(f"{name} is right in {accuracy:.1%} of cases, less than {LOWEST_ACCURACY:.0%}")
    return faults


def wait_for_interrupt() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    sys.exit(main())
