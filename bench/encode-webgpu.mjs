// What the thread of JavaScript takes to write the commands of a token for the WebGPU backend, and what they are: node bench/encode-webgpu.mjs
// [folder of a model, default examples/tiny-llama] [tokens, default 64]. Needs the built packages and an adapter; software will do: what is timed is not the GPU.
//
// Processor time of that thread (Linux keeps it), not the clock: neither other work on the machine nor a software adapter's threads are in it. After each token as many empty dispatches as the token had are recorded and
// submitted on the same device, each with its pipeline and bind group: the least that so many dispatches cost here. The ratio of the two stands on any machine.

import { readFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';
import { createRuntime } from '../packages/core/dist/index.js';
import { openCheckpoint } from '../packages/hub/dist/index.js';
import { webgpu } from '../packages/kernels-webgpu/dist/index.js';
import { loadModel } from '../packages/models/dist/index.js';
import { DAWN } from './software-adapter.mjs';
import { median, quartiles } from './spread.mjs';

const [folder = fileURLToPath(new URL('../examples/tiny-llama', import.meta.url)), tokens = '64'] = process.argv.slice(2);

const nap = new Int32Array(new SharedArrayBuffer(4));
/** Milliseconds of processor time of this thread. Linux brings the count up to date when a thread gives way, so it does for a moment. */
const processor = () => {
  Atomics.wait(nap, 0, 0, 0.01);
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'latin1').split(' ')[0]) / 1e6;
};
/** Microseconds of looking. */
const look = median(Array.from({ length: 301 }, () => -(processor() - processor()) * 1000));
// The backend times itself with this.
performance.now = processor;

const dawn = await import(new URL('../packages/kernels-webgpu/node_modules/webgpu/index.js', import.meta.url).href);
const gpu = dawn.create(DAWN);
const adapter = await gpu.requestAdapter();
const features = ['subgroups', 'shader-f16'].filter((name) => adapter.features.has(name));
const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
const device = await adapter.requestDevice({ requiredFeatures: features, requiredLimits: { maxBufferSize, maxStorageBufferBindingSize } });

const module = device.createShaderModule({
  code: '@group(0) @binding(0) var<uniform> P: vec4<u32>;\n@compute @workgroup_size(64) fn main() { _ = P.x; }',
});
const empty = await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint: 'main' } });
const uniform = device.createBuffer({ size: 16, usage: 64 });
const group = device.createBindGroup({
  layout: empty.getBindGroupLayout(0),
  entries: [{ binding: 0, resource: { buffer: uniform } }],
});

/** Microseconds for so many empty dispatches and their submit. */
async function floor(count) {
  const began = processor();
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (let i = 0; i < count; i++) {
    pass.setPipeline(empty);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(1);
  }
  pass.end();
  device.queue.submit([encoder.finish()]);
  const us = (processor() - began) * 1000 - look;
  await device.queue.onSubmittedWorkDone();
  return us;
}

const steps = [];
const provider = webgpu({ device, features, selfTest: false });
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
        if (batch.length === 1 && batch[0].tokens.length === 1) {
          const costs = { ...executable.costs };
          steps.push({ ...costs, encode: costs.encode - look, floor: await floor(costs.dispatches) });
        }
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
const timed = steps.slice(8); // the first ones compile the JavaScript
const spread = (of) => {
  const [quarter, half, most] = quartiles(timed.map(of));
  return { half, text: (digits) => `${half.toFixed(digits)} (quartiles ${quarter.toFixed(digits)} to ${most.toFixed(digits)})` };
};
const { dispatches, submits, read } = timed.at(-1);
const encode = spread((step) => step.encode);
console.log(
  `${backend.device.label} ${backend.device.features.join(' ')}; ${cpus()[0].model}, load ${loadavg()[0].toFixed(0)}; Node ${process.version}`,
);
console.log(`${folder}: ${timed.length} tokens, ${dispatches} dispatches, ${submits} submit, ${read} bytes back`);
console.log(`encode and submit: ${encode.text(0)} us of processor time a token, ${(encode.half / dispatches).toFixed(2)} a dispatch`);
console.log(
  `as many empty dispatches: ${spread((step) => step.floor).text(0)} us; ratio of the same token ${spread((step) => step.encode / step.floor).text(2)}`,
);
await runtime[Symbol.asyncDispose]();
device.destroy();
