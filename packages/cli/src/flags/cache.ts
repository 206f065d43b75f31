// Flags of `lowbit cache`.

import type { Command } from 'commander';
import type { RemoveCachedOptions } from '../commands/cache.ts';
import type { CommonOptions } from '../context.ts';
import { type Start, verb } from './common.ts';

export function addCache(program: Command, start: Start): void {
  const list = async (options: CommonOptions): Promise<void> => {
    const context = start(options);
    const { listCacheCommand } = await import('../commands/cache.ts');
    await listCacheCommand(context);
  };
  const cache = verb(program, 'cache', 'list what is kept on disk: models of the Hub, and the packed weights of the native backend')
    .addHelpText(
      'after',
      '\nModels: HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub, shared with Python.\nPacked weights: LOWBIT_CACHE or the cache folder of the system, at most LOWBIT_CACHE_SIZE or 20GiB; LOWBIT_CACHE=off keeps none.',
    )
    .action(list);
  verb(cache, 'ls', 'the same').action((_options: unknown, command: Command) => list(command.optsWithGlobals<CommonOptions>()));
  verb(cache, 'rm', 'remove downloaded models (ORG/NAME), or packed weights; what is needed again is fetched or packed again')
    .argument('[names...]', 'ORG/NAME of downloaded models; names of packed ones, beginnings of names, or model folders')
    .option('-a, --all', 'all packed weights; downloaded models have to be named')
    .option('-y, --yes', 'do not ask')
    .action(async (names: string[], _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<RemoveCachedOptions>();
      const context = start(options);
      const { removeCachedCommand } = await import('../commands/cache.ts');
      await removeCachedCommand(names, options, context);
    });
}
