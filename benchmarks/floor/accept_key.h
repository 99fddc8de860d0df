/* Sec-WebSocket-Accept (RFC 6455, section 4.2.2): base64(SHA-1(key + GUID)), for keys of 24 characters. */
#ifndef FLOOR_ACCEPT_KEY_H
#define FLOOR_ACCEPT_KEY_H

#include <stdint.h>
#include <string.h>

#define KEY_LENGTH 24
#define ACCEPT_LENGTH 28
#define ACCEPT_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

static uint32_t rotate_left(uint32_t value, int bits)
{
	return value << bits | value >> (32 - bits);
}

/* One 64-byte block of SHA-1 (RFC 3174, section 6.1). */
static void sha1_block(uint32_t hash[5], const unsigned char *block)
{
	uint32_t w[80];
	for (int t = 0; t < 16; t++)
		w[t] = (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16 |
		       (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3];
	for (int t = 16; t < 80; t++)
		w[t] = rotate_left(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);

	uint32_t a = hash[0], b = hash[1], c = hash[2], d = hash[3], e = hash[4];
	for (int t = 0; t < 80; t++) {
		uint32_t mix = t < 20   ? ((b & c) | (~b & d)) + 0x5a827999
			       : t < 40 ? (b ^ c ^ d) + 0x6ed9eba1
			       : t < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
					: (b ^ c ^ d) + 0xca62c1d6;
		uint32_t next = rotate_left(a, 5) + mix + e + w[t];
		e = d, d = c, c = rotate_left(b, 30), b = a, a = next;
	}
	hash[0] += a, hash[1] += b, hash[2] += c, hash[3] += d, hash[4] += e;
}

static void base64(const unsigned char *bytes, size_t length, char *text)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	for (size_t i = 0; i < length; i += 3) {
		size_t left = length - i;
		uint32_t group = (uint32_t)bytes[i] << 16 | (left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
				 (left > 2 ? bytes[i + 2] : 0);
		*text++ = digits[group >> 18];
		*text++ = digits[group >> 12 & 63];
		*text++ = left > 1 ? digits[group >> 6 & 63] : '=';
		*text++ = left > 2 ? digits[group & 63] : '=';
	}
}

/* Writes ACCEPT_LENGTH characters, without a terminating zero. */
static void accept_key(const char *key, char *text)
{
	uint32_t hash[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
	/* 24 + 36 bytes and their padding fill two blocks. */
	unsigned char message[128] = {0};
	size_t length = KEY_LENGTH + strlen(ACCEPT_GUID);
	memcpy(message, key, KEY_LENGTH);
	memcpy(message + KEY_LENGTH, ACCEPT_GUID, strlen(ACCEPT_GUID));
	message[length] = 0x80;
	message[126] = (unsigned char)(length * 8 >> 8);
	message[127] = (unsigned char)(length * 8);
	sha1_block(hash, message);
	sha1_block(hash, message + 64);

	unsigned char digest[20];
	for (int i = 0; i < 20; i++)
		digest[i] = (unsigned char)(hash[i / 4] >> (24 - 8 * (i % 4)));
	base64(digest, sizeof digest, text);
}

#endif
