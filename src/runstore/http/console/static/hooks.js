// Hooks of several pages: data of a route, the user, the time, sizes, and keys.

import { createContext, useCallback, useContext, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { get } from "./api.js";

export const Session = createContext(null);

/** The answer of `GET /me`, with `readsAll`, `admin` and `changes`. */
export const useSession = () => useContext(Session);

export function sessionOf(me) {
	const admin = me.roles.includes("admin");
	const auditor = me.roles.includes("auditor");
	return { ...me, admin, readsAll: admin || auditor, changes: admin || !auditor };
}

/**
 * What `ask(signal)` finds: `{data, error, loading, reload}`. It is asked again when the key changes, and every
 * `every` ms. With the key null nothing is asked. An error leaves the data that there was.
 */
export function useAsked(key, ask, every = 0) {
	const [found, setFound] = useState({});
	const [turn, setTurn] = useState(0);
	useEffect(() => {
		if (key === null) return undefined;
		const abort = new AbortController();
		ask(abort.signal).then((data) => setFound({ key, data }), (error) => {
			if (error.name !== "AbortError") setFound((old) => ({ key, data: old.key === key ? old.data : null, error }));
		});
		return () => abort.abort();
	}, [key, turn]);
	const reload = useCallback(() => setTurn((value) => value + 1), []);
	useEvery(every, reload);
	const { data = null, error = null } = found.key === key ? found : {};
	return { data, error, loading: key !== null && found.key !== key, reload };
}

/** The answer of a GET route, likewise. */
export function useGet(path, query = {}, every = 0) {
	return useAsked(path && JSON.stringify([path, query]), (signal) => get(path, query, signal), every);
}

export function useNow(every = 1_000) {
	const [now, setNow] = useState(Date.now);
	useEvery(every, () => setNow(Date.now()));
	return now;
}

export function useEvery(ms, action) {
	const latest = useRef(action);
	latest.current = action;
	useEffect(() => {
		const timer = ms && setInterval(() => document.visibilityState === "visible" && latest.current(), ms);
		return () => clearInterval(timer);
	}, [ms]);
}

export function useSize() {
	const ref = useRef(null);
	const [size, setSize] = useState({ width: 0, height: 0 });
	useEffect(() => {
		const watch = new ResizeObserver(([{ contentRect: { width, height } }]) => {
			setSize((old) => (old.width === width && old.height === height ? old : { width, height }));
		});
		watch.observe(ref.current);
		return () => watch.disconnect();
	}, []);
	return [ref, size];
}

export function useSettled(value, ms) {
	const [settled, setSettled] = useState(value);
	useEffect(() => {
		const timer = setTimeout(() => setSettled(value), ms);
		return () => clearTimeout(timer);
	}, [value, ms]);
	return settled;
}

/** `left`: pieces of texts that may still be shown by themselves: elements of Markdown, items of JSON. One for the document. */
export const Room = createContext({ left: 10_000 });

/** `take(most)`: take so many pieces, or what there is, in place of those taken before. They are returned at the end. */
export function useRoom() {
	const taken = useRef(0);
	const room = useContext(Room);
	const { current: take } = useRef((most) => {
		room.left += taken.current;
		taken.current = Math.min(room.left, most);
		room.left -= taken.current;
		return taken.current;
	});
	useEffect(() => () => void take(0), []);
	return take;
}

/** The set with the item, or without it if it had it. */
export const toggled = (set, item) => (set.has(item) ? new Set([...set].filter((each) => each !== item)) : new Set(set).add(item));

export const title = (text) => {
	document.title = text ? `${text} · runstore` : "runstore";
};

// Keyboard shortcuts. A page registers its own; the shell shows all of them in the help.
const stack = [];

/** Shortcuts while the component is shown: `{j: [action, "the next run"]}`. */
export function useKeys(shortcuts) {
	const latest = useRef(shortcuts);
	latest.current = shortcuts;
	useEffect(() => {
		stack.push(latest);
		return () => void stack.splice(stack.indexOf(latest), 1);
	}, []);
}

export const known = () => stack.flatMap((each) => Object.entries(each.current).map(([key, [, text]]) => [key, text]));

document.addEventListener("keydown", (event) => {
	if (event.metaKey || event.ctrlKey || event.altKey) return;
	const typing = event.target.closest?.("input:not([type=checkbox]):not([type=range]), textarea, select");
	if (typing && event.key !== "Escape") return;
	if (document.querySelector("dialog[open]")) return;
	const [action] = stack.findLast((each) => each.current[event.key])?.current[event.key] ?? [];
	if (!action) return;
	event.preventDefault();
	action(event);
});
