// The playground where things go wrong that a page cannot help: no GPU, a GPU that is lost, a full disk, a tab that is closed, no memory.

import { existsSync } from 'node:fs';
import { copyFile, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { hasChromium, launchBrowser, needsChromium, type PageServer, SOFTWARE_GPU, servePages, type TestBrowser } from './chromium.ts';

const BUILD = fileURLToPath(new URL('../../examples/playground/dist', import.meta.url));
const TINY_LLAMA = fileURLToPath(new URL('../../examples/tiny-llama', import.meta.url));
let server: PageServer;

async function openPage({ context }: TestBrowser, query = ''): Promise<Page> {
  const page = await context.newPage();
  await page.goto(`${server.url}/${query}`);
  await page.locator('.sizes').waitFor();
  return page;
}

const textOf = async (page: Page, selector: string): Promise<string> => {
  const found = page.locator(selector);
  await found.waitFor();
  return (await found.textContent())!;
};

async function openAsItIs(page: Page): Promise<string> {
  await page.getByRole('button', { name: 'Open the chosen model as it is' }).click();
  await page.locator('#send').waitFor();
  return textOf(page, '.chat-model');
}

async function openAgain(page: Page): Promise<void> {
  await page.getByRole('button', { name: 'Open it again' }).click();
  await page.locator('#send:visible, #chat-error:visible').waitFor();
  expect(await page.locator('#chat-error').textContent()).toBe('');
}

async function write(page: Page, tokens: number): Promise<string> {
  await page.fill('#max-tokens', String(tokens));
  await page.fill('#prompt', 'It was a fine morning, and');
  await page.click('#send');
  const stats = page.locator('#chat-stats', { hasText: /tokens\/s/ });
  await stats.waitFor();
  return (await stats.textContent())!;
}

/** Quantizes as far as some weights, which come only when the returned function is called. */
async function quantizeHalf(page: Page, name: string): Promise<() => void> {
  await page.fill('#name', name);
  let asked = 0;
  let go = (): void => {};
  const released = new Promise<void>((resolve) => {
    go = resolve;
  });
  server.hold = (path) => (path.endsWith('.safetensors') && ++asked > 24 ? released : undefined);
  await page.click('#quantize');
  await page.locator('#work-text', { hasText: /^[1-9]\d? % / }).waitFor();
  return () => {
    server.hold = undefined;
    go();
  };
}

const saved = (page: Page): Promise<string[]> => page.locator('.saved li').allTextContents();

/** Ends the browser's GPU process, as a driver that fails does. */
async function crashGpu({ context }: TestBrowser): Promise<void> {
  const session = await context.browser()!.newBrowserCDPSession();
  await session.send('Browser.crashGpuProcess');
}

beforeEach(async (context) => {
  needsChromium(context);
  if (!existsSync(BUILD)) throw new Error('the playground is not built: run `npx turbo run build`');
  server = await servePages({ '': BUILD });
});
afterEach(async () => {
  await server?.[Symbol.asyncDispose]();
});

describe('without a GPU', () => {
  let browser: TestBrowser;
  let page: Page;
  beforeAll(async () => {
    if (hasChromium) browser = await launchBrowser();
  });
  afterAll(async () => {
    await browser?.[Symbol.asyncDispose]();
  });
  afterEach(async () => {
    await page?.close();
  });

  it('says what takes its place, before a model is opened and when it is', async () => {
    page = await openPage(browser);
    const place = page.locator('#place', { hasText: 'No GPU' });
    await place.waitFor();
    expect(await place.textContent()).toMatch(
      /^No GPU to run models on: .+\. They run in plain TypeScript here, .*slowly\. Turn on hardware acc/,
    );
    expect(await openAsItIs(page)).toMatch(/reference backend.*plain TypeScript, and slow/);
  });

  it('puts nothing in its place where the address allows nothing else', async () => {
    page = await browser.context.newPage();
    await page.goto(`${server.url}/?run=gpu`);
    const place = page.locator('#place', { hasText: 'No GPU' });
    await place.waitFor();
    expect(await place.textContent()).toMatch(/^No GPU .*allows nothing else/);
    expect(await textOf(page, '#plan-error')).toMatch(/ERR_BACKEND_UNAVAILABLE/);
    await page.getByRole('button', { name: 'Open the chosen model as it is' }).click();
    expect(await textOf(page, '#chat-error')).toMatch(/ERR_BACKEND_UNAVAILABLE/);
    expect(await page.locator('#composer').isVisible()).toBe(false);
  });

  it('a disk that is full in the middle of saving leaves no model, and the same job goes on when there is room', async () => {
    page = await openPage(browser);
    const cdp = await browser.context.newCDPSession(page);
    const quota = (quotaSize?: number) =>
      cdp.send('Storage.overrideQuotaForOrigin', { origin: server.url, ...(quotaSize === undefined ? {} : { quotaSize }) });
    const go = await quantizeHalf(page, 'full');
    await quota(1000);
    go();
    // What was taken when it began is enough for the weights; the other files come last.
    const said = await textOf(page, '#quantize-error');
    expect(said).toMatch(/no more room.*Remove saved models.*ERR_IO/);
    expect(await page.locator('#result').isVisible()).toBe(false);
    expect(await saved(page)).toEqual([expect.stringMatching(/^fullunfinished, /)]);
    expect(await page.getByRole('button', { name: 'Talk to full' }).count()).toBe(0);
    await page.reload();
    await page.locator('.saved-size', { hasText: 'unfinished' }).waitFor();
    await quota();
    await page.locator('.sizes').waitFor();
    await page.fill('#name', 'full');
    await page.click('#quantize');
    await page.locator('#result', { hasText: /steps were done by an earlier run/ }).waitFor();
    expect(await saved(page)).toEqual([expect.not.stringContaining('unfinished')]);
  });

  it('a tab that is closed in the middle of saving leaves no model, and another goes on', async () => {
    page = await openPage(browser);
    const go = await quantizeHalf(page, 'closed');
    await page.close();
    go();
    page = await openPage(browser);
    await page.locator('.saved-size', { hasText: 'unfinished' }).waitFor();
    expect(await page.getByRole('button', { name: 'Talk to closed' }).count()).toBe(0);
    await page.fill('#name', 'closed');
    await page.click('#quantize');
    await page.locator('#result', { hasText: /steps were done by an earlier run/ }).waitFor();
    await page.getByRole('button', { name: 'Talk to it' }).click();
    await page.locator('#send').waitFor();
    expect(await write(page, 3)).toMatch(/3 tokens/);
  });

  it('a weight that there is no memory for is said to be one, and nothing of it is held', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'lowbit-huge-'));
    try {
      await hugeModel(folder);
      page = await openPage(browser);
      await page.setInputFiles('#folder-input', folder);
      await page.locator('.pill', { hasText: 'Does not fit in memory' }).waitFor();
      await page.getByRole('button', { name: 'Open the chosen model as it is' }).click();
      expect(await textOf(page, '#chat-error')).toMatch(/no memory.*(?:smaller model|fewer bits).*ERR_LIMIT/);
      expect(await page.locator('#composer').isVisible()).toBe(false);
      await page.click('#pick-example');
      await page.locator('#model-facts .model-name', { hasText: 'tiny-llama' }).waitFor();
      await openAsItIs(page);
      expect(await write(page, 3)).toMatch(/3 tokens/);
      await page.getByRole('button', { name: /^Close/ }).click();
      await page.locator('#chat-stats', { hasText: /given back, 0 B still held/ }).waitFor();
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});

/** A Llama with a vocabulary of ten million words: 40 GB of zeros, which take no room on the disk. */
async function hugeModel(folder: string): Promise<void> {
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) await copyFile(join(TINY_LLAMA, name), join(folder, name));
  const [words, hidden, inner] = [10_000_000, 2048, 64];
  const shapes: Readonly<Record<string, readonly number[]>> = {
    'model.embed_tokens.weight': [words, hidden],
    'model.norm.weight': [hidden],
    'model.layers.0.input_layernorm.weight': [hidden],
    'model.layers.0.post_attention_layernorm.weight': [hidden],
    'model.layers.0.self_attn.q_proj.weight': [64, hidden],
    'model.layers.0.self_attn.k_proj.weight': [64, hidden],
    'model.layers.0.self_attn.v_proj.weight': [64, hidden],
    'model.layers.0.self_attn.o_proj.weight': [hidden, 64],
    'model.layers.0.mlp.gate_proj.weight': [inner, hidden],
    'model.layers.0.mlp.up_proj.weight': [inner, hidden],
    'model.layers.0.mlp.down_proj.weight': [hidden, inner],
  };
  const header: Record<string, unknown> = {};
  let at = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const bytes = 2 * shape.reduce((product, size) => product * size, 1);
    header[name] = { dtype: 'BF16', shape, data_offsets: [at, at + bytes] };
    at += bytes;
  }
  const text = Buffer.from(JSON.stringify(header));
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(text.byteLength));
  const file = await open(join(folder, 'model.safetensors'), 'w');
  await file.write(Buffer.concat([head, text]));
  await file.truncate(8 + text.byteLength + at);
  await file.close();
  const config = {
    ...{ model_type: 'llama', architectures: ['LlamaForCausalLM'], hidden_size: hidden, intermediate_size: inner, num_hidden_layers: 1 },
    ...{ num_attention_heads: 1, num_key_value_heads: 1, head_dim: 64, vocab_size: words, max_position_embeddings: 64, rms_norm_eps: 1e-5 },
    ...{ hidden_act: 'silu', tie_word_embeddings: true, torch_dtype: 'bfloat16' },
  };
  await writeFile(join(folder, 'config.json'), JSON.stringify(config));
}

