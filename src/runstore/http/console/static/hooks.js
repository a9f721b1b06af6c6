// What several pages need from Preact: data of a route, the time, and the size of an element.

import { useCallback, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { get } from "./api.js";

/** The answer of a GET route: `{data, error, loading, reload}`. Without a path nothing is asked. */
export function useGet(path, query = {}) {
  const key = path === null ? null : JSON.stringify([path, query]);
  const [found, setFound] = useState({ key: null, data: null, error: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (key === null) return undefined;
    const abort = new AbortController();
    get(path, query, abort.signal).then(
      (data) => setFound({ key, data, error: null }),
      (error) => {
        if (error.name !== "AbortError") setFound({ key, data: null, error });
      },
    );
    return () => abort.abort();
  }, [key, turn]);
  const reload = useCallback(() => setTurn((value) => value + 1), []);
  const fresh = found.key === key;
  return { data: fresh ? found.data : null, error: fresh ? found.error : null, loading: key !== null && !fresh, reload };
}

/** The time in ms, again every `every` ms. */
export function useNow(every = 1_000) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

/** Call `action` every `ms` while the page is visible. */
export function useEvery(ms, action) {
  const latest = useRef(action);
  latest.current = action;
  useEffect(() => {
    const timer = setInterval(() => document.visibilityState === "visible" && latest.current(), ms);
    return () => clearInterval(timer);
  }, [ms]);
}

/** A ref, and the size of its element. */
export function useSize() {
  const ref = useRef(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => {
      const { width, height } = entry.contentRect;
      setSize((old) => (old.width === width && old.height === height ? old : { width, height }));
    });
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return [ref, size];
}

/** A value that follows `value` once it has been still for `ms`. */
export function useSettled(value, ms) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}

export const title = (text) => {
  document.title = text ? `${text} · runstore` : "runstore";
};
