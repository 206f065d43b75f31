// The playground as it is built, in Chromium, under its own policy and the server's: from the first look to a saved model that survives a reload.

import { existsSync } from 'node:fs';
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { hasChromium, launchBrowser, needsChromium, type PageServer, servePages, type TestBrowser } from './chromium.ts';

const BUILD = fileURLToPath(new URL('../../examples/playground/dist', import.meta.url));
const TINY_LLAMA = fileURLToPath(new URL('../../examples/tiny-llama', import.meta.url));
let server: PageServer;
let browser: TestBrowser;
let page: Page;
/** Errors of the page, violations of the policy among them, and requests to anywhere else. */
const complaints: string[] = [];

beforeAll(async () => {
  if (!hasChromium) return;
  if (!existsSync(BUILD)) throw new Error('the playground is not built: run `npx turbo run build`');
  browser = await launchBrowser();
});
afterAll(async () => {
  await browser?.[Symbol.asyncDispose]();
});

beforeEach(async (context) => {
  needsChromium(context);
  complaints.length = 0;
  server = await servePages({ '': BUILD }); // a port of its own, so that no test sees what another saved
  page = await openPage();
});
afterEach(async () => {
  await page?.close();
  await server?.[Symbol.asyncDispose]();
  expect(complaints).toEqual([]);
});

async function openPage(): Promise<Page> {
  const made = await browser.context.newPage();
  made.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  made.on('pageerror', (error) => complaints.push(error.message));
  made.on('request', (request) => {
    if (!request.url().startsWith(server.url) && !request.url().startsWith('blob:')) complaints.push(`request to ${request.url()}`);
  });
  await made.goto(server.url);
  await made.locator('.sizes').waitFor();
  return made;
}

async function quantize(name: string): Promise<void> {
  await page.fill('#name', name);
  await page.click('#quantize');
  await page.locator('#result h3', { hasText: `Saved as ${name}` }).waitFor();
}

const statsAfter = async (pattern: RegExp): Promise<string> => {
  const stats = page.locator('#chat-stats', { hasText: pattern });
  await stats.waitFor();
  return (await stats.textContent())!;
};

