// Puts the shards of a model into the queue, waits for the workers, and merges. It may be killed and run again: a job is in the queue once, by its name.
//
//   REDIS_URL=redis://host:6379 node queue.mjs MODEL OUT COUNT

import { setTimeout } from 'node:timers/promises';
import { Queue } from 'bullmq';
import { mergeShards } from 'lowbit';
import { connection, QUEUE } from './job.mjs';

const [model, out, text] = process.argv.slice(2);
const count = Number(text);
if (model === undefined || out === undefined || !Number.isInteger(count) || count < 1) {
  console.error('usage: node queue.mjs MODEL OUT COUNT');
  process.exit(2);
}

const queue = new Queue(QUEUE, { connection });
try {
  const jobs = await queue.addBulk(
    Array.from({ length: count }, (_, i) => ({
      name: 'shard',
      data: { model, out, index: i + 1, count },
      opts: {
        jobId: `${Buffer.from(out).toString('base64url')}-${i + 1}-of-${count}`,
        // ERR_OUTPUT_EXISTS: the queue took a busy worker for dead, and the shard is still locked. It comes again later.
        attempts: 20,
        backoff: { type: 'fixed', delay: Number(process.env.RETRY_MS ?? 15_000) },
      },
    })),
  );
  for (;;) {
    const states = await Promise.all(jobs.map((job) => job.getState()));
    const failed = jobs[states.indexOf('failed')];
    if (failed !== undefined) {
      const { failedReason } = /** @type {typeof failed} */ (await queue.getJob(/** @type {string} */ (failed.id)));
      throw new Error(`shard ${failed.data.index}/${count} failed: ${failedReason}`);
    }
    const done = states.filter((state) => state === 'completed').length;
    if (done === count) break;
    await setTimeout(500);
  }
  const report = await mergeShards(out);
  console.log(JSON.stringify({ out: report.out, shards: report.shards, weightError: report.weightError }));
  await Promise.all(jobs.map((job) => job.remove()));
} finally {
  await queue.close();
}
