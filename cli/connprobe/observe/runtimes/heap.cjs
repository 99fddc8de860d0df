'use strict';
// What V8 says of its heap. Run inside the server: by preload.cjs, or through its inspector.
module.exports = () => {
  const v8 = require('v8');
  const spaces = v8.getHeapSpaceStatistics();
  return {
    version: process.version,
    limit: v8.getHeapStatistics().heap_size_limit,
    spaces: Object.fromEntries(spaces.map((space) => [space.space_name, space.space_used_size])),
    flags: [process.env.NODE_OPTIONS || '', ...process.execArgv],
    worker: require('cluster').isWorker,
  };
};
