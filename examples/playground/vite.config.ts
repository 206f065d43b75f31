// The page is built to run from its own files alone: the example model is copied beside it, and a content security policy forbids everything else.

import { createReadStream, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defineConfig, type Plugin } from 'vite';

const MODEL = fileURLToPath(new URL('../tiny-llama', import.meta.url));
const AT = 'models/tiny-llama';
const POLICY = [
  "default-src 'self'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "worker-src 'self'",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'none'",
].join('; ');

const modelFiles = (): string[] => readdirSync(MODEL).filter((name) => /\.(?:json|safetensors)$/.test(name));
/** Servers do not tell what is in a folder. */
const manifest = (): string => JSON.stringify(Object.fromEntries(modelFiles().map((name) => [name, statSync(join(MODEL, name)).size])));

function exampleModel(): Plugin {
  return {
    name: 'example-model',
    configureServer(server) {
      server.middlewares.use((request, response, next) => {
        const name = request.url?.split('?')[0]?.match(/\/models\/tiny-llama\/([\w.-]+)$/)?.[1];
        if (name === 'files.json') return void response.end(manifest());
        if (name === undefined || !modelFiles().includes(name)) return next();
        const path = join(MODEL, name);
        const { size } = statSync(path);
        const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
        if (from === undefined) return void createReadStream(path).pipe(response);
        response.writeHead(206, { 'content-range': `bytes ${from}-${to}/${size}` });
        createReadStream(path, { start: Number(from), end: Number(to) }).pipe(response);
      });
    },
    generateBundle() {
      this.emitFile({ type: 'asset', fileName: `${AT}/files.json`, source: manifest() });
      for (const name of modelFiles()) this.emitFile({ type: 'asset', fileName: `${AT}/${name}`, source: readFileSync(join(MODEL, name)) });
    },
  };
}

function contentPolicy(): Plugin {
  return {
    name: 'content-policy',
    apply: 'build', // the development server injects scripts and styles
    transformIndexHtml: () => [
      { tag: 'meta', attrs: { 'http-equiv': 'Content-Security-Policy', content: POLICY }, injectTo: 'head-prepend' },
    ],
  };
}

const config: ReturnType<typeof defineConfig> = defineConfig({
  base: './',
  plugins: [exampleModel(), contentPolicy()],
  worker: { format: 'es' },
  build: { target: 'es2022', modulePreload: { polyfill: false }, assetsInlineLimit: 0, chunkSizeWarningLimit: 700 },
});
export default config;
