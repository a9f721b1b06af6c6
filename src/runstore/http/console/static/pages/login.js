// Asks for an API key. It is tried before it is kept.

import { html, useState } from "../vendor/htm-preact.js";
import { call, setKey } from "../api.js";
import { plain } from "../text.js";

export function Login({ onLogin }) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const key = new FormData(event.currentTarget).get("key").trim();
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
  return html`<main class="login">
    <form onSubmit=${submit}>
      <p class="brand">runstore</p>
      <label for="key">API key</label>
      <input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required autofocus
        aria-describedby="key-note" placeholder="rsk_…" />
      ${error && html`<p class="failed" role="alert">${plain(error)}</p>`}
      <button type="submit" class="primary" disabled=${busy}>Log in</button>
      <p class="dim" id="key-note">The key stays in this tab, and is forgotten when you close it.
        An administrator makes one with <code>runstore keys create --user NAME</code>.</p>
    </form>
  </main>`;
}
