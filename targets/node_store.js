// The server of the 2011 article, in Node of today: it keeps the request and the response of every connection,
// in an array or in an object, and never answers. GET /message sends a message to all of them.
'use strict';
const http = require('node:http');

const [address, port, shape] = process.argv.slice(2);
const MESSAGE = 'connprobe\n';

// The last entry takes the place of the one that goes: splice() would move all that follow it.
function arrayStore() {
  const entries = [];
  return {
    add(entry) {
      entry.place = entries.push(entry) - 1;
    },
    remove(entry) {
      const last = entries.pop();
      if (last !== entry) {
        entries[entry.place] = last;
        last.place = entry.place;
      }
    },
    entries: () => entries,
    count: () => entries.length,
  };
}

function objectStore() {
  const entries = {};
  let next = 0;
  let count = 0;
  return {
    add(entry) {
      entry.place = next++;
      entries[entry.place] = entry;
      count++;
    },
    remove(entry) {
      delete entries[entry.place];
      count--;
    },
    entries: () => Object.values(entries),
    count: () => count,
  };
}

const store = { array: arrayStore, object: objectStore }[shape]();

const server = http.createServer((request, response) => {
  if (request.url === '/message') {
    for (const each of store.entries()) each.response.write(MESSAGE);
    response.end(`${store.count()}\n`);
    return;
  }
  const entry = { request, response, place: 0 };
  store.add(entry);
  request.socket.on('close', () => store.remove(entry));
});
server.listen({ host: address, port: Number(port), backlog: 65535 });
