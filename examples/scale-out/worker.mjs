// A worker: takes shards from the queue until it is told to stop, or killed. Start as many as there are machines.
//
//   REDIS_URL=redis://host:6379 node worker.mjs

import { Worker } from 'bullmq';
import { isLowbitError, quantizeModelShard } from 'lowbit';
import { connection, QUEUE, settings } from './job.mjs';

/** A worker that does not speak for so long counts as dead, and its shard is given to another. */
const lockDuration = Number(process.env.LOCK_MS ?? 30_000);

const stop = new AbortController();
const worker = new Worker(
  QUEUE,
  async (job) => {
    const { model, out, index, count } = job.data;
    const shard = { index, count };
    let told = -1;
    const report = await quantizeModelShard(model, {
      ...settings,
      out,
      shard,
      signal: stop.signal,
      onProgress({ done, total }) {
        const percent = Math.floor((100 * done) / total);
        if (percent === told) return;
        told = percent;
        console.log(`shard ${index}/${count}: ${percent} %`);
      },
    });
    return { linears: report.linears.length, resumed: report.resumed };
  },
  // Killed workers are expected: a shard that they leave is done again however often it takes. It goes on where it was.
  { connection, lockDuration, stalledInterval: lockDuration, maxStalledCount: 1_000 },
);
worker.on('failed', (job, error) => {
  console.log(`shard ${job?.data.index}/${job?.data.count} failed: ${isLowbitError(error) ? error.code : ''} ${error.message}`);
});
worker.on('error', (error) => console.error(error.message));

// What is finished of a shard is kept, and the job goes back to the queue.
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    stop.abort();
    await worker.close();
  });
}
console.log('ready');
