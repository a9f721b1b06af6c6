// The console: finds out who the user is, and shows the page that the URL names.

import { html, render, useEffect, useState } from "./vendor/htm-preact.js";
import { call, hasKey, onLoggedOut, setKey } from "./api.js";
import { known, useKeys } from "./keys.js";
import { Notes } from "./notes.js";
import { Login } from "./pages/login.js";
import { Dialog } from "./parts/dialog.js";
import { Empty, Loading, Problem } from "./parts/problem.js";
import { current, go, href, useRoute } from "./route.js";
import { Session, sessionOf, useSession } from "./session.js";
import { plain } from "./text.js";
import { applyTheme, nextTheme, theme } from "./theme.js";

const always = () => true;
const readers = (session) => session.readsAll;
// The pages of the menu, and who may see them.
const PAGES = [
  ["runs", "Runs", always], ["inbox", "Inbox", always], ["sessions", "Sessions", always], ["users", "Users", readers],
  ["tools", "Tools", readers], ["usage", "Usage", always], ["system", "System", readers],
];
const OTHERS = ["compare", "start"];

/** The component of a page, whose script is loaded when it is first shown. */
function usePage(name) {
  const [found, setFound] = useState({});
  useEffect(() => {
    if (!name) return;
    import(`./pages/${name}.js`).then((module) => setFound({ name, Shown: module.default }), (error) => setFound({ name, error }));
  }, [name]);
  return found.name === name ? found : {};
}

function Page({ path, params }) {
  const session = useSession();
  const run = path.startsWith("runs/") ? decodeURIComponent(path.slice(5)) : null;
  const listed = PAGES.find(([name]) => name === path);
  const name = run ? "run" : listed || OTHERS.includes(path) ? path : null;
  const { Shown, error } = usePage(name);
  if (!name) return html`<${Empty} title="No such page"><p><a href=${href("runs")}>To the runs</a></p><//>`;
  if (listed && !listed[2](session)) {
    return html`<${Problem} error=${{ status: 403, message: "This page is for admins and auditors." }} />`;
  }
  if (error) return html`<${Problem} error=${{ message: "The page could not be loaded." }} onRetry=${() => location.reload()} />`;
  if (!Shown) return html`<${Loading} />`;
  return html`<${Shown} key=${path} runId=${run} params=${params} />`;
}

function Shell({ onLogout }) {
  const session = useSession();
  const { path, params } = useRoute();
  const [help, setHelp] = useState(false);
  const [shownTheme, setShownTheme] = useState(theme());
  const shown = PAGES.filter(([, , allowed]) => allowed(session));
  const goTo = (name) => () => go(href(name));
  useKeys({
    "?": [() => setHelp(true), "show this help"],
    "1": [goTo("runs"), "to the runs"],
    "2": [goTo("sessions"), "to the sessions"],
    "n": [() => session.changes && go(href("start")), "start a run"],
  });
  const section = path.split("/")[0];
  return html`<div class="shell">
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector("main").focus(); }}>
      To the content</a>
    <header class="menu">
      <a class="brand" href=${href("runs")}>runstore</a>
      <nav aria-label="Pages">${shown.map(([name, label]) => html`<a key=${name} href=${href(name)}
          aria-current=${section === name ? "page" : undefined}>${label}</a>`)}</nav>
      <div class="menu-end">
        <button type="button" class="quiet" title="Colours: ${shownTheme}"
          aria-label=${`Colours: ${shownTheme}. Change them`}
          onClick=${() => setShownTheme(applyTheme(nextTheme()))}>${{ auto: "◐", light: "○", dark: "●" }[shownTheme]}</button>
        <button type="button" class="quiet" aria-label="Keyboard shortcuts" title="Keyboard shortcuts"
          onClick=${() => setHelp(true)}>?</button>
        <span class="who" title=${plain(session.user_id)}>${plain(session.user_id)}
          ${session.login !== "none" && session.roles.length > 0 && html` <span class="dim">${session.roles.join(", ")}</span>`}</span>
        ${hasKey() && html`<button type="button" class="quiet" onClick=${onLogout}>Log out</button>`}
      </div>
    </header>
    <main id="main" tabindex="-1"><${Page} path=${path} params=${params} /></main>
    <${Notes} />
    ${help && html`<${Dialog} title="Keyboard" onClose=${() => setHelp(false)}>
      <dl class="keys">${known().map(([key, text]) => html`<div key=${key}><dt><kbd>${key}</kbd></dt><dd>${text}</dd></div>`)}</dl>
      <p class="dim">runstore ${session.version}</p>
    <//>`}
  </div>`;
}

function App() {
  const [state, setState] = useState({ kind: "loading" });
  const ask = async () => {
    try {
      setState({ kind: "in", session: sessionOf(await call("/me")) });
    } catch (error) {
      setState(error.status === 401 ? { kind: "login" } : { kind: "error", error });
    }
  };
  useEffect(() => {
    ask();
    return onLoggedOut(() => setState((old) => (old.kind === "in" ? { kind: "login" } : old)));
  }, []);
  const logout = () => {
    setKey(null);
    setState({ kind: "loading" });
    ask();
  };
  if (state.kind === "loading") return html`<${Loading} />`;
  if (state.kind === "login") return html`<${Login} onLogin=${(me) => setState({ kind: "in", session: sessionOf(me) })} />`;
  if (state.kind === "error") return html`<main><${Problem} error=${state.error} onRetry=${ask} /></main>`;
  return html`<${Session.Provider} value=${state.session}><${Shell} onLogout=${logout} /><//>`;
}

const icon = document.querySelector("link[rel=icon]");
icon.setAttribute("href", icon.href); // it is relative to the first page, and the page changes
applyTheme(theme());
if (!current().path) go(href("runs"), { replace: true });
const place = document.getElementById("app");
place.className = "";
place.replaceChildren();
render(html`<${App} />`, place);
