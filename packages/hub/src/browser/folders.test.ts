// Folders of a browser that Node can try, too: files, and addresses on a server that misbehaves. The rest is tested in Chromium (e2e/browser).

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { failure, rawFile } from '../testing.node.ts';
import { filesFolder } from './blob-folder.ts';
import { openCheckpoint } from './quantize.ts';
import { urlFolder } from './url-folder.ts';

const HEADER = '{"a.weight":{"dtype":"U8","shape":[2,600000],"data_offsets":[0,1200000]}}';
const WEIGHTS = rawFile(HEADER, 1_200_000).map((byte, i) => (i < HEADER.length + 8 ? byte : i % 251));
const CONFIG = new TextEncoder().encode('{"model_type": "llama"}');

function file(name: string, data: Uint8Array, path = '') {
  return Object.assign(new Blob([data as Uint8Array<ArrayBuffer>]), { name, lastModified: 1, webkitRelativePath: path });
}

describe('chosen files', () => {
  it('are a folder, with or without its own name in front, and give ranges', async () => {
    for (const top of ['', 'my-model/']) {
      const folder = filesFolder([
        file('config.json', CONFIG, top && `${top}config.json`),
        file('model.safetensors', WEIGHTS, top && `${top}model.safetensors`),
      ]);
      expect(folder.path).toBe(top ? 'my-model' : 'the chosen files');
      await using checkpoint = await openCheckpoint(folder);
      const { data } = await checkpoint.source.read('a.weight', { range: [1000, 1010] });
      expect(data).toEqual(WEIGHTS.slice(HEADER.length + 8 + 1000, HEADER.length + 8 + 1010));
    }
  });

  it('are refused where there is no list of them', async () => {
    for (const call of [() => filesFolder(undefined as never), () => urlFolder('http://localhost/', {} as never)])
      expect((await failure(call)).code).toBe('ERR_BAD_ARGUMENT');
  });

  it('are refused by name: none, no config.json, names out of the folder', async () => {
    expect((await failure(() => filesFolder([]))).code).toBe('ERR_NOT_FOUND');
    expect((await failure(() => openCheckpoint(filesFolder([file('notes.txt', CONFIG)])))).message).toMatch(/no config\.json/);
    const index = new TextEncoder().encode('{"weight_map": {"a.weight": "../secret.safetensors"}}');
    const folder = filesFolder([file('config.json', CONFIG), file('model.safetensors.index.json', index)]);
    expect(await failure(() => openCheckpoint(folder))).toMatchObject({
      code: 'ERR_BAD_CHECKPOINT',
      message: expect.stringMatching(/not a plain name inside/),
    });
  });
});

describe('addresses', () => {
  let url: string;
  let behave: (request: IncomingMessage, response: ServerResponse) => void;
  const asked: (string | undefined)[] = [];
  const server = createServer((request, response) => {
    asked.push(request.headers.range);
    behave(request, response);
  });
  beforeAll(async () => {
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/model`;
  });
  afterAll(() => new Promise((done) => server.close(done)));

  function serve({ url: path, headers: { range } }: IncomingMessage, response: ServerResponse, tag = '"1"'): void {
    const data = path!.endsWith('config.json') ? CONFIG : WEIGHTS;
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [];
    response.setHeader('etag', tag);
    if (from === undefined) return void response.end(data);
    response.writeHead(206, { 'content-range': `bytes ${from}-${to}/${data.byteLength}` });
    response.end(data.subarray(Number(from), Number(to) + 1));
  }
  const open = () =>
    openCheckpoint(urlFolder(url, { files: { 'config.json': CONFIG.byteLength, 'model.safetensors': WEIGHTS.byteLength } }));

  it('are read in ranges, no byte more than asked for', async () => {
    behave = serve;
    asked.length = 0;
    await using checkpoint = await open();
    await checkpoint.source.read('a.weight', { range: [5, 25] });
    const start = HEADER.length + 8;
    expect(asked).toEqual([undefined, 'bytes=0-7', `bytes=8-${start - 1}`, `bytes=${start + 5}-${start + 24}`]);
  });

  it.each<[string, typeof serve, string, RegExp]>([
    [
      'that ignores ranges',
      (_, response) => void response.end(_.url!.endsWith('config.json') ? CONFIG : WEIGHTS),
      'ERR_IO',
      /ignores range requests/,
    ],
    ['that answers with an error', (_, response) => void response.writeHead(500).end(), 'ERR_IO', /answers 500/],
    ['that redirects', (_, response) => void response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end(), 'ERR_IO', /redirects/],
    [
      'whose file is another one',
      (_, response) => void response.end('{"model_type": "gemma2"}'),
      'ERR_BAD_CHECKPOINT',
      /more than the 23 bytes/,
    ],
    [
      'whose file changes',
      (request, response) => serve(request, response, `"${asked.length}"`),
      'ERR_BAD_CHECKPOINT',
      /changed while it was read/,
    ],
    [
      'that sends another range',
      (request, response) => {
        if (request.headers.range === undefined) return serve(request, response);
        response.writeHead(206, { 'content-range': `bytes 0-7/${WEIGHTS.byteLength}` }).end(WEIGHTS.subarray(0, 8));
      },
      'ERR_IO',
      /other bytes than were asked for/,
    ],
    [
      'that does not say which bytes it sends',
      (request, response) =>
        request.headers.range === undefined ? serve(request, response) : void response.writeHead(206).end(WEIGHTS.subarray(0, 8)),
      'ERR_IO',
      /other bytes than were asked for/,
    ],
    [
      'that breaks off',
      (_, response) => {
        response.writeHead(200, { 'content-length': CONFIG.byteLength }).write(CONFIG.subarray(0, 5), () => response.destroy());
      },
      'ERR_IO',
      /the connection broke/,
    ],
    [
      'that sends a range that is too short',
      (request, response) => {
        const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
        if (from === undefined) return serve(request, response);
        response.writeHead(206, { 'content-range': `bytes ${from}-${to}/${WEIGHTS.byteLength}` }).end('1');
      },
      'ERR_IO',
      /1 bytes came, 8 were asked for/,
    ],
  ])('of a server %s: a typed error', async (_, wrong, code, message) => {
    behave = wrong;
    expect(await failure(open)).toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('of a server that sends without an end: what is too much ends the connection', async () => {
    const ended = new Promise<void>((done) => {
      behave = (_, response) => {
        response.on('close', done);
        const more = (): void => {
          if (response.destroyed) return;
          response.write(new Uint8Array(65_536), more);
        };
        more();
      };
    });
    expect(await failure(open)).toMatchObject({ code: 'ERR_BAD_CHECKPOINT', message: expect.stringMatching(/more than the 23 bytes/) });
    await ended; // never, where all of it is waited for
  });
});
