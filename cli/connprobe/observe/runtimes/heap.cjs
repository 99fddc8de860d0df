'use strict';
// What V8 says of its heap. Run inside the server: by preload.cjs, or through its inspector.
const GUARD = 'detect-ineffective-gcs-near-heap-limit';

const flags = () => [...(process.env.NODE_OPTIONS || '').split(/\s+/), ...process.execArgv];

exports.heap = () => {
  const v8 = require('v8');
  const { threadId, resourceLimits } = require('worker_threads');
  // Of a worker thread it is this, unless a flag says otherwise.
  const own = threadId ? [`--max-old-space-size=${Math.floor(resourceLimits.maxOldGenerationSizeMb)}`] : [];
  const spaces = v8.getHeapSpaceStatistics();
  return {
    version: process.version,
    limit: v8.getHeapStatistics().heap_size_limit,
    spaces: Object.fromEntries(spaces.map((space) => [space.space_name, space.space_used_size])),
    flags: [...own, ...flags()].filter((flag) => /^"?--max[-_]/.test(flag)),
    worker: require('cluster').isWorker,
    thread: threadId,
  };
};

// V8 ends a process whose collections free little above 80 % of its limit, after four in a row. Those that we
// ask for are not the program's, and may not be counted. Returns what switches the guard on again.
exports.guardless = () => {
  const v8 = require('v8');
  if (flags().some((flag) => flag.replace(/_/g, '-').includes(`--no-${GUARD}`))) return () => {};
  v8.setFlagsFromString(`--no-${GUARD}`);
  return () => v8.setFlagsFromString(`--${GUARD}`);
};
