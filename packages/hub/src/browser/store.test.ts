// What a browser does not do when it is asked to: a storage that fails at a certain moment, which Node gives out. The rest is tested in Chromium
// (e2e/browser).

import { afterEach, expect, it, vi } from 'vitest';
import { failure } from '../testing.node.ts';
import { openBrowserStore, WHOLE_FILE } from './store.ts';

afterEach(() => vi.unstubAllGlobals());

/** A site with one whole model in its Cache API. `failing` is asked before each list of what there is. */
function site(model: string, failing: () => boolean): { readonly held: Map<string, number> } {
  const files = new Map([[`https://lowbit.invalid/${encodeURIComponent(`${model}@1`)}/${WHOLE_FILE}`, '0']]);
  const held = new Map<string, number>();
  vi.stubGlobal('caches', {
    open: async () => ({
      match: async (url: string) => (files.has(url) ? new Response(files.get(url)) : undefined),
      delete: async (url: string) => files.delete(url),
      async keys() {
        if (failing()) throw new DOMException('its storage was cleared', 'InvalidStateError');
        return [...files.keys()].map((url) => ({ url }));
      },
    }),
  });
  vi.stubGlobal('navigator', {
    locks: {
      async request(name: string, { mode }: { mode: string }, use: (lock: object | null) => Promise<void> | void) {
        const others = held.get(name) ?? 0;
        if (mode === 'exclusive' && others > 0) return use(null);
        held.set(name, others + 1);
        await use({});
        held.set(name, held.get(name)! - 1);
      },
    },
  });
  return { held };
}

it('a model whose files cannot be listed is not held: it can be opened and removed later', async () => {
  let asked = 0;
  // Folders, their files, and the files once more under the lock.
  const { held } = site('one', () => ++asked === 3);
  const store = await openBrowserStore({ kind: 'cache' });
  expect(await failure(() => store.folder('one'))).toMatchObject({ code: 'ERR_IO', message: expect.stringMatching(/cannot open one/) });
  expect(asked).toBe(3);
  expect([...held.values()]).toEqual([0]);
  {
    await using folder = await store.folder('one');
    expect(folder.path).toBe('one');
    expect((await failure(() => store.remove('one'))).code).toBe('ERR_IO');
  }
  await store.remove('one');
  expect((await failure(() => store.folder('one'))).code).toBe('ERR_NOT_FOUND');
});

it('a name that none can have is refused with a remedy', async () => {
  expect(await failure(() => openBrowserStore({ name: 'a/b' }))).toMatchObject({
    code: 'ERR_BAD_ARGUMENT',
    hint: expect.stringContaining('dashes'),
  });
});
