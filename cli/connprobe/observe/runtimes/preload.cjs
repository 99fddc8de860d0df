'use strict';
// Required by NODE_OPTIONS in every Node process that a server consists of, and in its worker threads. On a
// unix socket, in a directory of connprobe's, each answers the byte "g" with its heap after a full collection,
// any other with the heap as it is: one line of JSON. It may not keep the process alive, say anything or
// throw: what fails here leaves the process without an answer, and connprobe says so.
const COLLECT = 'g'.charCodeAt(0);
const HELPER = /^(npm|npx|yarn|yarnpkg|pnpm|pnpx|corepack)(-cli)?(\.[cm]?js)?$/;
const MOST_THREADS = 64; // a program may start a thread for each of its jobs
const O_PATH = 0o10000000; // fs.constants has none; the directory may be entered and not read
const { isMainThread, threadId } = require('worker_threads');

let threads = 0; // worker threads that this one has started, and that run
process.on('worker', (worker) => {
  threads++;
  worker.once('exit', () => threads--);
});

const collect = (then) => {
  const { Session } = require('inspector');
  const session = new Session();
  session.connect();
  const restore = require('./heap.cjs').guardless();
  session.post('HeapProfiler.collectGarbage', (error) => {
    restore();
    // Later: V8 calls back with a lock held that disconnect() takes too.
    setImmediate(() => {
      session.disconnect();
      then(error);
    });
  });
};

const serve = (socket) => {
  const answer = (error) => {
    try {
      if (error) throw error;
      socket.end(JSON.stringify({ ...require('./heap.cjs').heap(), threads }) + '\n');
    } catch {
      socket.destroy();
    }
  };
  socket.unref();
  socket.on('error', () => {});
  socket.once('data', (asked) => {
    try {
      if (asked[0] === COLLECT) collect(answer);
      else answer();
    } catch {
      socket.destroy();
    }
  });
};

const listen = (directory) => {
  const fs = require('fs');
  const server = require('net').createServer(serve);
  server.on('error', () => {});
  const name = isMainThread ? process.pid : `${process.pid}-${threadId}`;
  // Through a descriptor: the path of a unix socket ends at 107 bytes. exclusive: not by a cluster's primary.
  const opened = fs.openSync(directory, fs.constants.O_DIRECTORY | O_PATH);
  try {
    server.listen({ path: `/proc/self/fd/${opened}/${name}`, exclusive: true });
  } finally {
    fs.closeSync(opened);
  }
  server.unref();
};

try {
  const directory = process.env.CONNPROBE_HEAP_SOCKETS;
  const helper = HELPER.test(require('path').basename(process.argv[1] || ''));
  const other = process.versions.electron; // its V8 aborts when a flag is set
  if (directory && !helper && !other && threadId <= MOST_THREADS) listen(directory);
} catch {}
