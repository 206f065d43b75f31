// What a page needs to run a model: bundlers build it, and its tokens are compared with those of Node.
import { createRuntime, referenceBackend } from '@lowbit/core';
import { openCheckpoint, urlFolder } from '@lowbit/hub';
import { llama, loadModel } from '@lowbit/models';

async function main() {
  const runtime = await createRuntime({ backends: [referenceBackend()] });
  const checkpoint = await openCheckpoint(urlFolder('/model/', { files: globalThis.files }));
  const model = await loadModel(checkpoint, { runtime, adapters: [llama] });
  await checkpoint[Symbol.asyncDispose]();
  const { ids } = await model.generate({ prompt: globalThis.prompt, maxTokens: 12, temperature: 0 });
  await model[Symbol.asyncDispose]();
  globalThis.left = (await runtime.backend()).allocated();
  await runtime[Symbol.asyncDispose]();
  globalThis.ids = ids;
}

main().catch((error) => {
  globalThis.failure = String(error.message);
});
