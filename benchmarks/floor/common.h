/* What the floor's client and server share: how they fail, and how many descriptors they may open. */
#ifndef FLOOR_COMMON_H
#define FLOOR_COMMON_H

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define EVENTS 1024
#define MOST_DESCRIPTORS (1 << 20)
#define MOST_PROCESSES 8 /* with descriptors of their own: as plan/hold.py has it */

_Noreturn static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static int number(const char *name, const char *text, int least, int most)
{
	char *end;
	errno = 0;
	long value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < least || value > most) {
		fprintf(stderr, "%s: expected %d to %d, found '%s'\n", name, least, most, text);
		exit(2);
	}
	return (int)value;
}

/* "ws" or "http", the optional last argument; ws when it is absent. */
static int is_http(int argc, char **argv, int index)
{
	if (argc <= index || !strcmp(argv[index], "ws"))
		return 0;
	if (strcmp(argv[index], "http")) {
		fprintf(stderr, "protocol: expected ws or http, found '%s'\n", argv[index]);
		exit(2);
	}
	return 1;
}

/* Raises the soft limit as far as it goes without a privilege, and returns it. */
static int raise_nofile(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit))
		die("getrlimit");
	limit.rlim_cur = limit.rlim_max < MOST_DESCRIPTORS ? limit.rlim_max : MOST_DESCRIPTORS;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		die("setrlimit RLIMIT_NOFILE");
	return (int)limit.rlim_cur;
}

#endif
