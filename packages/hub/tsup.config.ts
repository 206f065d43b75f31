import type { Options } from 'tsup';
import { library } from '../../tsup.shared.ts';

const base = library() as Options;
const inlined = base.dts as object;
const { browser, ...others } = base.entry as Record<string, string>;
/** The browser's declarations are a file of their own: shared ones would be neither in one entry nor in the other. */
const config: Options[] = [
  { ...base, dts: { ...inlined, entry: others } },
  { ...base, entry: { browser: browser! }, dts: { ...inlined, only: true }, clean: false },
];
export default config;
