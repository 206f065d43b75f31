// `lowbit report`: one file that names of strangers cannot break out of, of the same numbers as --json.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { QualityReport } from 'lowbit';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ensureBuilt, lowbit, lowbitJson, TINY } from './cli-process.ts';

/** A name that a folder can have. */
const HOSTILE = "tiny<img src=x onerror='alert(1)'>";
let dir = '';
beforeAll(async () => {
  ensureBuilt();
  dir = mkdtempSync(join(tmpdir(), 'lowbit-report-'));
  writeFileSync(
    join(dir, 'ids.json'),
    JSON.stringify({ ids: Array.from({ length: 126 }, (_, i) => (i * 37) % 2000), context: 64, bos: 0 }),
  );
  writeFileSync(join(dir, 'rows.jsonl'), '{"quantizer":"<b>other</b>","bitsPerWeight":3,"kl":0.5,"klStderr":0.01}\n');
  const args = ['quantize', TINY, '-o', join(dir, HOSTILE), '-m', 'nf4', '--save-recipe', join(dir, 'recipe.json'), '--quiet'];
  expect(await lowbit(args)).toMatchObject({ code: 0 });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

it('writes figures, layers, recipe and texts side by side', async () => {
  const out = join(dir, 'report.html');
  const files = ['--ids', join(dir, 'ids.json'), '--frontier', join(dir, 'rows.jsonl'), '--recipe', join(dir, 'recipe.json'), '-o', out];
  const { code, json } = await lowbitJson<QualityReport>([
    'report',
    join(dir, HOSTILE),
    TINY,
    ...files,
    '--prompt',
    'Once',
    '--max-tokens',
    '5',
  ]);
  expect(code).toBe(0);
  expect(json).toMatchObject({ model: HOSTILE, reference: 'tiny-llama', text: 'ids.json', frontier: [{ name: '<b>other</b>', kl: 0.5 }] });
  expect(json.comparison.linears).toHaveLength(42);
  expect(json.samples).toEqual([{ prompt: 'Once', original: expect.any(String), quantized: expect.any(String) }]);
  const html = readFileSync(out, 'utf8');
  expect(html).toContain('tiny&lt;img src=x onerror=&#39;alert(1)&#39;&gt;');
  expect(html).not.toMatch(/<img|<b>|<script/);
  expect(html).toContain(`${json.comparison.kl.toPrecision(3)} ± `);
  expect(html.match(/<rect class="s\d"/g)).toHaveLength(42);
  expect(html).toContain('&quot;method&quot;: &quot;nf4&quot;');
});

it('refuses what it cannot use before anything is measured', async () => {
  const report = (...args: string[]) => lowbit(['report', join(dir, HOSTILE), TINY, ...args]);
  const out = ['-o', join(dir, 'x.html')];
  expect(await report(...out)).toMatchObject({ code: 2, stderr: expect.stringContaining('report needs a text') });
  expect(await report('--ids', join(dir, 'ids.json'))).toMatchObject({ code: 2, stderr: expect.stringContaining('--out') });
  const ids = ['--ids', join(dir, 'ids.json')];
  expect(await report(...ids, '-o', join(dir, 'none', 'x.html'))).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('there is no folder'),
  });
  expect(await report(...ids, ...out, '--frontier', join(dir, 'ids.json'))).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('line 1 needs'),
  });
  expect(await report(...ids, ...out, '--recipe', join(dir, 'ids.json'))).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('is no recipe'),
  });
  expect(await report(...ids, ...out, '--sensitivity', join(dir, 'ids.json'))).toMatchObject({ code: 2 });
});
