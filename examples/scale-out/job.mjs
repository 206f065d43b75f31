// What queue and workers agree on.

import { nf4 } from 'lowbit';

export const QUEUE = 'lowbit-shards';

const { REDIS_URL = 'redis://127.0.0.1:6379' } = process.env;
const { hostname, port, username, password } = new URL(REDIS_URL);
/** Workers wait for Redis as long as it takes. */
export const connection = { host: hostname, port: Number(port || 6379), username, password, maxRetriesPerRequest: null };

/** The same for all shards of a model; it could as well come with each job. */
export const settings = { quantizer: nf4({ doubleQuant: true }), shardSize: '1MB' };