describe('the playground', () => {
  it('plans, quantizes, saves, talks, and gives the memory back; the model is there after a reload', async () => {
    expect(await page.locator('.pill').textContent()).toBe('Fits in memory');
    expect(await page.locator('.sizes').textContent()).toMatch(/^11\.5 MB→4\.84 MB$/);
    await page.locator('#plan summary').click();
    expect(await page.locator('#plan tbody tr').count()).toBe(8); // seven modules, and the rest

    await quantize('my-tiny');
    // 42 layers, each with its dot and its row.
    expect(await page.locator('.plot .dot title').count()).toBe(42);
    expect(await page.locator('.plot tbody tr').count()).toBe(42);
    expect(await page.locator('.plot > svg').getAttribute('aria-label')).toMatch(
      /^Relative error of 42 layers, by depth: from \d\.\d+ % .+ to \d+\.\d+ % /,
    );
    expect(await page.evaluate('document.activeElement?.textContent')).toBe('Saved as my-tiny');

    await page.reload();
    await page.getByRole('button', { name: 'Talk to my-tiny' }).click();
    await page.locator('#send').waitFor();
    await page.fill('#max-tokens', '24');
    await page.fill('#temperature', '0');
    await page.fill('#prompt', 'And the LORD said unto Moses,');
    await page.keyboard.press('Enter');
    expect(await statsAfter(/tokens\/s/)).toMatch(/: 24 tokens, \d+\.\d tokens\/s\. Holds 5\.05 MB of weights, \d+ kB of keys/);
    // The beginning that tiny-llama continues greedily, here at 4 bits.
    expect(await page.locator('.flow').textContent()).toMatch(/^And the LORD said unto Moses, \w/);
    await page.getByRole('button', { name: /^Close my-tiny/ }).click();
    expect(await statsAfter(/Closed/)).toMatch(/^Closed: \d\.\d+ MB given back, 0 B still held\.$/);

    page.once('dialog', (dialog) => dialog.accept());
    await page.getByRole('button', { name: 'Delete my-tiny' }).click();
    await page.locator('#saved-hint', { hasText: 'Nothing yet' }).waitFor();
  });

  it('stops in the middle of a text, and goes on with it', async () => {
    await page.getByRole('button', { name: 'Open the chosen model as it is' }).click();
    await page.locator('#send').waitFor();
    await page.fill('#max-tokens', '900');
    await page.click('#send');
    await page.locator('.flow .assistant', { hasText: /\w{2}/ }).waitFor();
    await page.click('#stop');
    expect(await statsAfter(/Stopped\./)).toBe('Stopped.');
    const text = (await page.locator('.flow').textContent())!;
    expect(text.length).toBeGreaterThan(30);
    await page.fill('#max-tokens', '3');
    await page.click('#send');
    expect(await statsAfter(/tokens\/s/)).toMatch(/3 tokens/);
    expect((await page.locator('.flow').textContent())!.startsWith(text)).toBe(true);
  });

  it('cancels quantizing and leaves what the same job goes on with, or nothing when it is discarded', async () => {
    await page.selectOption('#method', 'higgs'); // the slowest
    await page.locator('#plan .pill').waitFor();
    await page.fill('#name', 'half');
    // It cannot be done before it is cancelled, however busy the machine is: some weights come only then.
    let asked = 0;
    let go = (): void => {};
    const cancelled = new Promise<void>((resolve) => {
      go = resolve;
    });
    server.hold = (path) => (path.endsWith('.safetensors') && ++asked > 24 ? cancelled : undefined);
    await page.click('#quantize');
    await page.locator('#work-text', { hasText: /^[1-9]\d? % / }).waitFor();
    await page.click('#cancel');
    await page.locator('#work').waitFor({ state: 'hidden' });
    go();
    server.hold = undefined;
    await page.locator('.saved-size', { hasText: 'unfinished' }).waitFor();
    expect(await page.locator('#result').isVisible()).toBe(false);

    // Another job does not go on with it, and says so.
    await page.selectOption('#method', 'nf4');
    await page.fill('#name', 'half');
    await page.click('#quantize');
    await page.locator('#quantize-error', { hasText: 'ERR_JOURNAL_MISMATCH' }).waitFor();

    await page.selectOption('#method', 'higgs');
    await page.fill('#name', 'half');
    await page.click('#quantize');
    await page.locator('#result', { hasText: /steps were done by an earlier run/ }).waitFor();
    expect(await page.locator('.saved-size', { hasText: 'unfinished' }).count()).toBe(0);
  });

  it('opens one model at a time, also when it is asked for two at once', async () => {
    const script = server.requests.find((path) => /\/worker-[^/]*\.js$/.test(path))!;
    // The page itself asks for one at a time.
    const [first, second, closed] = (await page.evaluate(`new Promise((resolve, reject) => {
      const worker = new Worker(${JSON.stringify(script)}, { type: 'module' });
      const results = [];
      worker.onerror = reject;
      worker.onmessage = ({ data }) => {
        if (data.failure) reject(new Error(data.failure.message));
        if (data.result) results[data.id] = data.result;
        if (results.filter(Boolean).length === 3) resolve(results);
      };
      const args = { source: { kind: 'example' } };
      worker.postMessage({ id: 0, call: 'load', args });
      worker.postMessage({ id: 1, call: 'load', args });
      worker.postMessage({ id: 2, call: 'close', args: {} });
    })`)) as { readonly weights: number; readonly before: number; readonly after: number }[];
    expect(first!.weights).toBe(second!.weights);
    expect(closed!.before).toBeGreaterThan(0);
    expect(closed!.before).toBeLessThan(1.5 * second!.weights);
    expect(closed!.after).toBe(0);
  });

  it('refuses a wrong folder, and a name that is taken, with what to do', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'lowbit-wrong-'));
    try {
      await writeFile(join(folder, 'notes.txt'), 'no model');
      await page.setInputFiles('#folder-input', folder);
      const error = page.locator('#model-error');
      await error.waitFor();
      expect(await error.textContent()).toMatch(/has no config\.json\..*Pass the folder that holds it.*ERR_NOT_FOUND/);
      // The one before is let go.
      expect(await page.locator('#model-facts .model-name').count()).toBe(0);
      expect(await page.locator('#quantize').isDisabled()).toBe(true);
      const asItIs = page.getByRole('button', { name: 'Open the chosen model as it is' });
      expect(await asItIs.isDisabled()).toBe(true);

      await writeFile(join(folder, 'config.json'), '{"model_type": "llama"}');
      await writeFile(join(folder, 'model.safetensors'), 'not what it says');
      await page.setInputFiles('#folder-input', folder);
      await page.locator('#model-error', { hasText: 'ERR_BAD_SAFETENSORS' }).waitFor();
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
    await page.click('#pick-example');
    await page.locator('#model-facts .model-name', { hasText: 'tiny-llama' }).waitFor();
    expect(await page.getByRole('button', { name: 'Open the chosen model as it is' }).isDisabled()).toBe(false);
    await quantize('taken');
    await page.click('#quantize');
    await page.locator('#quantize-error', { hasText: /taken is saved already/ }).waitFor();
    await page.check('#replace');
    await page.click('#quantize');
    await page.locator('#result h3', { hasText: 'Saved as taken' }).waitFor();
  });

  it('takes a folder from the disk', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'lowbit-folder-'));
    try {
      for (const name of ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json']) {
        await copyFile(join(TINY_LLAMA, name), join(folder, name));
      }
      await page.setInputFiles('#folder-input', folder);
      await page.locator('#model-facts .model-name', { hasText: 'lowbit-folder' }).waitFor();
      await quantize('from-disk');
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  it('says that there is no room before it works, and keeps nothing of it', async () => {
    const cdp = await browser.context.newCDPSession(page);
    await cdp.send('Storage.overrideQuotaForOrigin', { origin: server.url, quotaSize: 1_000_000 });
    await page.fill('#name', 'too-large');
    await page.click('#quantize');
    const error = page.locator('#quantize-error');
    await error.waitFor();
    expect(await error.textContent()).toMatch(/no more room.*Remove saved models.*ERR_IO/);
    await page.locator('#saved-hint', { hasText: 'Nothing yet' }).waitFor();
  });

  it('works by keyboard, on a phone, and names what it shows', async () => {
    await page.setViewportSize({ width: 390, height: 844 });
    const overflow = () => page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth');
    expect(await overflow()).toBe(0);
    await page.locator('#plan summary').press('Enter');
    expect(await overflow()).toBe(0);
    await page.locator('#method').focus();
    await page.keyboard.press('Tab');
    await page.keyboard.press('ArrowRight'); // 8 bits
    await page.locator('.sizes', { hasText: '7' }).waitFor();
    await page.locator('#name').focus();
    await page.keyboard.press('Enter');
    await page.locator('#result h3').waitFor();
    expect(await overflow()).toBe(0);
    expect(await page.locator('#status').textContent()).toMatch(/^Done: 42 layers quantized/);
    // Every control has a name, and every touch target is large enough.
    const poor = await page.evaluate(`
      [...document.querySelectorAll('button, input, select, textarea')]
        .filter((element) => element.offsetParent !== null && getComputedStyle(element).opacity !== '0')
        .filter((element) => {
          const label = element.labels?.[0];
          const named = label || element.getAttribute('aria-label') || element.textContent.trim();
          return !named || Math.max(element.getBoundingClientRect().height, label?.getBoundingClientRect().height ?? 0) < 44;
        })
        .map(({ id, outerHTML }) => id || outerHTML)`);
    expect(poor).toEqual([]);
  });
});
