// What an interrupted `lowbit quantize` leaves behind: nothing after Ctrl-C, and what is needed to go on after a crash.

import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { QuantizeModelReport } from 'lowbit';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { digests, ensureBuilt, lowbit, lowbitJson, type Outcome, TINY } from './cli-process.ts';

let dir = '';
const at = (name: string): string => join(dir, name);

beforeAll(() => {
  ensureBuilt();
  dir = mkdtempSync(join(tmpdir(), 'lowbit-interrupt-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Quantizes and sends a signal once some layers are done. */
function interrupted(signal: NodeJS.Signals, out: string, more: readonly string[] = []): Promise<Outcome> {
  let sent = false;
  return lowbit(['quantize', TINY, '-o', out, ...more], {
    onStderr(stderr, child) {
      if (sent || !/Quantizing: [3-9]\d %/.test(stderr)) return;
      sent = true;
      child.kill(signal);
    },
  });
}

describe.skipIf(process.platform === 'win32')('quantize', () => {
  it('leaves nothing after Ctrl-C', async () => {
    const { code, stdout, stderr } = await interrupted('SIGINT', at('stopped'));
    expect([code, stdout]).toEqual([130, '']);
    expect(stderr).toMatch(/\ninterrupted\n$/);
    expect(readdirSync(dir).filter((name) => name.startsWith('stopped'))).toEqual([]);
  });

  it('leaves nothing after SIGTERM', async () => {
    expect((await interrupted('SIGTERM', at('ended'))).code).toBe(143);
    expect(readdirSync(dir).filter((name) => name.startsWith('ended'))).toEqual([]);
  });

  it('leaves nothing when the terminal is closed', async () => {
    expect((await interrupted('SIGHUP', at('closed'))).code).toBe(129);
    expect(readdirSync(dir).filter((name) => name.startsWith('closed'))).toEqual([]);
  });

  it('resumes after a crash to the same bytes', async () => {
    expect((await lowbit(['quantize', TINY, '-o', at('whole')])).code).toBe(0);
    expect((await interrupted('SIGKILL', at('crashed'))).code).toBe(null);
    expect([existsSync(at('crashed')), existsSync(at('crashed.partial'))]).toEqual([false, true]);

    const refused = await lowbitJson(['quantize', TINY, '-o', at('crashed')]);
    expect([refused.code, refused.json.error.code]).toEqual([1, 'ERR_OUTPUT_EXISTS']);
    expect(refused.json.error.hint).toContain('--resume');
    const other = await lowbitJson(['quantize', TINY, '-o', at('crashed'), '-b', '3', '--resume']);
    expect([other.code, other.json.error.code]).toEqual([1, 'ERR_JOURNAL_MISMATCH']);

    const { code, json } = await lowbitJson<QuantizeModelReport>(['quantize', TINY, '-o', at('crashed'), '--resume']);
    expect(code).toBe(0);
    expect(json.resumed).toBeGreaterThan(0);
    expect(json.linears).toHaveLength(42);
    expect(digests(at('crashed'))).toEqual(digests(at('whole')));
    expect(existsSync(at('crashed.partial'))).toBe(false);
  });

  it('resumes finding importance after a crash, at the layer it had come to, to the same bytes', async () => {
    const flags = ['--preset', 'small3'];
    expect((await lowbit(['quantize', TINY, '-o', at('weighed'), ...flags])).code).toBe(0);
    let sent = false;
    const { code } = await lowbit(['quantize', TINY, '-o', at('killed'), ...flags], {
      onStderr(_, child) {
        if (sent || !existsSync(at('killed.importance'))) return;
        sent = child.kill('SIGKILL');
      },
    });
    expect([code, existsSync(at('killed')), existsSync(at('killed.importance'))]).toEqual([null, false, true]);
    const refused = await lowbitJson(['quantize', TINY, '-o', at('killed'), ...flags]);
    expect([refused.code, refused.json.error.code]).toEqual([1, 'ERR_OUTPUT_EXISTS']);
    expect((await lowbit(['quantize', TINY, '-o', at('killed'), ...flags, '--resume'])).code).toBe(0);
    expect(digests(at('killed'))).toEqual(digests(at('weighed')));
    expect(readdirSync(dir).filter((name) => name.startsWith('killed'))).toEqual(['killed']);
  });

  it('keeps what can be resumed when a run with --resume is stopped', async () => {
    expect((await interrupted('SIGINT', at('paused'), ['--resume'])).code).toBe(130);
    expect([existsSync(at('paused')), existsSync(at('paused.partial'))]).toEqual([false, true]);
    const { json } = await lowbitJson<QuantizeModelReport>(['quantize', TINY, '-o', at('paused'), '--resume']);
    expect(json.resumed).toBeGreaterThan(0);
    expect(digests(at('paused'))).toEqual(digests(at('whole')));
  });
});
