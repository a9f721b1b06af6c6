// Keyboard shortcuts. A page registers its own; the shell shows all of them in the help.

import { useEffect, useRef } from "./vendor/htm-preact.js";

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

/** All shortcuts that work now: `[key, what it does]`. */
export const known = () => stack.flatMap((each) => Object.entries(each.current).map(([key, [, text]]) => [key, text]));

document.addEventListener("keydown", (event) => {
  if (event.metaKey || event.ctrlKey || event.altKey) return;
  const typing = event.target.closest?.("input:not([type=checkbox]):not([type=range]), textarea, select");
  if (typing && event.key !== "Escape") return;
  if (document.querySelector("dialog[open]")) return;
  for (const each of [...stack].reverse()) {
    const found = each.current[event.key];
    if (!found) continue;
    event.preventDefault();
    found[0](event);
    return;
  }
});
