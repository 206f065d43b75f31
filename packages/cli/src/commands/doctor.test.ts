import { expect, it, vi } from 'vitest';
import type { Context } from '../context.ts';
import { type DoctorReport, doctorCommand } from './doctor.ts';

it('says why the native backend is missing, and how it is had', async () => {
  vi.stubEnv('LOWBIT_CPU_ADDON', '/nowhere/lowbit_cpu.node');
  vi.stubEnv('HF_HUB_OFFLINE', '1');
  const reports: DoctorReport[] = [];
  const context: Partial<Context> = {
    json: true,
    signal: new AbortController().signal,
    emit: async (value) => void reports.push(value as DoctorReport),
  };
  try {
    await doctorCommand(context as Context);
  } finally {
    vi.unstubAllEnvs();
  }
  const [native, reference] = reports[0]!.findings;
  expect(native).toMatchObject({ name: 'backend cpu', state: 'missing', facts: 'the addon of @lowbit/kernels-cpu could not be loaded' });
  expect(native!.remedy).toContain('--backend cpu');
  expect(reference).toMatchObject({ name: 'backend reference', state: 'good', remedy: null });
});
