// Numbers, times and durations for people.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const dayAndTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const clockTime = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const CURRENCIES = new Map();

export const number = (value) => whole.format(value);
export const compact = (value) => (value < 10_000 ? whole.format(value) : short.format(value));

/** "1,234 runs", "1 run". */
export const counted = (count, noun, plural = `${noun}s`) => `${number(count)} ${count === 1 ? noun : plural}`;

/** An amount of money; "–" if no model has a price. */
export function money(cost, currency) {
  if (!currency) return "–";
  const digits = cost !== 0 && Math.abs(cost) < 0.1 ? 4 : 2;
  const key = `${currency}${digits}`;
  if (!CURRENCIES.has(key)) {
    const style = { style: "currency", currency, minimumFractionDigits: digits, maximumFractionDigits: digits };
    CURRENCIES.set(key, new Intl.NumberFormat("en", style));
  }
  return CURRENCIES.get(key).format(cost);
}

/** "83 ms", "1.4 s", "2m 05s", "3h 12m". */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 59_950) return `${(ms / 1_000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1_000);
  if (seconds < 3_600) return `${Math.floor(seconds / 60)}m ${String(seconds % 60).padStart(2, "0")}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1_440) return `${Math.floor(minutes / 60)}h ${String(minutes % 60).padStart(2, "0")}m`;
  return `${Math.floor(minutes / 1_440)}d ${Math.floor((minutes % 1_440) / 60)}h`;
}

/** "just now", "5 min ago", "3 h ago", "2 d ago"; a date after a month. */
export function ago(time, now) {
  const seconds = (now - Date.parse(time)) / 1_000;
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h ago`;
  if (seconds < 30 * 86_400) return `${Math.floor(seconds / 86_400)} d ago`;
  return time.slice(0, 10);
}

/** How long a run has worked, in ms; null for one that has not started. `now`: where it ends if it is open. */
export const tookOf = (run, now) => (run.started_at ? (run.completed_at ? Date.parse(run.completed_at) : now) - Date.parse(run.started_at) : null);

export const moment = (time) => dayAndTime.format(new Date(time));
export const clock = (time) => clockTime.format(new Date(time));
export const bytes = (size) => (size < 1_024 ? `${size} B` : size < 1 << 20 ? `${(size / 1_024).toFixed(1)} KB` : `${(size / (1 << 20)).toFixed(1)} MB`);
export const shortId = (runId) => runId.slice(-12);
