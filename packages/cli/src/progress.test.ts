import { describe, expect, it } from 'vitest';
import { createProgress, progressMode } from './progress.ts';

function recorder(isTTY: boolean, env: Record<string, string> = {}, columns = 100) {
  let time = 0;
  const written: string[] = [];
  const stream = { isTTY, columns, write: (text: string) => written.push(text) };
  const progress = createProgress({ stream, env, now: () => time });
  const at = (ms: number, done: number, total = 1000, item = 'model.layers.0'): void => {
    time = ms;
    progress.report({ phase: 'quantize', done, total, unit: 'bytes', item });
  };
  return { progress, at, written, stream };
}

describe('progressMode', () => {
  const mode = (isTTY: boolean, env: Record<string, string>, silent = false) =>
    progressMode({ stream: { isTTY, write: () => {} }, env, silent });

  it('draws a bar on a terminal only', () => {
    expect([mode(true, {}), mode(false, {}), mode(true, { CI: 'true' }), mode(true, { TERM: 'dumb' })]).toEqual([
      'bar',
      'lines',
      'lines',
      'lines',
    ]);
  });

  it('is silent when asked', () => {
    expect([
      mode(true, {}, true),
      mode(true, { HF_HUB_DISABLE_PROGRESS_BARS: '1' }),
      mode(false, { HF_HUB_DISABLE_PROGRESS_BARS: 'YES' }),
    ]).toEqual(['none', 'none', 'none']);
    expect(mode(true, { HF_HUB_DISABLE_PROGRESS_BARS: '0' })).toBe('bar');
  });
});

describe('lines', () => {
  it('come once per 10 %, with speed and time left', () => {
    const { at, written } = recorder(false);
    for (let i = 0; i <= 100; i++) at(100 * i, 10 * i);
    expect(written).toHaveLength(10);
    expect(written[4]).toBe('Quantizing: 50 % (500 B of 1.00 kB, 100 B/s, 5.0 s left)\n');
    expect(written[9]).toBe('Quantizing: 100 % (1.00 kB of 1.00 kB, 100 B/s)\n');
  });

  it('do not count what an earlier run did for the speed', () => {
    const { at, written } = recorder(false);
    at(0, 300);
    at(1, 600);
    at(1000, 700);
    expect(written.at(-1)).toBe('Quantizing: 70 % (700 B of 1.00 kB, 100 B/s, 3.0 s left)\n');
  });

  it('leave out a quick load', () => {
    const { progress, written } = recorder(false);
    for (let i = 1; i <= 10; i++) progress.report({ phase: 'load', done: i, total: 10, unit: 'tensors' });
    expect(written).toEqual([]);
  });
});

describe('bar', () => {
  it('is redrawn in place, fits the terminal, and is gone at the end', () => {
    const { at, written } = recorder(true, { NO_COLOR: '1' }, 60);
    at(0, 0);
    at(10, 10); // too soon to redraw
    at(500, 500);
    expect(written).toHaveLength(2);
    expect(written[1]).toContain('\r\x1b[2KQuantizing [##########----------]  50 %  500 B of 1.00 kB');
    expect(written[1]!.replace('\r\x1b[2K', '').length).toBeLessThan(60);
    at(1000, 1000);
    expect(written.at(-1)).toBe('\r\x1b[2K');
  });

  it('has color unless NO_COLOR is set', () => {
    const colored = recorder(true);
    colored.at(0, 500);
    expect(colored.written[0]).toContain('\x1b[36m');
    const plain = recorder(true, { NO_COLOR: '1' });
    plain.at(0, 500);
    expect(plain.written[0]).not.toContain('\x1b[36m');
  });

  it('is cleared once', () => {
    const { at, progress, written } = recorder(true);
    at(0, 100);
    progress.clear();
    progress.clear();
    expect(written.slice(1)).toEqual(['\r\x1b[2K']);
  });

  it('survives a total of zero and a narrow terminal', () => {
    const { at, written } = recorder(true, {}, 10);
    at(0, 0, 0);
    at(500, 1, 1000);
    expect(written.join('')).not.toContain('NaN');
  });
});
