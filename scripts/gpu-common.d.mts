import type { Backend, BackendProvider } from '@lowbit/core';

export declare function onBackend<T>(provider: BackendProvider, use: (backend: Backend) => Promise<T>): Promise<T>;

/** The middle one, of two the higher. */
export function median(values: readonly number[]): number;
