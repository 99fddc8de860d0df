/*
 * The floor of a client: what opening and holding connections costs when nothing else is done.
 *
 *   client PORT COUNT CONCURRENCY WORKERS HOLD_S [ws|http]
 *
 * WORKERS processes share COUNT connections to 127.0.0.1:PORT, each from source addresses of its own,
 * with CONCURRENCY handshakes in flight over all of them. Once all are held, prints one line of JSON:
 * count, ramp_s, per_s, workers, pss_bytes (of the workers). The first failure ends it, with exit 1.
 *
 * Beyond MOST_PROCESSES a worker's descriptors belong to a thread of its own, as those of connprobe's do:
 * whoever looks through /proc/PID/fd of all processes meanwhile finds as many of either.
 */
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { NONE, CONNECTING, ASKED, HELD };

#define FIRST_SOURCE 0x7f010001u /* 127.1.0.1 */
#define SOURCES_PER_WORKER 256
/* connect() takes every second port of ip_local_port_range first (14,116 of the default 28,232), and
 * walks through all of those before each later one: the next 5,000 from one address cost 800 us each
 * and more, instead of 20. */
#define PORTS_PER_SOURCE 14000
#define OWN_DESCRIPTORS 16

struct progress {
	_Alignas(64) _Atomic int held; /* a cache line each: the workers share nothing */
	_Atomic int64_t done_ns;       /* when the last one was held; 0 until then */
};

static const char UPGRADE[] = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
			      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
static const char GET[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

static const char *request = UPGRADE, *status = "HTTP/1.1 101";
static size_t request_length = sizeof UPGRADE - 1;
static unsigned char *state;

struct share {
	int index, port, count, concurrency, descriptors, release;
	bool apart;
	struct progress *progress;
};

static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Fails with EAGAIN while the handshake is under way. */
static bool ask(int fd)
{
	ssize_t sent = send(fd, request, request_length, MSG_NOSIGNAL);
	if (sent == (ssize_t)request_length)
		return true;
	if (sent >= 0 || errno != EAGAIN)
		die("send");
	return false;
}

static void open_one(int epoll, uint32_t source, int port)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
	struct sockaddr_in server = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (fd < 0)
		die("socket");
	if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one))
		die("setsockopt");
	if (bind(fd, (struct sockaddr *)&local, sizeof local))
		die("bind");
	if (connect(fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)
		die("connect");
	/* On loopback the handshake is usually over when connect returns, whatever it returned. */
	state[fd] = ask(fd) ? ASKED : CONNECTING;
	struct epoll_event event = {.events = state[fd] == ASKED ? EPOLLIN : EPOLLOUT, .data.fd = fd};
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
}

/* True when this was the answer, and the connection counts as held. */
static bool advance(int epoll, int fd)
{
	if (state[fd] == CONNECTING) {
		struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
		if (!ask(fd))
			return false;
		state[fd] = ASKED;
		if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event))
			die("epoll_ctl");
		return false;
	}
	char answer[4096];
	ssize_t length = read(fd, answer, sizeof answer);
	if (length < 0)
		die("read");
	if (state[fd] != ASKED || (size_t)length < strlen(status) || memcmp(answer, status, strlen(status))) {
		fprintf(stderr, "expected '%s', found %zd other bytes\n", status, length);
		exit(1);
	}
	state[fd] = HELD;
	return true;
}

static void ramp(int index, int port, int count, int concurrency, struct progress *progress)
{
	struct epoll_event events[EVENTS];
	uint32_t first_source = FIRST_SOURCE + (uint32_t)index * SOURCES_PER_WORKER;
	int epoll = epoll_create1(0), started = 0, held = 0;
	if (epoll < 0)
		die("epoll_create1");
	while (held < count) {
		for (; started < count && started - held < concurrency; started++)
			open_one(epoll, first_source + (uint32_t)(started / PORTS_PER_SOURCE), port);
		int ready = epoll_wait(epoll, events, EVENTS, -1);
		if (ready < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < ready; i++)
			held += advance(epoll, events[i].data.fd);
		atomic_store_explicit(&progress->held, held, memory_order_relaxed);
	}
	atomic_store(&progress->done_ns, now_ns());
}

/* By reset: an orderly shutdown first would let the server close before this side does, and where its
 * FIN wins that race (one connection in five) this side is left in TIME_WAIT, in the way of the next run. */
static void close_held(int descriptors)
{
	struct linger reset = {.l_onoff = 1, .l_linger = 0};
	for (int fd = 0; fd < descriptors; fd++) {
		if (state[fd] != HELD)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(fd);
	}
}

