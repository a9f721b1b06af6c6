// Requests to the public API. The key is kept for this tab only, and is sent as a header, never in a URL.

import { API, withParams } from "./route.js";

const KEY = "runstore.key";
let loggedOut = () => {};

export class ApiError extends Error {
	constructor(status, code, message) {
		super(message);
		this.status = status;
		this.code = code;
	}
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export function setKey(key) {
	if (key === null) sessionStorage.removeItem(KEY);
	else sessionStorage.setItem(KEY, key);
}

export function onLoggedOut(listener) {
	loggedOut = listener;
}

function unreachable(error) {
	if (error?.name === "AbortError") throw error;
	throw new ApiError(0, "unreachable", "The server cannot be reached.");
}

/** The Response. Throws an ApiError with the server's message, or with the status 0 without a connection. */
export async function answerOf(path, { method = "GET", query = {}, body, headers = {}, signal, cache = "no-cache" } = {}) {
	const sent = { ...headers };
	if (hasKey()) sent.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
	if (body !== undefined) sent["Content-Type"] = "application/json";
	const url = withParams(new URL(path.replace(/^\//, ""), API), query);
	const response = await fetch(url, { method, headers: sent, signal, cache, body: body && JSON.stringify(body) }).catch(unreachable);
	if (response.ok) return response;
	if (response.status === 401) loggedOut();
	const { error = {} } = await response.json().catch(() => ({})); // a proxy's answer is not JSON
	throw new ApiError(response.status, error.code ?? "error", error.message ?? `The server answered ${response.status}.`);
}

export async function call(path, options = {}) {
	const response = await answerOf(path, options);
	const text = await response.text().catch(unreachable);
	if (!text && !options.method) unreachable(); // it was cut within the headers
	return text ? JSON.parse(text) : null;
}

export const get = (path, query, signal) => call(path, { query, signal });
export const post = (path, body, headers) => call(path, { method: "POST", body, headers });
export const remove = (path) => call(path, { method: "DELETE" });
