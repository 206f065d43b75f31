// Runs in a page: the conformance kit on `navigator.gpu`. The test asks for `lowbitKit` and gets what came out.
import { webgpu } from '@lowbit/kernels-webgpu';
import { backendCases, type Outcome, runCases } from '@lowbit/testing';

/** Cases whose group or name is there; a kind of weight brings compilations of seconds on a software adapter. */
async function lowbitKit(groups: readonly string[]): Promise<{ readonly probe: unknown; readonly outcomes: readonly Outcome[] }> {
  const provider = webgpu({ software: true, features: ['subgroups', 'shader-f16'], selfTest: false });
  const probe = await provider.probe();
  if (!probe.ok) return { probe, outcomes: [] };
  const cases = backendCases(provider).filter(({ group, name }) => groups.includes(group) || name === 'after all cases nothing is held');
  return { probe, outcomes: await runCases(cases) };
}

Object.assign(globalThis, { lowbitKit });
