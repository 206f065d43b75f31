import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { ComparedLinear } from '../commands/compare.ts';
import type { QualityReport } from './data.ts';
import { frontierOf } from './frontier.ts';
import { cellsOf } from './layers.ts';
import { reportHtml } from './page.ts';
import { qualityTable } from './quality-table.ts';
import { readFrontier } from './read-frontier.ts';

const HOSTILE = '</title><script>alert(1)</script>"\'><img src=x onerror=alert(2)>&\u202e\u0007';
const score = (perplexity: number) => ({ perplexity, stderr: 0.25, nll: Math.log(perplexity), tokens: 1234, windows: 5 });
const linear = (path: string, outputError: number, snrDb: number): ComparedLinear => ({
  ...{ path, shape: [4, 64], format: '4-bit g64', bitsPerWeight: 4.5 },
  ...{ weightError: 0.01, snrDb, outputError, outputErrorStderr: 0.001, rows: 512 },
});

function report(changes: Partial<QualityReport> = {}): QualityReport {
  return {
    kind: 'lowbit report',
    version: 1,
    ...{ model: 'model-hqq4', reference: 'model', text: 'eval.txt', date: '2026-11-30' },
    comparison: {
      ...{ kl: 0.0123, klStderr: 0.0004, top1: 0.93, top1Stderr: 0.005, tokens: 1234 },
      ...{ reference: score(10), model: score(10.5), contextLength: 256, stride: 256, startToken: null, text: 'eval.txt', ms: 1 },
      size: {
        model: { bytes: 5e6, parameters: 1e7, bitsPerParameter: 6.6, bitsPerWeight: 4.5 },
        reference: { bytes: 2e7, parameters: 1e7, bitsPerParameter: 16, bitsPerWeight: null },
      },
      linears: [
        linear('model.layers.0.mlp.up_proj', 0.01, 20),
        linear('model.layers.1.mlp.up_proj', 0.03, 25),
        linear('lm_head', 0.02, 30),
      ],
      backend: { name: 'cpu', device: 'CPU', why: null },
    },
    sensitivities: [{ path: 'model.layers.0.mlp.up_proj', sensitivity: 0.5 }],
    frontier: [{ name: 'nf4', bitsPerWeight: 4.5, kl: 0.02, klStderr: 0.001 }],
    recipe: '{ "method": "hqq" }',
    samples: [{ prompt: 'Once', original: ' upon a time', quantized: ' upon a hill' }],
    ...changes,
  };
}

