// What two lists or texts have in common, by their longest common subsequence.

const MOST_CELLS = 4_000_000; // of the table of a comparison; beyond it, only the ends are compared

/** The table of lengths of common subsequences of the ends `a[i:]` and `b[j:]`. */
function table(a, b) {
  const width = b.length + 1;
  const lengths = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      lengths[i * width + j] = a[i] === b[j] ? lengths[(i + 1) * width + j + 1] + 1 : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  return (i, j) => lengths[i * width + j];
}

/** Pairs of places `[i, j]`; a place without a partner has null beside it. */
function pairs(a, b) {
  let begin = 0;
  while (begin < a.length && begin < b.length && a[begin] === b[begin]) begin += 1;
  let [endA, endB] = [a.length, b.length];
  while (endA > begin && endB > begin && a[endA - 1] === b[endB - 1]) [endA, endB] = [endA - 1, endB - 1];
  const found = Array.from({ length: begin }, (_, index) => [index, index]);
  const [middleA, middleB] = [a.slice(begin, endA), b.slice(begin, endB)];
  const common = middleA.length * middleB.length <= MOST_CELLS ? table(middleA, middleB) : () => 0;
  let [i, j] = [0, 0];
  while (i < middleA.length || j < middleB.length) {
    if (i < middleA.length && j < middleB.length && middleA[i] === middleB[j]) found.push([begin + i++, begin + j++]);
    else if (j >= middleB.length || (i < middleA.length && common(i + 1, j) >= common(i, j + 1))) found.push([begin + i++, null]);
    else found.push([null, begin + j++]);
  }
  for (let k = 0; k < a.length - endA; k += 1) found.push([endA + k, endB + k]);
  return found;
}

/** Items of two lists beside each other, `[left, right]`, either of them null. */
export function aligned(a, b, keyOf) {
  return pairs(a.map(keyOf), b.map(keyOf)).map(([i, j]) => [i === null ? null : a[i], j === null ? null : b[j]]);
}

/** Two texts by words: `[kind, text]` with kind `same`, `left` or `right`. */
export function wordsOf(a, b) {
  const [left, right] = [a, b].map((text) => text.match(/\s+|[^\s]+/g) ?? []);
  const parts = [];
  for (const [i, j] of pairs(left, right)) {
    const kind = i === null ? "right" : j === null ? "left" : "same";
    const text = i === null ? right[j] : left[i];
    if (parts.at(-1)?.[0] === kind) parts.at(-1)[1] += text;
    else parts.push([kind, text]);
  }
  return parts;
}
