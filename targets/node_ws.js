// A WebSocket echo server in Node alone (RFC 6455). An idle connection keeps its socket and a small state.
// With a certificate and its key, over TLS.
'use strict';
const { isUtf8 } = require('node:buffer');
const cluster = require('node:cluster');
const { createHash } = require('node:crypto');
const { readFileSync } = require('node:fs');
const http = require('node:http');

const [address, port, workers, certificate, key] = process.argv.slice(2);
const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10;
const MOST_BYTES = 1 << 20; // of a message
const MOST_FRAGMENTS = 1024;
const MOST_CONTROL_BYTES = 125;
const CLOSING_MS = 10000; // for the peer to close after a close frame
const NORMAL = 1000, PROTOCOL_ERROR = 1002, INVALID_DATA = 1007, TOO_BIG = 1009;

class Violation extends Error {
  constructor(code) {
    super(`close code ${code}`);
    this.code = code;
  }
}

function frame(opcode, payload) {
  const size = payload.length;
  const extra = size < 126 ? 0 : size < 65536 ? 2 : 8;
  const head = Buffer.alloc(2 + extra);
  head[0] = 0x80 | opcode;
  head[1] = extra === 0 ? size : extra === 2 ? 126 : 127;
  if (extra === 2) head.writeUInt16BE(size, 2);
  if (extra === 8) head.writeBigUInt64BE(BigInt(size), 2);
  return Buffer.concat([head, payload]);
}

function closeFrame(code) {
  const payload = Buffer.alloc(2);
  payload.writeUInt16BE(code);
  return frame(CLOSE, payload);
}

// The codes that a peer may send: RFC 6455, section 7.4, and the registry.
function mayBeSent(code) {
  return (code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)) || (code >= 3000 && code <= 4999);
}

class Connection {
  constructor(socket) {
    this.socket = socket;
    this.rest = null; // of a frame that came in part
    this.opcode = 0; // of a message that came in part
    this.fragments = null;
    this.size = 0;
  }

  feed(data) {
    if (!this.socket.writable) return; // behind a close frame nothing counts
    let left = this.rest === null ? data : Buffer.concat([this.rest, data]);
    this.rest = null;
    while (left.length > 0 && this.socket.writable) {
      const taken = this.frame(left);
      if (taken === 0) break;
      left = left.subarray(taken);
    }
    // A copy: what was read may be 64 kB of which this is the last byte.
    if (left.length > 0 && this.socket.writable) this.rest = Buffer.from(left);
  }

  // Takes one frame from the front: its bytes, or 0 where it is not complete.
  frame(data) {
    if (data.length < 2) return 0;
    const fin = (data[0] & 0x80) !== 0;
    const opcode = data[0] & 0x0f;
    if ((data[0] & 0x70) !== 0 || (data[1] & 0x80) === 0) throw new Violation(PROTOCOL_ERROR);
    let size = data[1] & 0x7f;
    let at = 2;
    if (opcode >= CLOSE && (!fin || size > MOST_CONTROL_BYTES)) throw new Violation(PROTOCOL_ERROR);
    if (size === 126) {
      if (data.length < 4) return 0;
      size = data.readUInt16BE(2);
      at = 4;
      if (size < 126) throw new Violation(PROTOCOL_ERROR);
    } else if (size === 127) {
      if (data.length < 10) return 0;
      const long = data.readBigUInt64BE(2);
      if (long < 65536n || long >> 63n) throw new Violation(PROTOCOL_ERROR);
      if (long > MOST_BYTES) throw new Violation(TOO_BIG);
      size = Number(long);
      at = 10;
    }
    if (opcode < CLOSE && this.size + size > MOST_BYTES) throw new Violation(TOO_BIG);
    const end = at + 4 + size;
    if (data.length < end) return 0;
    const payload = Buffer.allocUnsafe(size);
    for (let i = 0; i < size; i++) payload[i] = data[at + 4 + i] ^ data[at + (i & 3)];
    if (opcode < CLOSE) this.part(opcode, fin, payload);
    else this.control(opcode, payload);
    return end;
  }

