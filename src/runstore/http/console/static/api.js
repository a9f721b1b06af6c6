// Requests to the public API. The key is kept for this tab only, and is sent as a header, never in a URL.

import { API } from "./route.js";

const KEY = "runstore.key";
const listeners = new Set();

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

/** Call `listener` when the server asks for a login. Returns a function that ends this. */
export function onLoggedOut(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The URL of a route; a parameter that is null, undefined or empty is left out. */
export function url(path, query = {}) {
  const found = new URL(path.replace(/^\//, ""), API);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") found.searchParams.set(name, value);
  }
  return found;
}

/** One request; its Response, which may be an error. Throws ApiError with status 0 without a connection. */
export async function request(path, { method = "GET", query, body, headers = {}, signal, cache = "no-cache" } = {}) {
  const sent = { ...headers };
  const key = sessionStorage.getItem(KEY);
  if (key !== null) sent.Authorization = `Bearer ${key}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url(path, query), {
      method, headers: sent, signal, cache, body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "The server cannot be reached.");
  }
  if (response.status === 401) for (const listener of [...listeners]) listener();
  return response;
}

/** What an error answer says. */
export async function errorOf(response) {
  let detail = {};
  try {
    detail = (await response.json()).error ?? {};
  } catch {
    // not JSON: a proxy's answer
  }
  const message = detail.message ?? `The server answered ${response.status}.`;
  return new ApiError(response.status, detail.code ?? "error", message);
}

/** The JSON of an answer; null for one without a body. Throws ApiError. */
export async function call(path, options) {
  const response = await request(path, options);
  if (!response.ok) throw await errorOf(response);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

export const get = (path, query, signal) => call(path, { query, signal });
export const post = (path, body, headers) => call(path, { method: "POST", body, headers });
export const remove = (path) => call(path, { method: "DELETE" });
