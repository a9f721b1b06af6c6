"""A tab of the browser, and what went wrong in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request

from tests.kit.process import DEADLINE_S

# Refused answers are shown to the user, and the browser logs each of them. A cut connection likewise.
EXPECTED = ("Failed to load resource", "Failed to load module script", "net::ERR_")
REPORT_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation",
  (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


class Tab:
    """A page of the console. `url`: of the API."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url.rstrip("/")
        self.errors: list[str] = []
        self.requests: list[Request] = []
        page.add_init_script(REPORT_VIOLATIONS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request))

    def open(self, path: str = "") -> "Tab":
        self.page.goto(f"{self.url}/console/{path}")
        return self

    def find(self, selector: str, **options: Any) -> Locator:
        return self.page.locator(selector, **options)

    def shows(self, text: str, selector: str = "body") -> Locator:
        """Wait until the page shows a text."""
        found = self.page.locator(selector, has_text=text).first
        found.wait_for()
        return found

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        # Not `wait_for_function`: it evaluates text as code, which the policy forbids.
        self.page.wait_for_timeout(0)
        for _ in range(int(DEADLINE_S * 20)):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never true: {expression}")

    @property
    def faults(self) -> list[str]:
        """Errors of scripts, and violations of the policy."""
        violations: list[str] = self.page.evaluate("window.violations ?? []")
        return [*self.errors, *violations]

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(text in message.text for text in EXPECTED):
            self.errors.append(message.text)


@contextmanager
def tab_of(browser: Browser, url: str, **options: Any) -> Iterator[Tab]:
    """A tab with a profile of its own, which must end without a fault."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(DEADLINE_S * 1_000)
    tab = Tab(context.new_page(), url)
    try:
        yield tab
        assert tab.faults == []
    finally:
        tab.page.unroute_all(behavior="ignoreErrors")  # a handler may be at work
        context.close()
