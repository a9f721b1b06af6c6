"""A minimal MCP server on standard input and output: https://modelcontextprotocol.io.

It writes its process id to the given file, and exits when its input ends.

    python mcp_server.py PIDS [--gate FILE] [--stubborn] [--silent METHOD] [--dies METHOD]
"""

import json
import os
import sys
import time

TOOL = {"name": "add", "description": "Add.", "inputSchema": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}}  # fmt: skip


def answer(method: str, params: dict) -> dict | None:
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "adder", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method != "tools/call":
        return None
    arguments = params["arguments"]
    total = int(arguments.get("a", 0)) + int(arguments.get("b", 0))
    return {"content": [{"type": "text", "text": str(total)}]}


def value_of(option: str, options: tuple[str, ...]) -> tuple[str, ...]:
    return (options[options.index(option) + 1],) if option in options else ()


def main(pids: str, *options: str) -> None:
    with open(pids, "a") as file:
        file.write(f"{os.getpid()}\n")
    if "--gate" in options:  # say nothing before this file is there
        while not os.path.exists(options[options.index("--gate") + 1]):
            time.sleep(0.01)
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("method") in value_of("--dies", options):
            os._exit(1)
        if message.get("method") in value_of("--silent", options):
            continue
        if "id" in message and "method" in message:
            result = answer(message["method"], message.get("params", {}))
            unknown = {"error": {"code": -32601, "message": "there is no such method"}}
            said = unknown if result is None else {"result": result}
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **said}), flush=True)
    while "--stubborn" in options:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
