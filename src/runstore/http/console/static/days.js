// Days in UTC, as the reports count them.

export const SPANS = { 7: "7 days", 30: "30 days", 90: "90 days" };

export const dayOf = (ms) => new Date(ms).toISOString().slice(0, 10);

/** The last `count` days, today included, oldest first. */
export function lastDays(count) {
  const today = Date.now();
  return Array.from({ length: count }, (_, index) => dayOf(today - (count - 1 - index) * 86_400_000));
}
