// The console: finds out who the user is, and shows the page that the URL names.

import { call, current, Dialog, Empty, fieldsOf, go, hasKey, href, html, known, link, Loading, Notes, onLoggedOut, plain, Problem, render, Session, sessionOf, setKey, useAsked, useEffect, useKeys, useRoute, useSession, useState } from "./kit.js";

// The pages of the menu; true: for admins and auditors.
const PAGES = [
	["runs", "Runs"], ["inbox", "Inbox"], ["sessions", "Sessions"], ["users", "Users", true],
	["tools", "Tools", true], ["usage", "Usage"], ["system", "System", true],
];
const allowed = (session) => ([, , restricted]) => session.readsAll || !restricted;
const REPORTS = { users: "Users", tools: "Tools", usage: "Usage" };
const OTHERS = ["compare", "start"];
const root = document.documentElement;
const THEME = "runstore.theme";
const THEMES = { auto: "◐", light: "○", dark: "●" };

function Page({ path, params }) {
	const session = useSession();
	const run = path.startsWith("runs/") ? decodeURIComponent(path.slice(5)) : null;
	const listed = PAGES.find(([name]) => name === path);
	const name = run ? "run" : listed || OTHERS.includes(path) ? path : null;
	const { data: Shown, error } = useAsked(name, async () => REPORTS[name] ? (await import("./pages/reports.js"))[REPORTS[name]] : (await import(`./pages/${name}.js`)).default);
	if (!name) return html`<${Empty} title="No such page"><p>${link("To the runs", "runs")}</p><//>`;
	if (listed && !allowed(session)(listed)) return html`<${Problem} error=${{ status: 403, message: "This page is for admins and auditors." }} />`;
	if (error) return html`<${Problem} error=${{ message: "The page could not be loaded." }} />`;
	return Shown ? html`<${Shown} key=${path} runId=${run} params=${params} />` : html`<${Loading} />`;
}

function useTheme() {
	const [theme, setTheme] = useState(root.dataset.theme);
	const next = () => {
		const all = Object.keys(THEMES);
		localStorage.setItem(THEME, root.dataset.theme = all[(all.indexOf(theme) + 1) % all.length]);
		setTheme(root.dataset.theme);
	};
	return [theme, next];
}

function Shell({ onLogout }) {
	const session = useSession();
	const { path, params } = useRoute();
	const [help, setHelp] = useState(false);
	const [theme, nextTheme] = useTheme();
	useKeys({
		"?": [() => setHelp(true), "show this help"],
		"n": [() => session.changes && go(href("start")), "start a run"],
	});
	return html`<div class="shell">
		<a class="skip" href="#main">To the content</a>
		<header class="menu">
			<a class="brand" href=${href("runs")}>runstore</a>
			<nav aria-label="Pages">${PAGES.filter(allowed(session)).map(([name, label]) => html`<a href=${href(name)}
					aria-current=${path.split("/")[0] === name ? "page" : undefined}>${label}</a>`)}</nav>
			<div class="menu-end">
				<button class="quiet" aria-label=${`Colours: ${theme}. Change them`} onClick=${nextTheme}>${THEMES[theme]}</button>
				<button class="quiet" title="Keyboard shortcuts" onClick=${() => setHelp(true)}>?</button>
				<span class="who" title=${plain(session.user_id)}>${session.user_id}
					${session.login !== "none" && session.roles.length > 0 && html` <span class="dim">${session.roles.join(", ")}</span>`}</span>
				${hasKey() && html`<button class="quiet" onClick=${onLogout}>Log out</button>`}
			</div>
		</header>
		<main id="main" tabindex="-1"><${Page} path=${path} params=${params} /></main>
		<${Notes} />
		${help && html`<${Dialog} title="Keyboard" onClose=${() => setHelp(false)}>
			<dl class="keys">${known().map(([key, text]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${text}</dd></div>`)}</dl>
			<p class="dim">runstore ${session.version}</p><//>`}
	</div>`;
}

/** Asks for an API key, which is tried before it is kept. */
function Login({ onLogin }) {
	const [error, setError] = useState(null);
	const [busy, setBusy] = useState(false);
	const submit = async (event) => {
		const { key } = fieldsOf(event);
		if (!/^[\x21-\x7e]+$/.test(key)) return setError("An API key has only visible ASCII characters.");
		setBusy(true);
		setKey(key);
		try {
			onLogin(await call("/me"));
		} catch (problem) {
			setKey(null);
			setError(problem.message);
			setBusy(false);
		}
		return undefined;
	};
	return html`<main class="login"><form onSubmit=${submit}>
		<p class="brand">runstore</p>
		<label for="key">API key</label>
		<input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required autofocus aria-describedby="key-note" placeholder="rsk_…" />
		${error && html`<p class="failed" role="alert">${error}</p>`}
		<button type="submit" class="primary" disabled=${busy}>Log in</button>
		<p class="dim" id="key-note">The key stays in this tab, and is forgotten when you close it.
			An administrator makes one with <code>runstore keys create --user NAME</code>.</p></form></main>`;
}

function App() {
	const [session, setSession] = useState(null); // false: a login is needed
	const [error, setError] = useState(null);
	const ask = () => call("/me").then((me) => setSession(sessionOf(me)), (problem) => (problem.status === 401 ? setSession(false) : setError(problem)));
	useEffect(() => {
		ask();
		onLoggedOut(() => setSession(false));
	}, []);
	const logout = () => {
		setKey(null);
		ask();
	};
	if (session) return html`<${Session.Provider} value=${session}><${Shell} onLogout=${logout} /><//>`;
	if (session === false) return html`<${Login} onLogin=${(me) => setSession(sessionOf(me))} />`;
	return error ? html`<main><${Problem} error=${error} /></main>` : html`<${Loading} />`;
}

const kept = localStorage.getItem(THEME);
root.dataset.theme = kept in THEMES ? kept : "auto";
const icon = document.querySelector("link[rel=icon]");
icon.setAttribute("href", icon.href); // it is relative to the first page, and the page changes
if (!current().path) go(href("runs"), { replace: true });
const place = document.getElementById("app");
place.className = "";
place.replaceChildren();
render(html`<${App} />`, place);
