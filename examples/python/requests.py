"""A question has one answer, a stream of answers, or an error that says why there is none.

Run it with `python requests.py`.
"""

from __future__ import annotations

import threading

import busway


def answer(responder: busway.Responder) -> None:
    for request in responder:
        with request:
            number = request.json()
            if number < 0:
                request.fail("a number below zero")
                continue
            for part in range(number):
                request.reply_part(b"%d" % part)
            request.reply(b"done")


def main() -> None:
    with busway.Bus("example-requests") as bus, bus.responder("count") as responder:
        thread = threading.Thread(target=answer, args=(responder,))
        thread.start()
        with bus.requester("count") as requester:
            print("one answer", bytes(requester.request(b"0", timeout=5)))
            with requester.send(b"3", timeout=5) as pending:
                print("a stream", [bytes(reply) for reply in pending])
            try:
                requester.request(b"-1", timeout=5)
            except busway.ResponderFailed as error:
                print("an error", error.why)
        with bus.requester("nobody", late_join=0.0) as lonely:
            try:
                lonely.request(b"?", timeout=5)
            except busway.NoResponders as error:
                print("nobody", error.code)
        responder.close()
        thread.join()


if __name__ == "__main__":
    main()
