// Microseconds that the thread of JavaScript takes to write the commands of a token for the WebGPU backend, and what they are: node bench/encode-webgpu.mjs
// [folder of a model, default examples/tiny-llama] [tokens, default 64]. Needs the built packages and an adapter; software will do: what is timed is not the GPU.

import { existsSync } from 'node:fs';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { createRuntime } from '../packages/core/dist/index.js';
import { openCheckpoint } from '../packages/hub/dist/index.js';
import { webgpu } from '../packages/kernels-webgpu/dist/index.js';
import { loadModel } from '../packages/models/dist/index.js';

const [folder = fileURLToPath(new URL('../examples/tiny-llama', import.meta.url)), tokens = '64'] = process.argv.slice(2);
const driver = '/usr/lib/chromium/vk_swiftshader_icd.json';
if (process.env.VK_DRIVER_FILES === undefined && existsSync(driver)) {
  process.env.VK_DRIVER_FILES = driver;
  process.env.XDG_RUNTIME_DIR ??= '/tmp';
}

const steps = [];
const provider = webgpu({
  software: true,
  selfTest: false,
  dawn: ['disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension'],
});
const watched = {
  ...provider,
  async open(options) {
    const backend = await provider.open(options);
    const compile = backend.compile.bind(backend);
    backend.compile = async (...given) => {
      const executable = await compile(...given);
      const step = executable.step.bind(executable);
      executable.step = async (batch, ...rest) => {
        const outputs = await step(batch, ...rest);
        if (batch.length === 1 && batch[0].tokens.length === 1) steps.push({ ...executable.costs });
        return outputs;
      };
      return executable;
    };
    return backend;
  },
};

const runtime = await createRuntime({ backends: [watched] });
const checkpoint = await openCheckpoint(folder);
const model = await loadModel(checkpoint, { runtime });
try {
  await model.generate({ prompt: 'It was a fine morning, and', maxTokens: Number(tokens), temperature: 0, ignoreEos: true });
} finally {
  await model[Symbol.asyncDispose]();
  await checkpoint[Symbol.asyncDispose]();
}
const backend = await runtime.backend('webgpu');
const timed = steps.slice(8).sort((a, b) => a.encode - b.encode); // the first ones compile the JavaScript
const at = (part) => timed[Math.floor(part * (timed.length - 1))];
const { encode, dispatches, submits, read } = at(0.5);
console.log(`${backend.device.label}; ${cpus()[0].model}; ${folder}: ${timed.length} tokens`);
console.log(
  `encode and submit: ${encode.toFixed(0)} us a token (${at(0.1).encode.toFixed(0)} to ${at(0.9).encode.toFixed(0)}, tenth to ninetieth percentile), ${dispatches} dispatches, ${(encode / dispatches).toFixed(2)} us each, ${submits} submit, ${read} bytes back`,
);
await runtime[Symbol.asyncDispose]();