/* Until `release` is closed at its other end. */
static void *work(void *of_share)
{
	const struct share *share = of_share;
	char byte;
	if (share->apart && unshare(CLONE_FILES))
		die("unshare");
	ramp(share->index, share->port, share->count, share->concurrency, share->progress);
	if (read(share->release, &byte, 1) < 0)
		die("read");
	close_held(share->descriptors);
	return NULL;
}

static long pss_bytes(pid_t pid)
{
	char path[64], line[256];
	long kilobytes = -1;
	snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
	FILE *file = fopen(path, "r");
	if (!file)
		die(path);
	while (kilobytes < 0 && fgets(line, sizeof line, file))
		if (sscanf(line, "Pss: %ld", &kilobytes) != 1)
			kilobytes = -1;
	fclose(file);
	if (kilobytes < 0) {
		fprintf(stderr, "%s: no Pss line\n", path);
		exit(1);
	}
	return kilobytes * 1024;
}

/* The moment the last worker was done. The workers follow this process when it ends. */
static int64_t wait_for(const struct progress *progress, int workers)
{
	const struct timespec pause = {.tv_nsec = 5000000};
	int64_t last = 0;
	for (int i = 0; i < workers;) {
		int64_t done = atomic_load(&progress[i].done_ns);
		if (done) {
			last = done > last ? done : last;
			i++;
			continue;
		}
		if (waitpid(-1, NULL, WNOHANG)) {
			fprintf(stderr, "a worker ended during the ramp\n");
			exit(1);
		}
		nanosleep(&pause, NULL);
	}
	return last;
}

int main(int argc, char **argv)
{
	if (argc < 6 || argc > 7) {
		fprintf(stderr, "usage: client PORT COUNT CONCURRENCY WORKERS HOLD_S [ws|http]\n");
		return 2;
	}
	int port = number("PORT", argv[1], 1, 65535);
	int count = number("COUNT", argv[2], 1, INT_MAX);
	int concurrency = number("CONCURRENCY", argv[3], 1, INT_MAX);
	int workers = number("WORKERS", argv[4], 1, 1000);
	int hold_s = number("HOLD_S", argv[5], 0, 3600);
	if (is_http(argc, argv, 6))
		request = GET, request_length = sizeof GET - 1, status = "HTTP/1.1 200";

	int descriptors = raise_nofile(), share = (count + workers - 1) / workers;
	if (share > descriptors - OWN_DESCRIPTORS) {
		fprintf(stderr, "%d connections a worker, %d descriptors: start more WORKERS\n", share, descriptors);
		return 2;
	}
	state = calloc((size_t)descriptors, 1);
	struct progress *progress = mmap(NULL, (size_t)workers * sizeof *progress, PROT_READ | PROT_WRITE,
					 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t *pids = calloc((size_t)workers, sizeof *pids);
	int release[2]; /* closed by the parent, and read by the workers, when the hold is over */
	if (!state || !pids || progress == MAP_FAILED || pipe(release))
		die("set-up");
	if (prctl(PR_SET_PDEATHSIG, SIGTERM))
		die("prctl");

	pid_t parent = getpid();
	int64_t start_ns = now_ns();
	for (int i = 0; i < workers; i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			die("fork");
		if (pids[i] > 0)
			continue;
		if (prctl(PR_SET_PDEATHSIG, SIGTERM) || getppid() != parent)
			_exit(1);
		close(release[1]);
		int in_flight = concurrency / workers + (i < concurrency % workers);
		struct share mine = {.index = i,
				     .port = port,
				     .count = count / workers + (i < count % workers),
				     .concurrency = in_flight ? in_flight : 1,
				     .descriptors = descriptors,
				     .release = release[0],
				     .apart = workers > MOST_PROCESSES,
				     .progress = &progress[i]};
		pthread_t thread;
		if (!mine.apart)
			work(&mine);
		else if ((errno = pthread_create(&thread, NULL, work, &mine)) || (errno = pthread_join(thread, NULL)))
			die("thread");
		_exit(0);
	}
	double ramp_s = (double)(wait_for(progress, workers) - start_ns) / 1e9;
	long long pss = 0;
	int held = 0;
	for (int i = 0; i < workers; i++) {
		pss += pss_bytes(pids[i]);
		held += atomic_load(&progress[i].held);
	}
	printf("{\"count\": %d, \"ramp_s\": %.6f, \"per_s\": %.1f, \"workers\": %d, \"pss_bytes\": %lld}\n", held,
	       ramp_s, held / ramp_s, workers, pss);
	fflush(stdout);
	sleep((unsigned)hold_s);

	close(release[1]);
	int failed = 0, worker_status;
	for (int i = 0; i < workers; i++)
		failed |= waitpid(pids[i], &worker_status, 0) < 0 || worker_status;
	return failed;
}
