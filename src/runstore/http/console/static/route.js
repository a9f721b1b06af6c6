// Where the console is, and which page it shows. Every URL is relative to this module, so any prefix works.

import { useEffect, useState } from "./vendor/htm-preact.js";

const CONSOLE = new URL("../../", import.meta.url);
export const API = new URL("../", CONSOLE);

const listeners = new Set();

export function current() {
	const path = location.pathname.slice(CONSOLE.pathname.length);
	return { path: path.replace(/\/+$/, "") || "runs", params: new URLSearchParams(location.search) };
}

/** The URL with parameters; those that are null, undefined or empty are left out. */
export function withParams(url, params) {
	for (const [name, value] of Object.entries(params)) {
		if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
	}
	return url;
}

export const href = (path, params = {}) => withParams(new URL(path.split("/").map(encodeURIComponent).join("/"), CONSOLE), params).href;

export function go(url, { replace = false } = {}) {
	if (url === location.href) return;
	history[replace ? "replaceState" : "pushState"](null, "", url);
	changed();
}

export function setParams(changes, { replace = true } = {}) {
	const { path, params } = current();
	go(href(path, { ...Object.fromEntries(params), ...changes }), { replace });
}

export function useRoute() {
	const [route, setRoute] = useState(current);
	useEffect(() => {
		const update = () => setRoute(current());
		listeners.add(update);
		return () => listeners.delete(update);
	}, []);
	return route;
}

const changed = () => listeners.forEach((listener) => listener());

addEventListener("popstate", changed);

// A link to the console changes the page without loading it again.
document.addEventListener("click", (event) => {
	const link = event.target.closest?.("a[href]");
	if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
	if (link.target || link.hash || !link.href.startsWith(CONSOLE.href)) return;
	event.preventDefault();
	go(link.href);
});
