// Numbers, times and durations for people.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const dayAndTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const clockTime = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

export const number = (value) => whole.format(value);
export const compact = (value) => (value < 10_000 ? whole.format(value) : short.format(value));

export const counted = (count, noun, plural = `${noun}s`) => `${number(count)} ${count === 1 ? noun : plural}`;

/** An amount of money; "–" if no model has a price. */
export function money(cost, currency) {
	if (!currency) return "–";
	const digits = cost !== 0 && Math.abs(cost) < 0.1 ? 4 : 2;
	return new Intl.NumberFormat("en", { style: "currency", currency, minimumFractionDigits: digits, maximumFractionDigits: digits }).format(cost);
}

const split = (count, of, whole, rest) => `${Math.floor(count / of)}${whole} ${String(count % of).padStart(2, "0")}${rest}`;

/** "83 ms", "1.4 s", "2m 05s", "3h 12m", "1d 04h". */
export function duration(ms) {
	if (ms == null || Number.isNaN(ms)) return "–";
	if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
	if (ms < 59_950) return `${(ms / 1_000).toFixed(1)} s`;
	const seconds = Math.round(ms / 1_000);
	if (seconds < 3_600) return split(seconds, 60, "m", "s");
	const minutes = Math.floor(seconds / 60);
	return minutes < 1_440 ? split(minutes, 60, "h", "m") : split(Math.floor(minutes / 60), 24, "d", "h");
}

const UNITS = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];

/** "just now", "5 min ago", "3 h ago", "2 d ago"; a date after a month. */
export function ago(time, now) {
	const seconds = (now - Date.parse(time)) / 1_000;
	if (seconds < 5) return "just now";
	if (seconds >= 30 * 86_400) return time.slice(0, 10);
	const [unit, length] = UNITS.find(([, each]) => seconds >= each);
	return `${Math.floor(seconds / length)} ${unit} ago`;
}

/** How long a run has worked, in ms; null for one that has not started. */
export const tookOf = (run, now) => (run.started_at ? (run.completed_at ? Date.parse(run.completed_at) : now) - Date.parse(run.started_at) : null);

export const moment = (time) => dayAndTime.format(new Date(time));
export const clock = (time) => clockTime.format(new Date(time));

export function bytes(size) {
	const power = size < 1_024 ? 0 : Math.min(Math.floor(Math.log2(size) / 10), 4);
	return `${power ? (size / 1_024 ** power).toFixed(1) : size} ${["B", "KB", "MB", "GB", "TB"][power]}`;
}

export const shortId = (runId) => runId.slice(-12);
