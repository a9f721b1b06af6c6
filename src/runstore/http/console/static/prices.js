// What a model call cost, by the prices of the configuration and the day (UTC) on which the run was queued.

const MILLION = 1_000_000;

/** The price of a model on a day, of `GET /prices`. */
export function priceOf(prices, model, day) {
  let found = null;
  for (const price of prices) {
    if (price.model === model && (!price.from_date || price.from_date <= day) && (!found || (price.from_date ?? "") >= (found.from_date ?? ""))) found = price;
  }
  return found;
}

/** `{cost, currency}`; null without a price. */
export function costOf(usage, prices, day) {
  const price = usage && priceOf(prices, usage.model ?? "", day);
  if (!price) return null;
  const read = usage.cache_read_tokens ?? 0;
  const written = usage.cache_write_tokens ?? 0;
  const uncached = Math.max(0, usage.input_tokens - read - written);
  const total = uncached * price.input + read * (price.cache_read ?? price.input) + written * (price.cache_write ?? price.input)
    + usage.output_tokens * price.output;
  return { cost: total / MILLION, currency: price.currency };
}