describe('reportHtml', () => {
  it('is the same for the same data, and shows all of it', () => {
    const html = reportHtml(report());
    expect(reportHtml(report())).toBe(html);
    for (const part of [
      '0.0123 ± 0.00040',
      '10.500 ± 0.250',
      'Loss against size',
      'Errors by layer',
      'Errors of weights',
      'What errors would cost',
    ]) {
      expect(html).toContain(part);
    }
    expect(html).toContain('<p class="text"> upon a <mark>time</mark></p>');
    expect(html).toContain('nf4: KL 0.0200 at 4.50 bits');
  });

  it('asks for nothing and runs nothing: no scripts, addresses or inline styles, and a policy that allows its one style sheet', () => {
    const html = reportHtml(report());
    expect(html).not.toMatch(/<script|<link|<img|<iframe|\ssrc=|\shref=|\sstyle=|\son\w+=|url\(|@import|https?:/i);
    const style = /<style>([\s\S]*)<\/style>/.exec(html)![1]!;
    const digest = createHash('sha256').update(style).digest('base64');
    expect(html).toContain(`content="default-src 'none'; style-src 'sha256-${digest}'; base-uri 'none'; form-action 'none'"`);
  });

  it('takes names of strangers for text, wherever they are', () => {
    const tags = (html: string): readonly string[] => [...html.matchAll(/<\/?([a-z0-9]+)/gi)].map(([, name]) => name!);
    const comparison = report().comparison;
    const hostile = report({
      ...{ model: HOSTILE, reference: HOSTILE, text: HOSTILE, date: HOSTILE, recipe: HOSTILE },
      comparison: {
        ...comparison,
        linears: comparison.linears!.map((one) => ({ ...one, path: one.path.replace('mlp', HOSTILE) })),
        backend: { name: HOSTILE, device: HOSTILE, why: null },
      },
      sensitivities: [{ path: `model.layers.0.${HOSTILE}`, sensitivity: 1 }],
      frontier: [{ name: HOSTILE, bitsPerWeight: 4, kl: 0.01, klStderr: 0 }],
      samples: [{ prompt: HOSTILE, original: HOSTILE, quantized: `${HOSTILE}, again` }],
    });
    const html = reportHtml(hostile);
    for (const part of ['<script', '<img', '\u202e', '\u0007']) expect(html).not.toContain(part);
    expect(html).toContain('&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&gt;');
    expect(new Set(tags(html))).toEqual(new Set([...tags(reportHtml(report()))]));
  });

  it('leaves out what there is nothing of', () => {
    const { linears: _, ...comparison } = report().comparison;
    const html = reportHtml(report({ comparison: { ...comparison, kl: 0 }, sensitivities: [], frontier: [], recipe: null, samples: [] }));
    expect(html.match(/<h2>[^<]*/g)).toEqual(['<h2>What was lost', '<h2>Loss against size']);
    expect(html).toContain('Nothing was lost that could be measured.');
    expect(html).not.toContain('NaN');
  });
});

it('the frontier has what no other model beats in both', () => {
  const point = (name: string, bitsPerWeight: number, kl: number) => ({ name, bitsPerWeight, kl, klStderr: 0 });
  const points = [point('a', 4.5, 0.1), point('b', 4.5, 0.05), point('c', 3, 0.4), point('d', 5, 0.06), point('e', 8, 0.001)];
  expect(frontierOf(points).map(({ name }) => name)).toEqual(['c', 'b', 'e']);
});

it('experts of a layer are one cell, layers without a number have their own', () => {
  const cells = cellsOf([
    { path: 'model.layers.3.mlp.experts.0.w1', value: 1 },
    { path: 'model.layers.3.mlp.experts.11.w1', value: 3 },
    { path: 'lm_head', value: 5 },
  ]);
  expect(cells).toEqual([
    { layer: 3, kind: 'mlp.experts.*.w1', value: 2, count: 2 },
    { layer: -1, kind: 'lm_head', value: 5, count: 1 },
  ]);
});

it('the rows of a model card are of the same data', () => {
  expect(qualityTable(report().comparison)).toEqual([
    ['KL divergence, nats per token (1,234 tokens)', '0', '0.0123 ± 0.00040'],
    ['same likeliest token', '100 %', '93.00 ± 0.50 %'],
    ['perplexity', '10.000 ± 0.250', '10.500 ± 0.250'],
    ['bits per weight, scales included', '16.00', '4.50 (6.60 over everything)'],
    ['size', '20.0 MB', '5.00 MB'],
  ]);
});

describe('readFrontier', () => {
  it('takes rows of the benchmark, but for the original', () => {
    const rows = [
      { quantizer: 'original', bitsPerWeight: 16, kl: 0, klStderr: 0 },
      { quantizer: 'nf4', bitsPerWeight: 4.5, kl: 0.02, klStderr: 0.001, model: 'x' },
    ];
    expect(readFrontier(`${rows.map((row) => JSON.stringify(row)).join('\n')}\n\n`, 'f')).toEqual([
      { name: 'nf4', bitsPerWeight: 4.5, kl: 0.02, klStderr: 0.001 },
    ]);
  });

  it.each([
    ['not JSON', '{', /f: line 1 is not JSON/],
    ['a list', '[]', /f: line 1 is no object/],
    ['a number too few', '\n{"quantizer":"a","bitsPerWeight":4,"kl":1}', /f: line 2 needs/],
    ['an infinite number', '{"quantizer":"a","bitsPerWeight":4,"kl":1e999,"klStderr":0}', /f: line 1 needs/],
    ['bits that no plot has room for', '{"quantizer":"a","bitsPerWeight":1e300,"kl":1,"klStderr":0}', /f: line 1 needs/],
    ['a name without end', JSON.stringify({ quantizer: 'a'.repeat(300), bitsPerWeight: 4, kl: 1, klStderr: 0 }), /f: line 1 needs/],
  ])('refuses %s', (_what, text, message) => {
    expect(() => readFrontier(text, 'f')).toThrow(
      expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringMatching(message) }),
    );
  });
});
