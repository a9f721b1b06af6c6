"""A desk where a person approves what agents want to do: `python desk.py [URL]`, beside `runstore serve`."""

import sys

from runstore import Client


def work(url: str) -> None:
    """Show each open question of the waiting runs, and pass the person's answer on."""
    with Client(url) as client:
        for run in client.list(status="waiting"):
            for asked in client.inputs(run.run_id):
                if asked.status == "open":
                    print(asked.prompt, asked.input)
                    approved = input("y/n? ").strip().lower() == "y"
                    client.answer(run.run_id, asked.request_id, {"approve": approved})
            print(client.get(run.run_id, wait=60).result)


if __name__ == "__main__":
    work(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8082")
