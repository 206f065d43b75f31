import { library } from '../../tsup.shared.ts';

const config: ReturnType<typeof library> = library();
export default config;
