/*
 * The floor of a server: the least that still is one. It upgrades (or answers GET), answers pings, and
 * closes when the peer does, with one byte of state per connection.
 *
 *   server PORT PROCESSES [ws|http]
 *
 * Beyond MOST_PROCESSES the descriptors of each belong to a thread of its own, as those of the client do: whoever
 * looks through /proc/PID/fd of all processes finds none of the connections there.
 *
 * Takes for granted what a load generator on loopback does: a request, and every frame, arrives in one
 * read. What breaks that, or any other rule, is closed.
 */
#define _GNU_SOURCE
#include "accept_key.h"
#include "common.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FRESH, UPGRADED };
enum { CLOSE = 0x88, PING = 0x89, PONG = 0x8a };

#define MASKED 0x80
#define MASK_LENGTH 4
#define LONGEST_CONTROL 125
#define ACCEPTS_PER_WAKEUP 256

static const char OK[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
static const char SWITCHING[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
				"Connection: Upgrade\r\nSec-WebSocket-Accept: ";

static bool http;
static unsigned char *state;

static bool send_all(int fd, const void *bytes, size_t length)
{
	return send(fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length;
}

static bool upgrade(int fd, const char *request)
{
	static const char name[] = "\r\nSec-WebSocket-Key:";
	const char *key = strcasestr(request, name);
	if (!key)
		return false;
	key += strlen(name);
	key += strspn(key, " \t");
	if (strcspn(key, " \t\r") != KEY_LENGTH)
		return false;

	char answer[sizeof SWITCHING - 1 + ACCEPT_LENGTH + 4];
	memcpy(answer, SWITCHING, sizeof SWITCHING - 1);
	accept_key(key, answer + sizeof SWITCHING - 1);
	memcpy(answer + sizeof answer - 4, "\r\n\r\n", 4);
	state[fd] = UPGRADED;
	return send_all(fd, answer, sizeof answer);
}

/* Pings are answered, other short frames ignored; false for a close, or what RFC 6455 forbids. */
static bool answer_frames(int fd, const unsigned char *in, size_t length)
{
	unsigned char out[4096]; /* a pong is shorter than its ping: what was read always fits */
	size_t out_length = 0;
	while (length) {
		if (length < 2 || in[0] == CLOSE || !(in[1] & MASKED))
			return false;
		size_t size = in[1] & ~MASKED, frame = 2 + MASK_LENGTH + size;
		if (size > LONGEST_CONTROL || length < frame)
			return false;
		if (in[0] == PING) {
			const unsigned char *mask = in + 2, *payload = mask + MASK_LENGTH;
			out[out_length++] = PONG;
			out[out_length++] = (unsigned char)size;
			for (size_t i = 0; i < size; i++)
				out[out_length++] = payload[i] ^ mask[i % MASK_LENGTH];
		}
		in += frame, length -= frame;
	}
	return !out_length || send_all(fd, out, out_length);
}

/* False when the connection is over. */
static bool serve_one(int fd)
{
	char in[4096];
	ssize_t length = read(fd, in, sizeof in - 1);
	if (length < 0)
		return errno == EAGAIN;
	if (length == 0)
		return false;
	if (state[fd] == UPGRADED)
		return answer_frames(fd, (unsigned char *)in, (size_t)length);
	in[length] = 0;
	if (length < 4 || memcmp(in + length - 4, "\r\n\r\n", 4))
		return false;
	return http ? send_all(fd, OK, sizeof OK - 1) : upgrade(fd, in);
}

static void watch(int epoll, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
}

static void accept_some(int epoll, int listener)
{
	for (int i = 0; i < ACCEPTS_PER_WAKEUP; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
		if (fd < 0) {
			if (errno == EAGAIN)
				return;
			if (errno == ECONNABORTED)
				continue;
			die(errno == EMFILE ? "accept4 (start more PROCESSES)" : "accept4");
		}
		state[fd] = FRESH;
		watch(epoll, fd);
	}
}

_Noreturn static void serve(int listener)
{
	struct epoll_event events[EVENTS];
	int epoll = epoll_create1(0);
	if (epoll < 0)
		die("epoll_create1");
	watch(epoll, listener);
	for (;;) {
		int ready = epoll_wait(epoll, events, EVENTS, -1);
		if (ready < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < ready; i++) {
			int fd = events[i].data.fd;
			if (fd == listener)
				accept_some(epoll, listener);
			else if (!serve_one(fd))
				close(fd);
		}
	}
}

/* With descriptors that its process does not have. */
static void *serve_apart(void *of_listener)
{
	if (unshare(CLONE_FILES))
		die("unshare");
	serve(*(const int *)of_listener);
}

static int listen_on(int port)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (fd < 0)
		die("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one))
		die("setsockopt");
	if (bind(fd, (struct sockaddr *)&address, sizeof address))
		die("bind");
	if (listen(fd, 65535)) /* clamped to net.core.somaxconn */
		die("listen");
	return fd;
}

int main(int argc, char **argv)
{
	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: server PORT PROCESSES [ws|http]\n");
		return 2;
	}
	int port = number("PORT", argv[1], 1, 65535);
	int processes = number("PROCESSES", argv[2], 1, 1000);
	http = is_http(argc, argv, 3);

	if (prctl(PR_SET_PDEATHSIG, SIGTERM))
		die("prctl");
	state = calloc((size_t)raise_nofile(), 1);
	int *listeners = calloc((size_t)processes, sizeof *listeners);
	if (!state || !listeners)
		die("calloc");

	/* All listeners before the first connection: a listener that joins a SO_REUSEPORT group later
	 * changes which one a handshake under way belongs to, and that handshake is reset. */
	for (int i = 0; i < processes; i++)
		listeners[i] = listen_on(port);
	pid_t parent = getpid();
	for (int i = 0; i < processes; i++) {
		pid_t child = fork();
		if (child < 0)
			die("fork");
		if (child > 0)
			continue;
		if (prctl(PR_SET_PDEATHSIG, SIGTERM) || getppid() != parent)
			_exit(1);
		for (int other = 0; other < processes; other++)
			if (other != i)
				close(listeners[other]);
		pthread_t thread;
		if (processes <= MOST_PROCESSES)
			serve(listeners[i]);
		if ((errno = pthread_create(&thread, NULL, serve_apart, &listeners[i])) ||
		    (errno = pthread_join(thread, NULL)))
			die("thread");
	}
	/* A listener that stays open here would be served by nobody once its process is gone. */
	for (int i = 0; i < processes; i++)
		close(listeners[i]);
	fprintf(stderr, "listening on 127.0.0.1:%d\n", port);
	wait(NULL); /* none ends unless it failed, and the others follow this process */
	return 1;
}
