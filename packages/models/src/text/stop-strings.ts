import { LowbitError } from '@lowbit/core';

/** Watches a stream of text for stop strings. */
export interface StopWatcher {
  /** Text that is safe to show; the beginning of a possible stop string is kept back. Nothing may be pushed once `stopped`. */
  push(piece: string): { readonly text: string; readonly stopped: boolean };
  /** What was kept back, once the text has ended without a stop string. */
  end(): string;
}

const MAX_STOPS = 64;
const MAX_LENGTH = 1024;

/**
 * A watcher for the first occurrence of any of `stops` (ties: the one that begins first). The stop string itself and all after it are never given out,
 * even if it arrives in pieces. Throws ERR_BAD_ARGUMENT for empty or overlong lists and strings.
 */
export function stopWatcher(stops: readonly string[]): StopWatcher {
  if (stops.length > MAX_STOPS || stops.some((stop) => typeof stop !== 'string' || stop === '' || stop.length > MAX_LENGTH)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `stop must be at most ${MAX_STOPS} strings of 1 to ${MAX_LENGTH} characters`, {
      details: { stop: stops },
    });
  }
  let kept = '';
  return {
    push(piece) {
      const text = kept + piece;
      kept = '';
      const at = firstOccurrence(text, stops);
      if (at >= 0) return { text: text.slice(0, at), stopped: true };
      const safe = text.length - openEnd(text, stops);
      kept = text.slice(safe);
      return { text: text.slice(0, safe), stopped: false };
    },
    end() {
      const rest = kept;
      kept = '';
      return rest;
    },
  };
}

function firstOccurrence(text: string, stops: readonly string[]): number {
  let first = -1;
  for (const stop of stops) {
    const at = text.indexOf(stop);
    if (at >= 0 && (first < 0 || at < first)) first = at;
  }
  return first;
}

/** Length of the longest end of `text` that a stop string begins with. */
function openEnd(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) longest = length;
    }
  }
  return longest;
}
