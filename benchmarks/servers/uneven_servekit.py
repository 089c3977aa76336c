"""servekit with an uneven backend, a routing policy and a number of ingress workers."""

import signal
import sys

import servekit

if __name__ == "__main__":
    policy, ingress_workers, folder, port, replicas = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with servekit.init(runtime="process", http_port=int(port), ingress_workers=int(ingress_workers)):
        servekit.create_backend("backend", "uneven:Uneven", folder, config={"num_replicas": int(replicas)})
        servekit.create_endpoint("endpoint", "/uneven", backend="backend", policy=policy)
        signal.pause()