  part(opcode, fin, payload) {
    if (opcode > BINARY || (opcode === CONTINUATION) !== (this.fragments !== null)) {
      throw new Violation(PROTOCOL_ERROR);
    }
    if (opcode !== CONTINUATION) this.opcode = opcode;
    if (fin && this.fragments === null) {
      this.message(payload);
      return;
    }
    this.fragments ??= [];
    if (this.fragments.push(payload) > MOST_FRAGMENTS) throw new Violation(TOO_BIG);
    this.size += payload.length;
    if (!fin) return;
    const whole = Buffer.concat(this.fragments);
    this.fragments = null;
    this.size = 0;
    this.message(whole);
  }

  message(payload) {
    if (this.opcode === TEXT && !isUtf8(payload)) throw new Violation(INVALID_DATA);
    this.send(frame(this.opcode, payload));
  }

  control(opcode, payload) {
    if (opcode === PING) this.send(frame(PONG, payload));
    else if (opcode === CLOSE) {
      if (payload.length === 1) throw new Violation(PROTOCOL_ERROR);
      if (payload.length > 1) {
        if (!mayBeSent(payload.readUInt16BE(0))) throw new Violation(PROTOCOL_ERROR);
        if (!isUtf8(payload.subarray(2))) throw new Violation(INVALID_DATA);
      }
      this.end(payload.length > 1 ? payload.readUInt16BE(0) : NORMAL);
    } else if (opcode !== PONG) throw new Violation(PROTOCOL_ERROR);
  }

  // A peer that does not read is not read from either.
  send(data) {
    if (!this.socket.write(data)) this.socket.pause();
  }

  end(code) {
    this.rest = this.fragments = null;
    this.socket.end(closeFrame(code));
    this.socket.setTimeout(CLOSING_MS, () => this.socket.destroy());
  }
}

// The header's tokens: RFC 9110, section 5.6.1.
function lists(header, token) {
  return (header ?? '').split(',').some((each) => each.trim().toLowerCase() === token);
}

function acceptKey(request) {
  const { headers } = request;
  const key = headers['sec-websocket-key'] ?? '';
  const asked =
    request.method === 'GET' &&
    lists(headers.upgrade, 'websocket') &&
    lists(headers.connection, 'upgrade') &&
    headers['sec-websocket-version'] === '13' &&
    /^[A-Za-z0-9+/]{22}==$/.test(key);
  return asked ? createHash('sha1').update(key + GUID).digest('base64') : null;
}

function upgrade(request, socket, head) {
  socket.on('error', () => socket.destroy());
  const accept = acceptKey(request);
  if (accept === null) {
    socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
    return;
  }
  socket.setTimeout(0);
  socket.setNoDelay(true);
  const connection = new Connection(socket);
  const read = (data) => {
    try {
      connection.feed(data);
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      connection.end(error.code);
      socket.resume(); // to its end: bytes left unread would make close() a reset
    }
  };
  socket.write(
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
  );
  socket.on('data', read);
  socket.on('drain', () => socket.resume());
  socket.on('end', () => socket.end());
  if (head.length > 0) read(head);
}

function serve() {
  const refuse = (request, response) => {
    response.writeHead(426, { Upgrade: 'websocket', Connection: 'close' });
    response.end();
  };
  const server = certificate
    ? require('node:https').createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, refuse)
    : http.createServer(refuse);
  server.on('upgrade', upgrade);
  server.listen({ host: address, port: Number(port), backlog: 65535 });
}

if (Number(workers) === 1 || cluster.isWorker) {
  serve();
} else {
  // Of a server that is measured the end of a worker is the end: none is started anew.
  cluster.on('exit', () => process.exit(1));
  process.on('SIGTERM', () => process.exit(0)); // whose workers see the channel close, and exit
  for (let i = 0; i < Number(workers); i++) cluster.fork();
}
