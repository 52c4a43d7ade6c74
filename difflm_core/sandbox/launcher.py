"""What the process of a program does: confine itself, run the program, report its end.

Started as `python -I -S -B launcher.py REPORT TOKEN`: the numbers of two open pipes. The request
(JSON) comes on standard input. The token is read only after the program has come to its end, and
sent back with the report: a program that ends the process early is not taken for one that has
passed.
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
import confinement

MAX_MESSAGE = 300


def main() -> None:
    """Run one program."""
    report, token = (int(argument) for argument in sys.argv[1:3])
    request = json.loads(sys.stdin.buffer.read())
    _replace_input(request["stdin"])
    for path in request["packages"]:
        sys.path.append(path)
    sys.path.pop(0)
    sys.argv = ["program"]
    try:
        code = compile(request["source"], "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        _report(report, token, "failed", error)
        return
    _preload()
    try:
        confinement.limit_resources(request["limits"])
        confinement.give_up_privileges()
        confinement.restrict_files(request["readable"], os.getcwd())  # noqa: PTH109
        confinement.restrict_calls()
    except Exception as error:  # noqa: BLE001 - whatever it is, the program must not run
        _report(report, token, "unconfined", error)
        return
    del request
    try:
        exec(code, {"__name__": "__main__", "__builtins__": __builtins__})  # noqa: S102 - what it is for
    except MemoryError as error:
        _report(report, token, "memory", error)
    except BaseException as error:  # noqa: BLE001 - also SystemExit and KeyboardInterrupt
        _report(report, token, "failed", error)
    else:
        _report(report, token, "passed", None)


def _replace_input(text: str) -> None:
    """Give the program a text as its standard input."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        os.write(writer, text.encode()[:65_536])
    except BlockingIOError:
        pass
    os.close(writer)
    os.dup2(reader, 0)
    os.close(reader)


def _preload() -> None:
    """Load what the interpreter looks up late, while it can still be found."""
    for name in ("encodings.idna", "linecache", "traceback"):
        __import__(name)


def _report(report: int, token: int, outcome: str, error: BaseException | None) -> None:
    kind = "" if error is None else type(error).__name__
    try:
        message = "" if error is None else str(error)[:MAX_MESSAGE]
    except BaseException:  # noqa: BLE001 - the program's own exception may do anything
        message = ""
    try:
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - it may have been replaced
        message = message or "its output could not be written"
    secret = os.read(token, 64).decode("ascii", "replace")
    content = {"outcome": outcome, "kind": kind[:100], "message": message, "token": secret}
    os.write(report, json.dumps(content).encode())
    # No handler of the program runs any more, and no thread of its goes on.
    os._exit(0)


main()
