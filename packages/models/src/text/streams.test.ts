import { describe, expect, test } from 'vitest';
import { decodeStream } from './decode-stream.ts';
import { stopWatcher } from './stop-strings.ts';

describe('decodeStream', () => {
  // Token ids are bytes of UTF-8; the first space of a text is dropped, as sentencepiece decoders do.
  const decode = (ids: readonly number[]): string => new TextDecoder().decode(Uint8Array.from(ids)).replace(/^ /, '');

  test.each([' hello  world', 'naïve 窓 👩‍👩‍👧 end', ' a', ''])('pieces of %j make the whole', (text) => {
    const ids = [...new TextEncoder().encode(text)];
    const stream = decodeStream(decode);
    const pieces = ids.map((id) => stream.push(id));
    expect(pieces.join('')).not.toContain('\ufffd');
    expect([...pieces, stream.end()].join('')).toBe(decode(ids));
  });
  test('an unfinished character comes out as a replacement at the end', () => {
    const stream = decodeStream(decode);
    expect([0x61, 0xe7, 0xaa].map((id) => stream.push(id))).toEqual(['a', '', '']);
    expect(stream.end()).toBe('\ufffd');
    expect(stream.end()).toBe('');
  });
});

describe('decodeStream of what gives no text', () => {
  const SKIPPED = 256;
  let decoded = 0;
  const decode = (ids: readonly number[]): string => {
    decoded += ids.length;
    return new TextDecoder().decode(Uint8Array.from(ids.filter((id) => id !== SKIPPED)));
  };
  const run = (ids: readonly number[]): string => {
    decoded = 0;
    const stream = decodeStream(decode);
    return [...ids.map((id) => stream.push(id)), stream.end()].join('');
  };
  const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];
  const count = 5000;

  test('skipped tokens cost the same each, and the text around them is whole', () => {
    const skipped = new Array<number>(count).fill(SKIPPED);
    expect(run([...skipped, ...bytes('窓 a'), ...skipped, ...bytes(' 👩 b'), ...skipped])).toBe('窓 a 👩 b');
    expect(decoded).toBeLessThan(3 * count * 60);
  });
  test('so do bytes that never become a character', () => {
    expect(run([...bytes('a'), ...new Array<number>(count).fill(0xe7), ...bytes('窓')])).toMatch(/^a\ufffd+窓$/);
    expect(decoded).toBeLessThan(count * 80);
  });
});

describe('stopWatcher', () => {
  const run = (stops: string[], pieces: string[]) => {
    const watcher = stopWatcher(stops);
    let text = '';
    for (const piece of pieces) {
      const result = watcher.push(piece);
      text += result.text;
      if (result.stopped) return { text, stopped: true };
    }
    return { text: text + watcher.end(), stopped: false };
  };
  test('finds a stop string across pieces and shows nothing of it', () => {
    expect(run(['\n\nUser:'], ['Hi.', '\n', '\nUs', 'er: x'])).toEqual({ text: 'Hi.', stopped: true });
  });
  test('gives back what only looked like one', () => {
    expect(run(['STOP'], ['a ST', 'ST', 'Op'])).toEqual({ text: 'a STSTOp', stopped: false });
    expect(run(['STOP'], ['a ST', 'STOP', 'b'])).toEqual({ text: 'a ST', stopped: true });
    expect(run(['ab', 'b'], ['xa'])).toEqual({ text: 'xa', stopped: false });
  });
  test('the first of several wins', () => {
    expect(run(['world', 'lo'], ['hello world'])).toEqual({ text: 'hel', stopped: true });
  });
  test('whatever the pieces, the result is the same', () => {
    const text = 'abababac abacaba';
    for (let size = 1; size <= text.length; size++) {
      const pieces = text.match(new RegExp(`.{1,${size}}`, 'gs'))!;
      expect(run(['abac', 'zzz'], pieces)).toEqual({ text: 'abab', stopped: true });
      expect(run(['abad'], pieces)).toEqual({ text, stopped: false });
    }
  });
  test.each([[['']], [['x'.repeat(1025)]], [new Array<string>(65).fill('x')]])('refuses %j', (stops) => {
    expect(() => stopWatcher(stops)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });
});