describe('with a GPU that is lost', () => {
  let browser: TestBrowser;
  let page: Page;
  beforeEach(async () => {
    browser = await launchBrowser({ args: SOFTWARE_GPU }); // one that was lost is not given again to the same browser for a while
    page = await openPage(browser, '?run=software-gpu');
    page.setDefaultTimeout(150_000); // shaders are compiled and run on the processor
  });
  afterEach(async () => {
    await browser?.[Symbol.asyncDispose]();
  });

  it('in the middle of a text: it says so, keeps what was written, opens again, and gives the memory back', async () => {
    expect(await textOf(page, '#place')).toMatch(/^Models run on the GPU: /);
    expect(await openAsItIs(page)).toMatch(/on the webgpu backend/);
    await page.fill('#max-tokens', '900');
    await page.click('#send');
    await page.locator('.flow .assistant', { hasText: /\w{2}/ }).waitFor();
    const seen = await textOf(page, '.flow');
    expect(seen).toMatch(/^It was a fine morning, and .*\w{2}/);
    await crashGpu(browser);
    expect(await textOf(page, '#chat-error')).toMatch(/was lost.*starts afresh.*ERR_DEVICE/);
    expect((await textOf(page, '.flow')).slice(0, seen.length)).toBe(seen);
    expect(await page.locator('#composer').isVisible()).toBe(false);
    await openAgain(page);
    expect(await textOf(page, '.chat-model')).toMatch(/on the webgpu backend|on the reference backend.*slow/);
    expect(await write(page, 3)).toMatch(/3 tokens/);
    await page.getByRole('button', { name: /^Close/ }).click();
    await page.locator('#chat-stats', { hasText: /given back, 0 B still held/ }).waitFor();
  });

  it('while nothing is asked of it: the next text says so', async () => {
    await openAsItIs(page);
    await crashGpu(browser);
    await page.fill('#max-tokens', '3');
    await page.click('#send');
    expect(await textOf(page, '#chat-error')).toMatch(/was lost.*ERR_DEVICE/);
    await openAgain(page);
    expect(await write(page, 3)).toMatch(/3 tokens/);
  });

  it('in the middle of quantizing: no model of it, and the same job goes on', async () => {
    const go = await quantizeHalf(page, 'lost');
    await crashGpu(browser);
    go();
    expect(await textOf(page, '#quantize-error')).toMatch(/was lost.*ERR_DEVICE/);
    expect(await saved(page)).toEqual([expect.stringMatching(/^lostunfinished, /)]);
    // Without the GPU, which is slow here: the bytes are the same, and so is the job.
    await page.goto(`${server.url}/?run=plain`);
    await page.locator('.sizes').waitFor();
    await page.fill('#name', 'lost');
    await page.click('#quantize');
    await page.locator('#result', { hasText: /steps were done by an earlier run/ }).waitFor();
  });
});
