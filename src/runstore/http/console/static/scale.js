// The time axis of a waterfall: idle gaps are cut, so that a run that waited for an hour still shows its calls.

const GAP_SHARE = 0.08; // of the time; a longer pause is cut to
const CUT_SHARE = 0.02; // of the busy time
const LEAST_GAP_MS = 2_000;

/**
 * The scale of some intervals `[start, end]` in ms. `at(time)` is the place on the axis, from 0 to 1; `time(place)`
 * is its inverse; `cuts` are the places and lengths of what was left out. `range`: show only this part.
 */
export function scaleOf(intervals, range = null) {
  const sorted = intervals.filter(([start, end]) => end >= start).sort((a, b) => a[0] - b[0]);
  if (!sorted.length) return { at: () => 0, time: () => 0, cuts: [], ticks: [], from: 0, to: 0 };
  let [from, to] = range ?? [sorted[0][0], Math.max(...sorted.map(([, end]) => end))];
  if (to <= from) to = from + 1;
  const least = Math.max((to - from) * GAP_SHARE, LEAST_GAP_MS);
  const gaps = [];
  let reached = from;
  for (const [start, end] of sorted) {
    if (start > to) break;
    if (!range && start - reached > least) gaps.push([reached, start]);
    reached = Math.max(reached, Math.min(end, to));
  }
  const idle = gaps.reduce((sum, [start, end]) => sum + end - start, 0);
  const busy = Math.max(to - from - idle, 1);
  const cut = busy * CUT_SHARE;
  const whole = busy + cut * gaps.length;
  const points = [[from, 0]];
  let place = 0;
  let time = from;
  for (const [start, end] of gaps) {
    place += (start - time) / whole;
    points.push([start, place]);
    place += cut / whole;
    points.push([end, place]);
    time = end;
  }
  points.push([to, 1]);
  const between = (value, key, other) => {
    if (value <= points[0][key]) return points[0][other];
    for (let index = 1; index < points.length; index += 1) {
      const [low, high] = [points[index - 1], points[index]];
      if (value <= high[key]) {
        const share = high[key] === low[key] ? 1 : (value - low[key]) / (high[key] - low[key]);
        return low[other] + share * (high[other] - low[other]);
      }
    }
    return points.at(-1)[other];
  };
  return {
    from, to,
    at: (time) => between(time, 0, 1),
    time: (place) => between(place, 1, 0),
    cuts: gaps.map(([start, end]) => ({ place: between(start, 0, 1), length: end - start })),
  };
}
