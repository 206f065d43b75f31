// Sorting the elements of a group, with their importance: thousands of short lists, bell-shaped as weights are. Dealt into as many buckets of equal
// width as there are elements, they are nearly in order, and one insertion sort ends it: half the time of a sort that compares from the start.

/** Elements in one bucket from which on dealing did not help: outliers, and the rest all in one place. */
const CROWDED = 64;

/** Sorts lists of one length, in place and without allocating. */
export class PairSorter {
  readonly #keys: Float64Array;
  readonly #along: Float64Array;
  readonly #bucket: Int32Array;
  /** Where the next element of each bucket goes. */
  readonly #next: Int32Array;

  constructor(size: number) {
    this.#keys = new Float64Array(size);
    this.#along = new Float64Array(size);
    this.#bucket = new Int32Array(size);
    this.#next = new Int32Array(size + 1);
  }

  /** Sorts `keys`, all finite, in ascending order, and `along` with them. */
  sort(keys: Float64Array, along: Float64Array): void {
    const most = this.#deal(keys, along);
    if (most > CROWDED) shellSort(keys, along);
    else insertionSort(keys, along, 1);
  }

  /** Puts the elements in order of their buckets. Gives the size of the largest; if that is crowded nothing was moved. */
  #deal(keys: Float64Array, along: Float64Array): number {
    const bucket = this.#bucket;
    const next = this.#next;
    const size = keys.length;
    let lo = keys[0]!;
    let hi = lo;
    for (let i = 1; i < size; i++) {
      const key = keys[i]!;
      if (key < lo) lo = key;
      if (key > hi) hi = key;
    }
    const factor = hi > lo ? (size - 1) / (hi - lo) : 0;
    next.fill(0);
    for (let i = 0; i < size; i++) {
      const b = ((keys[i]! - lo) * factor) | 0; // rises with the key; any number that is none becomes 0
      bucket[i] = b;
      next[b + 1]!++;
    }
    let most = 0;
    for (let b = 1; b <= size; b++) {
      if (next[b]! > most) most = next[b]!;
      next[b]! += next[b - 1]!;
    }
    if (most > CROWDED) return most;
    const dealtKeys = this.#keys;
    const dealtAlong = this.#along;
    for (let i = 0; i < size; i++) {
      const to = next[bucket[i]!]!++;
      dealtKeys[to] = keys[i]!;
      dealtAlong[to] = along[i]!;
    }
    keys.set(dealtKeys);
    along.set(dealtAlong);
    return most;
  }
}

/** Gaps of the shell sort (Ciura 2001, continued by factors of 2.25). */
const GAPS = [90927, 40412, 17961, 7983, 3548, 1577, 701, 301, 132, 57, 23, 10, 4, 1];

function shellSort(keys: Float64Array, along: Float64Array): void {
  for (const gap of GAPS) insertionSort(keys, along, gap);
}

/** Sorts the elements that are `gap` apart. */
function insertionSort(keys: Float64Array, along: Float64Array, gap: number): void {
  for (let i = gap; i < keys.length; i++) {
    const key = keys[i]!;
    const other = along[i]!;
    let j = i;
    for (; j >= gap && keys[j - gap]! > key; j -= gap) {
      keys[j] = keys[j - gap]!;
      along[j] = along[j - gap]!;
    }
    keys[j] = key;
    along[j] = other;
  }
}
