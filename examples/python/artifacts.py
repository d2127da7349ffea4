"""A large body for all who want it: offered by one program, received and read by another, by the node of their host.

Run it as it stands; the command `busway`, or what is named after it, is the node.
"""

import shutil
import subprocess
import sys
import tempfile

import busway
from busway.artifacts import Advert, Artifact, Interest, Reader

DOMAIN = "example-artifacts"
BODY = b"01234" * 1_000_000


def wanted(advert: Advert) -> Interest:
    return Interest.FETCH if advert.attribute == b"v1" else Interest.DROP


def main() -> None:
    tool = sys.argv[1] if len(sys.argv) > 1 else "busway"
    node = subprocess.Popen([tool, "--domain", DOMAIN, "up", "--json"], stdout=subprocess.PIPE)
    assert node.stdout is not None
    try:
        # It says so when it is ready.
        node.stdout.readline()
        with busway.Bus(DOMAIN) as bus:
            maps = bus.artifacts("maps")
            with maps.subscriber(interest=wanted) as subscriber:
                with maps.offer(BODY, attribute=b"v1"):
                    artifact = subscriber.recv(timeout=20)
                    assert isinstance(artifact, Artifact)
                    print("received", artifact.size, "bytes of", artifact.topic + ",", artifact.advert.attribute.decode())
                    with Reader(artifact, timeout=20) as reader, tempfile.TemporaryFile() as file:
                        shutil.copyfileobj(reader, file)
                        print("read", file.tell(), "bytes as they arrive")
                print(type(subscriber.recv(timeout=20)).__name__.lower())
    finally:
        node.kill()
        node.wait()
        node.stdout.close()


if __name__ == "__main__":
    main()
